"""Kernels on layers of useful size: what the tools inspect, check, measure and tune."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pjax_kernels as pk
from benchmarks.measure import naive

Array = np.ndarray
Generator = np.random.Generator

ROOT = 92
"""Operations of a bilinear root in the common case."""


class Goal(NamedTuple):
    """That one time of a case is at least so many times another one."""

    slower: str
    """"floor", or an implementation."""
    faster: str
    times: float


class Case(NamedTuple):
    """A call of a kernel, and the least a machine must do for it."""

    call: Callable[..., Any]
    """Takes the arrays and the keywords ``implementation`` and ``increments``: return changes, not new values."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the arrays, which are float32."""
    arrays: Callable[[Generator], tuple[Array, ...]]
    size: int
    """Bytes: every input read once, every output written once."""
    flops: int = 0
    """Of the matrix products."""
    precision: str = "highest"
    """Of these."""
    updated: tuple[int, ...] = ()
    """Positions of the arrays that the first outputs replace, in place."""
    operations: int = 0
    """All floating-point operations, as the catalogue counts them."""
    implementations: tuple[str, ...] = ("triton", "xla")
    """That are timed; the first is checked."""
    goals: tuple[Goal, ...] = ()


AT_COPY_BANDWIDTH = Goal("floor", "triton", 0.85)
LEFT_TO_XLA = Goal("floor", "xla", 0.85)
"""As fast as a kernel of its own could be, but for what fusion with a neighbour would save."""
NO_SLOWER_THAN_XLA = Goal("xla", "triton", 1.0)
FASTER_THAN_SORT = Goal("reference", "triton", 10.0)
"""The reference sorts."""


def rows_of_copies(rows: int, length: int, far: int = 0) -> Case:
    """``project_bilinear`` with random residuals, most of them small; ``far`` of the roots are far."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        a, b = rng.standard_normal((2, rows, length), np.float32)
        scaled = 0.02 * rng.standard_normal(rows, np.float32)
        scaled[:far] += 3
        return a, b, np.sum(a * b, axis=1) + scaled * (1 + np.sum(a * a + b * b, axis=1))

    return dot_products_of_copies(rows, length, arrays)


def dot_products_of_copies(rows: int, length: int, arrays: Callable[[Generator], tuple[Array, ...]]) -> Case:
    """``project_bilinear`` of so many rows."""
    shapes = (rows, length), (rows, length), (rows,)
    size, operations = 4 * 2 * rows * (2 * length + 1), rows * (11 * length + ROOT)
    return Case(pk.project_bilinear, shapes, arrays, size, operations=operations, goals=(AT_COPY_BANDWIDTH,))


TRAINED, BATCH, STEPS = (784, 32, 10), 64, 10


@functools.cache
def copies_in_training() -> naive.Copies:
    """What Douglas-Rachford projects onto the dot products some steps after the initialisation, every copy stored."""
    rng = np.random.default_rng(0)
    shapes = zip(TRAINED[:-1], TRAINED[1:], strict=True)
    weights = [jnp.asarray(rng.standard_normal(shape) * (2 / shape[0]) ** 0.5, jnp.float32) for shape in shapes]
    x = jnp.asarray(rng.uniform(size=(BATCH, TRAINED[0])), jnp.float32)
    y = jnp.eye(TRAINED[-1])[rng.integers(TRAINED[-1], size=BATCH)]
    state = naive.init(weights, [jnp.zeros(size) for size in TRAINED[1:-1]], x)
    step = jax.jit(lambda state: naive.douglas_rachford(state, x, y, naive.cross_entropy))
    for _ in range(STEPS):
        state = step(state)
    return naive.reflect(naive.project_a(state.copies, x, y, naive.cross_entropy), state.copies)


def rows_in_training(layer: int) -> Case:
    """``project_bilinear`` of the copies of a layer as training comes by them."""
    length, width = TRAINED[layer : layer + 2]

    def arrays(_: Generator) -> tuple[Array, ...]:
        copies = copies_in_training()
        a, b = (np.asarray(slot[layer]).reshape(-1, length) for slot in (copies.inputs, copies.weights))
        return a, b, np.asarray(copies.outputs[layer]).reshape(-1)

    return dot_products_of_copies(BATCH * width, length, arrays)


def thresholds(*shape: int, axis: int) -> Case:
    """``project_threshold`` of arrays of this shape, few of whose margins are reached, by the signs they have."""
    length, functions = shape[axis], shape[:axis] + shape[axis:][1:]
    kernel = partial(pk.project_threshold, margin=2 * math.sqrt(length), axis=axis)
    case = elementwise(kernel, (shape, shape, functions), math.prod(functions) * (13 * length + 2 * ROOT))

    def arrays(rng: Generator) -> tuple[Array, ...]:
        """Without functions to whose two signs it is equally far, where rounding would choose."""
        a, b, z = case.arrays(rng)
        return a, b, np.copysign(z, np.sum(a * b, axis=axis))

    return case._replace(arrays=arrays, implementations=("triton", "xla"), goals=(AT_COPY_BANDWIDTH,))


def threshold_layer(batch: int, length: int, width: int) -> Case:
    """``project_threshold_dense``."""
    kernel = partial(pk.project_threshold_dense, margin=1.25)
    shapes = (batch, length), (length, width), (batch, width)
    case = elementwise(kernel, shapes, batch * width * (6 * length + 2 * ROOT))
    return case._replace(implementations=("triton", "xla"), goals=(NO_SLOWER_THAN_XLA,))


def layer_with_deviations(batch: int, length: int, width: int) -> Case:
    """A step of Douglas-Rachford on a dense layer with all its copies."""

    def call(*arrays: Any, increments: bool = False, **options: Any) -> pk.DenseCopies:
        del increments  # the means are changes, and the deviations are what they are
        return pk.project_dense_copies(*arrays, scale=(-1.0, -1.0), keep=(0.4, 0.4), gain=(0.6, 0.6), **options)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        x, w, z = dense_layer(rng, batch, length, width)
        u, v = 0.1 * rng.standard_normal((2, batch, width, length), np.float32)
        return x, w, u, v, z

    copies = (batch, width, length)
    shapes = (batch, length), (length, width), copies, copies, (batch, width)
    size = 2 * 4 * (2 * batch * width * length + batch * length + length * width + batch * width)
    operations = batch * width * (24 * length + ROOT)
    return Case(call, shapes, arrays, size, updated=(2, 3), operations=operations, goals=(AT_COPY_BANDWIDTH,))


def layer_in_consensus(batch: int, length: int, width: int, precision: str = "highest") -> Case:
    """``project_dense`` with products of this precision."""
    shapes = (batch, length), (length, width), (batch, width)
    return Case(
        call=partial(pk.project_dense, precision=precision),
        shapes=shapes,
        arrays=lambda rng: dense_layer(rng, batch, length, width),
        size=2 * 4 * (batch * length + length * width + batch * width),
        flops=6 * batch * length * width,
        precision=precision,
        operations=batch * width * (6 * length + ROOT),
        goals=(NO_SLOWER_THAN_XLA,),
    )


def whole_layer(batch: int, length: int, width: int) -> Case:
    """``project_layer`` of a matrix product by its default rule: products as of back-propagation."""
    shapes = (batch, length), (length, width), (batch, width)
    return Case(
        call=partial(pk.project_layer, jnp.matmul),
        shapes=shapes,
        arrays=lambda rng: dense_layer(rng, batch, length, width),
        size=2 * 4 * (batch * length + length * width + batch * width),
        flops=6 * batch * length * width,
        operations=6 * batch * width * length,
    )


def dense_layer(rng: Generator, batch: int, length: int, width: int) -> tuple[Array, Array, Array]:
    """``x``, ``w`` and ``z`` with residuals as in training."""
    x = rng.standard_normal((batch, length), np.float32)
    w = rng.standard_normal((length, width), np.float32)
    scale = 1 + np.sum(x * x, axis=1)[:, None] + np.sum(w * w, axis=0)
    return x, w, x @ w + 0.02 * rng.standard_normal((batch, width), np.float32) * scale


def layer_in_factored_form(
    batch: int,
    length: int,
    width: int,
    history: int,
    precision: str = "highest",
    kernel: Callable[..., Any] | None = None,
) -> Case:
    """``project_dense_factored`` as in a step of Douglas-Rachford with so many terms for the inputs and the weights.

    Another ``kernel`` for its arguments may take its place.
    """
    project = kernel or partial(pk.project_dense_factored, precision=precision)
    operands = 1 + history
    count = 2 * operands

    def call(*arrays: Any, increments: bool = False, **options: Any) -> tuple[Any, ...]:
        del increments  # there is nothing else
        x, w, z = arrays[:operands], arrays[operands:count], arrays[-1]
        u_x, u_w, v_x, v_w = (arrays[i : i + history] for i in range(count, len(arrays) - 1, history))
        first = 0.0 if "residual" in options else 1.0  # which is known of the first operands
        u, v = ((first, *u_x), (0.0, *u_w)), ((0.0, *v_x), (first, *v_w))
        found = project(x, w, u, v, z, **options)
        return *jax.tree.leaves((found.u, found.v)), found.x_mean, found.w_mean, found.z_change

    shapes = (
        *[(batch, length)] * operands,
        *[(length, width)] * operands,
        *[(batch, width)] * (4 * history + 1),
    )

    def arrays(rng: Generator) -> tuple[Array, ...]:
        """The copies are little more than the first input and the first weights."""
        x, w, z = dense_layer(rng, batch, length, width)
        x_terms = rng.standard_normal((history, batch, length), np.float32)
        w_terms = rng.standard_normal((history, length, width), np.float32)
        coefficients = 0.01 * rng.standard_normal((4 * history, batch, width), np.float32)
        return x, *x_terms, w, *w_terms, *coefficients, z

    sizes = operands * (batch + width) * length + (4 * history + 1) * batch * width
    new_sizes = (batch + width) * length + (2 * count + 1) * batch * width
    return Case(
        call,
        shapes,
        arrays,
        size=4 * (sizes + new_sizes),
        flops=2 * (operands**2 + count) * batch * length * width,
        precision=precision,
        operations=batch * width * (2 * (operands**2 + count) * length + 9 * count**2 + ROOT),
    )


def recurrence(batch: int, steps: int, inputs: int, hidden: int, precision: str = "highest") -> Case:
    """``project_recurrence`` of as many outputs as there are hidden units."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        rows, columns, z = dense_layer(rng, batch * steps, inputs + hidden, hidden)
        x, h = np.split(rows.reshape(batch, steps, inputs + hidden), [inputs], axis=2)
        w_x, w_h = np.split(columns, [inputs])
        return x, h, w_x, w_h, z.reshape(batch, steps, hidden)

    shapes = (batch, steps, inputs), (batch, steps, hidden), (inputs, hidden), (hidden, hidden), (batch, steps, hidden)
    return Case(
        call=partial(pk.project_recurrence, precision=precision),
        shapes=shapes,
        arrays=arrays,
        size=2 * 4 * sum(map(math.prod, shapes)),
        flops=6 * batch * steps * (inputs + hidden) * hidden,
        precision=precision,
        operations=batch * steps * hidden * (6 * (inputs + hidden) + ROOT),
    )


def equal_layers(layers: int, batch: int, length: int, width: int, precision: str) -> Case:
    """``project_dense`` of several layers at once, which is one launch."""
    one = layer_in_consensus(batch, length, width, precision)

    def call(*arrays: Any, **options: Any) -> Any:
        return jax.vmap(partial(one.call, **options))(*arrays)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        several = [one.arrays(rng) for _ in range(layers)]
        x, w, z = (np.stack(parts) for parts in zip(*several, strict=True))
        return x, w, z

    shapes = tuple((layers, *shape) for shape in one.shapes)
    operations = layers * one.operations
    return Case(call, shapes, arrays, layers * one.size, layers * one.flops, precision, operations=operations)


def rows_of_entries(rows: int, length: int, kernel: Callable[..., Any] = pk.project_max) -> Case:
    """``project_max`` or ``project_min`` over the last axis."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return rng.standard_normal((rows, length), np.float32), rng.standard_normal(rows, np.float32)

    size, operations = 2 * 4 * rows * (length + 1), 48 * rows * length
    return Case(kernel, ((rows, length), (rows,)), arrays, size, operations=operations)


def windows_of_images(batch: int, size: int, channels: int, window: int) -> Case:
    """``project_max_pool`` of square images in square windows, side by side."""
    x, z = (batch, size, size, channels), (batch, size // window, size // window, channels)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return rng.standard_normal(x, np.float32), 1 + rng.standard_normal(z, np.float32)

    pool = partial(pk.project_max_pool, window=(window, window))
    size = 2 * 4 * (math.prod(x) + math.prod(z))
    operations = 48 * window * window * math.prod(z)
    implementations = "triton", "xla", "reference"
    return Case(
        pool, (x, z), arrays, size, implementations=implementations, operations=operations, goals=(FASTER_THAN_SORT,)
    )


def layer_as_factored_map(batch: int, length: int, width: int) -> Case:
    """A step of Douglas-Rachford that keeps one earlier projection, by ``project_bilinear_map_factored``."""
    case = layer_in_factored_form(
        batch, length, width, history=1, kernel=partial(pk.project_bilinear_map_factored, jnp.matmul)
    )
    return case._replace(operations=batch * width * (40 * length + 144 + ROOT))


def attention_scores(batch: int, heads: int, length: int, depth: int) -> Case:
    """``project_bilinear_map`` of queries times keys."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        queries, keys = rng.standard_normal((2, batch, heads, length, depth), np.float32)
        return queries, keys, scores(queries, keys) + rng.standard_normal((batch, heads, length, length), np.float32)

    operand, outputs = (batch, heads, length, depth), batch * heads * length * length
    return Case(
        call=partial(pk.project_bilinear_map, scores),
        shapes=(operand, operand, (batch, heads, length, length)),
        arrays=arrays,
        size=2 * 4 * (2 * math.prod(operand) + outputs),
        flops=6 * outputs * depth,
        operations=outputs * (14 * depth + ROOT),
    )


def scores(queries: Any, keys: Any) -> Any:
    """The bilinear map of attention."""
    return queries @ keys.swapaxes(-1, -2)


def images_and_filters(batch: int, size: int, channels: int, width: int) -> Case:
    """``project_conv2d`` of square images with 3 x 3 filters, none of which meets padding."""
    x, w, z = (batch, size, size, channels), (3, 3, channels, width), (batch, size - 2, size - 2, width)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return tuple(rng.standard_normal(shape, np.float32) for shape in (x, w, z))

    entries = 9 * channels
    return Case(
        call=pk.project_conv2d,
        shapes=(x, w, z),
        arrays=arrays,
        size=2 * 4 * sum(map(math.prod, (x, w, z))),
        flops=6 * math.prod(z) * entries,
        operations=math.prod(z) * (6 * entries + ROOT),
    )


def elementwise(call: Callable[..., Any], shapes: Sequence[tuple[int, ...]], operations: int) -> Case:
    """A projection that is left to XLA, on normally distributed arrays, all of which it changes."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)

    size = 2 * 4 * sum(map(math.prod, shapes))
    return Case(
        call, tuple(shapes), arrays, size, operations=operations, implementations=("xla",), goals=(LEFT_TO_XLA,)
    )


def sums(kernel: Callable[..., Any], batch: int, width: int) -> Case:
    """``project_sum`` or ``project_sum_relu`` of a layer's products and its bias."""

    def call(x: Any, bias: Any, z: Any, **keywords: Any) -> Any:
        (new_x, new_bias), new_z = kernel((x, bias), z, **keywords)
        return new_x, new_bias, new_z

    an_element = 5 if kernel is pk.project_sum else 12
    return elementwise(call, ((batch, width), (width,), (batch, width)), an_element * batch * width)


def rows_to_sum(rows: int, length: int) -> Case:
    """``project_sum_over`` the last axis."""
    return elementwise(partial(pk.project_sum_over, axis=-1), ((rows, length), (rows,)), 2 * rows * length)


def rounded(batch: int, width: int, levels: int) -> Case:
    """``project_quantize`` of a layer."""
    kernel = partial(pk.project_quantize, levels=levels, scale=1.0)
    return elementwise(kernel, ((batch, width), (batch, width)), 50 * batch * width)


def of_one_shape(kernel: Callable[..., Any], batch: int, width: int, an_element: int) -> Case:
    """A projection of ``x`` and ``z`` of one shape."""
    return elementwise(kernel, ((batch, width), (batch, width)), an_element * batch * width)


def function_of_elements(f: str, values: Callable[[Array], Array], batch: int, width: int, far: int) -> Case:
    """``project_elementwise`` of small residuals, as below the first layers in training, of which some are far."""
    case = of_one_shape(partial(pk.project_elementwise, f), batch, width, 100)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        x, residual = rng.standard_normal((2, batch, width), np.float32)
        z = values(x) + 0.01 * residual
        z.reshape(-1)[rng.permutation(z.size)[:far]] += 3
        return x, z

    return case._replace(arrays=arrays)


def averages(batch: int, size: int, channels: int) -> Case:
    """``project_average_pool`` of images in windows of 2 x 2."""
    kernel = partial(pk.project_average_pool, window=(1, 2, 2, 1))
    shapes = (batch, size, size, channels), (batch, size // 2, size // 2, channels)
    return elementwise(kernel, shapes, 4 * math.prod(shapes[0]))


def predictions(kernel: Callable[..., Any], batch: int, width: int, an_element: int) -> Case:
    """A proximal operator of an error: the target stays."""

    def call(prediction: Any, target: Any, **keywords: Any) -> Any:
        return (kernel(prediction, target, **keywords),)

    return of_one_shape(call, batch, width, an_element)._replace(size=3 * 4 * batch * width)


def in_box(batch: int, width: int) -> Case:
    """``project_box`` between two numbers."""

    def call(value: Any, **keywords: Any) -> Any:
        return (pk.project_box(value, -0.5, 0.5, **keywords),)

    return elementwise(call, ((batch, width),), 5 * batch * width)


def in_set(kernel: Callable[..., Any], *shape: int, an_element: int) -> Case:
    """The projection of an array onto a set."""

    def call(value: Any, **keywords: Any) -> Any:
        return (kernel(value, **keywords),)

    return elementwise(call, (shape,), an_element * math.prod(shape))


def logits_and_labels(kernel: Callable[..., Any], batch: int, classes: int) -> Case:
    """``project_margin`` or ``prox_cross_entropy``."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        labels = np.eye(classes, dtype=np.float32)[rng.integers(classes, size=batch)]
        return 3 * rng.standard_normal((batch, classes), np.float32), labels

    def call(logits: Any, labels: Any, **keywords: Any) -> Any:
        return (kernel(logits, labels, **keywords),)

    case = elementwise(
        call, ((batch, classes), (batch, classes)), (3 if kernel is pk.project_margin else 100) * batch * classes
    )
    return case._replace(arrays=arrays, size=3 * 4 * batch * classes)  # labels stay


def with_residual(case: Case, output: Callable[..., Array], saved: int = 0) -> Case:
    """The same where what ``z`` has beyond an ``output`` of the other arrays is known: so many operations less."""

    def call(*arrays: Any, **options: Any) -> Any:
        return case.call(*arrays[:-1], residual=arrays[-1], **options)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        *inputs, z = case.arrays(rng)
        residual = z - output(*(array.astype(np.float64) for array in inputs))
        return *inputs, z, residual.astype(np.float32)

    return case._replace(
        call=call,
        shapes=(*case.shapes, case.shapes[-1]),
        arrays=arrays,
        size=case.size + 4 * math.prod(case.shapes[-1]),
        flops=max(case.flops - saved, 0),
        operations=case.operations - saved,
    )


PRECISIONS = ("highest", "high", "default")

RESIDUAL_CASES = {
    "bilinear 65536 x 784, residual": with_residual(rows_of_copies(65536, 784), lambda a, b: np.sum(a * b, axis=1)),
    "bilinear 2048 x 20000, residual": with_residual(rows_of_copies(2048, 20000), lambda a, b: np.sum(a * b, axis=1)),
    "max 65536 x 784, residual": with_residual(rows_of_entries(65536, 784), lambda x: np.max(x, axis=1)),
    "max pool 256 x 56 x 56 x 64, 2 x 2, residual": with_residual(
        windows_of_images(256, 56, 64, 2), lambda x: np.max(x.reshape(256, 28, 2, 28, 2, 64), axis=(2, 4))
    ),
    "dense copies 256 x 784 x 256, residual": with_residual(
        layer_with_deviations(256, 784, 256), lambda x, w, *_: x @ w
    ),
    "dense 256 x 784 x 256, residual": with_residual(
        layer_in_consensus(256, 784, 256), np.matmul, saved=2 * 256 * 784 * 256
    ),
    **{
        f"factored 256 x 784 x 256, history 1, {precision}, residual": with_residual(
            layer_in_factored_form(256, 784, 256, 1, precision), lambda *arrays: arrays[0] @ arrays[2]
        )
        for precision in ("highest", "high")
    },
}
"""Kernels as algorithms that hold changes call them; a recurrence is a dense layer to its kernel."""

TRITON_CASES = {
    "bilinear 65536 x 784": rows_of_copies(65536, 784),
    "bilinear 1048576 x 32": rows_of_copies(1048576, 32),
    "bilinear 2048 x 20000": rows_of_copies(2048, 20000),
    "threshold 65536 x 784": thresholds(65536, 784, axis=1),
    "threshold 13 x 65536 x 16, axis 0": thresholds(13, 65536, 16, axis=0),
    "threshold 2048 x 20000": thresholds(2048, 20000, axis=1),
    "threshold layer 256 x 784 x 256": threshold_layer(256, 784, 256),
    "max 65536 x 784": rows_of_entries(65536, 784),
    "max pool 256 x 56 x 56 x 64, 2 x 2": windows_of_images(256, 56, 64, 2),
    "dense copies 256 x 784 x 256": layer_with_deviations(256, 784, 256),
    **{
        f"dense {batch} x {length} x {width}, {precision}": layer_in_consensus(batch, length, width, precision)
        for batch, length, width in ((256, 784, 256), (4096, 4096, 4096))
        for precision in PRECISIONS
    },
    "dense, 8 layers of 256 x 784 x 256, high": equal_layers(8, 256, 784, 256, "high"),
    **{
        f"factored 256 x 784 x 256, history 3, {precision}": layer_in_factored_form(256, 784, 256, 3, precision)
        for precision in PRECISIONS
    },
    "factored 256 x 784 x 256, history 1, highest": layer_in_factored_form(256, 784, 256, 1, "highest"),
    **{
        f"recurrence 64 x 64 x (256 + 512) x 512, {precision}": recurrence(64, 64, 256, 512, precision)
        for precision in PRECISIONS
    },
    **RESIDUAL_CASES,
}
"""With a Triton kernel."""

CASES = TRITON_CASES | {
    "sum relu 16384 x 1024": sums(pk.project_sum_relu, 16384, 1024),
    "quantize 16384 x 1024, 4 levels": rounded(16384, 1024, 4),
    "margin 65536 x 256": logits_and_labels(pk.project_margin, 65536, 256),
}

ODD_CASES = {
    "bilinear 37 x 129": rows_of_copies(37, 129),
    "bilinear 3 x 5001": rows_of_copies(3, 5001),
    "threshold 37 x 129": thresholds(37, 129, axis=1),
    "threshold 3 x 5001": thresholds(3, 5001, axis=1),
    "threshold 13 x 37 x 5, axis 0": thresholds(13, 37, 5, axis=0),
    "threshold 3 x 1001 x 19, axis 1": thresholds(3, 1001, 19, axis=1),
    "threshold layer 67 x 129 x 131": threshold_layer(67, 129, 131),
    "max 37 x 129": rows_of_entries(37, 129),
    "max pool 3 x 10 x 10 x 5, 3 x 3": windows_of_images(3, 10, 5, 3),
    "dense copies 37 x 129 x 19": layer_with_deviations(37, 129, 19),
    **{f"dense 67 x 129 x 131, {precision}": layer_in_consensus(67, 129, 131, precision) for precision in PRECISIONS},
    "dense, 3 layers of 37 x 129 x 19, high": equal_layers(3, 37, 129, 19, "high"),
    "factored 37 x 129 x 67, history 1, highest": layer_in_factored_form(37, 129, 67, 1, "highest"),
    "factored 37 x 129 x 67, history 2, high": layer_in_factored_form(37, 129, 67, 2, "high"),
    "recurrence 3 x 11 x (37 + 19) x 19, high": recurrence(3, 11, 37, 19, "high"),
}
"""Small, of no multiples of anything: for correctness alone."""

BENCHMARKS = {
    "project_bilinear": {
        "1024 x 32": rows_of_copies(1024, 32),
        "1024 x 32, 10 far": rows_of_copies(1024, 32, far=10),
        "8192 x 784, 80 far": rows_of_copies(8192, 784, far=80),
        "2048 x 784, first layer in training": rows_in_training(0),
        "640 x 32, output layer in training": rows_in_training(1),
        "8192 x 784": rows_of_copies(8192, 784),
    },
    "project_dense": {
        "32 x 64 x 32": layer_in_consensus(32, 64, 32),
        "256 x 784 x 256": layer_in_consensus(256, 784, 256),
        "512 x 1024 x 512": layer_in_consensus(512, 1024, 512),
    },
    "project_layer": {
        "32 x 64 x 32": whole_layer(32, 64, 32),
        "256 x 784 x 256": whole_layer(256, 784, 256),
    },
    "project_dense_copies": {
        "32 x 64 x 32": layer_with_deviations(32, 64, 32),
        "64 x 784 x 64": layer_with_deviations(64, 784, 64),
    },
    "project_dense_factored": {
        "32 x 64 x 32": layer_in_factored_form(32, 64, 32, history=1),
        "128 x 784 x 128": layer_in_factored_form(128, 784, 128, history=1),
    },
    "project_bilinear_map": {
        "1 x 2 x 8 x 4": attention_scores(1, 2, 8, 4),
        "4 x 8 x 128 x 64": attention_scores(4, 8, 128, 64),
    },
    "project_bilinear_map_factored": {
        "4 x 8 x 4": layer_as_factored_map(4, 8, 4),
        "128 x 784 x 128": layer_as_factored_map(128, 784, 128),
    },
    "project_conv2d": {
        "2 x 8 x 8, 3 -> 4": images_and_filters(2, 8, 3, 4),
        "64 x 28 x 28, 1 -> 16": images_and_filters(64, 28, 1, 16),
        "32 x 28 x 28, 16 -> 32": images_and_filters(32, 28, 16, 32),
    },
    "project_recurrence": {
        "4 x 8 steps, 8 -> 16": recurrence(4, 8, 8, 16),
        "32 x 64 steps, 64 -> 128": recurrence(32, 64, 64, 128),
    },
    "project_sum": {
        "32 x 32": sums(pk.project_sum, 32, 32),
        "4096 x 1024": sums(pk.project_sum, 4096, 1024),
    },
    "project_sum_over": {
        "32 x 32": rows_to_sum(32, 32),
        "4096 x 1024": rows_to_sum(4096, 1024),
    },
    "project_sum_relu": {
        "32 x 32": sums(pk.project_sum_relu, 32, 32),
        "4096 x 1024": sums(pk.project_sum_relu, 4096, 1024),
    },
    "project_max": {
        "32 x 32": rows_of_entries(32, 32),
        "2048 x 784": rows_of_entries(2048, 784),
    },
    "project_max_pool": {
        "2 x 8 x 8 x 4, 2 x 2": windows_of_images(2, 8, 4, 2),
        "64 x 28 x 28 x 32, 2 x 2": windows_of_images(64, 28, 32, 2),
    },
    "project_quantize": {
        "32 x 32, 4 levels": rounded(32, 32, 4),
        "2048 x 1024, 4 levels": rounded(2048, 1024, 4),
    },
    "project_threshold": {
        "5 x 64 x 16": thresholds(5, 64, 16, axis=0),
        "13 x 4096 x 16": thresholds(13, 4096, 16, axis=0),
    },
    "project_threshold_dense": {
        "32 x 64 x 32": threshold_layer(32, 64, 32),
        "256 x 512 x 256": threshold_layer(256, 512, 256),
    },
    "project_affine": {
        f"{batch} x {width}": of_one_shape(partial(pk.project_affine, scale=2.0), batch, width, 6)
        for batch, width in ((32, 32), (4096, 1024))
    },
    "project_average_pool": {
        "2 x 8 x 8 x 4, 2 x 2": averages(2, 8, 4),
        "64 x 28 x 28 x 32, 2 x 2": averages(64, 28, 32),
    },
    "project_elementwise": {
        "tanh, 32 x 32": of_one_shape(partial(pk.project_elementwise, "tanh"), 32, 32, 100),
        "tanh, 256 x 1024, none far": function_of_elements("tanh", np.tanh, 256, 1024, far=0),
        "tanh, 256 x 1024, 100 far": function_of_elements("tanh", np.tanh, 256, 1024, far=100),
        "tanh, 256 x 1024": of_one_shape(partial(pk.project_elementwise, "tanh"), 256, 1024, 100),
    },
    "project_min": {
        "32 x 32": rows_of_entries(32, 32, pk.project_min),
        "2048 x 784": rows_of_entries(2048, 784, pk.project_min),
    },
    "project_normalize": {
        f"{batch} x {width}": of_one_shape(pk.project_normalize, batch, width, 40)
        for batch, width in ((32, 32), (2048, 784))
    },
    "prox_squared_error": {
        f"{batch} x {width}": predictions(pk.prox_squared_error, batch, width, 4)
        for batch, width in ((256, 10), (4096, 1024))
    },
    "prox_absolute_error": {
        f"{batch} x {width}": predictions(pk.prox_absolute_error, batch, width, 3)
        for batch, width in ((256, 10), (4096, 1024))
    },
    "project_box": {"256 x 10": in_box(256, 10), "4096 x 1024": in_box(4096, 1024)},
    "project_sphere": {
        f"{rows} x {width}": in_set(pk.project_sphere, rows, width, an_element=4)
        for rows, width in ((256, 10), (4096, 1024))
    },
    "project_levels": {
        f"{rows} x {width}": in_set(partial(pk.project_levels, levels=(-1, 0, 1)), rows, width, an_element=6)
        for rows, width in ((256, 10), (4096, 1024))
    },
    "project_sparse": {
        f"{rows} x {width}": in_set(partial(pk.project_sparse, count=width // 10), rows, width, an_element=64)
        for rows, width in ((256, 10), (4096, 1024))
    },
    "project_one_hot": {
        f"{rows} x {width}": in_set(pk.project_one_hot, rows, width, an_element=2)
        for rows, width in ((256, 10), (4096, 1024))
    },
    "project_simplex": {
        f"{rows} x {width}": in_set(pk.project_simplex, rows, width, an_element=16)
        for rows, width in ((256, 10), (4096, 1024))
    },
    "project_orthonormal": {
        f"{rows} x {columns}": in_set(pk.project_orthonormal, rows, columns, an_element=10 * columns)
        for rows, columns in ((256, 10), (1024, 128))
    },
    "project_margin": {
        "256 x 10": logits_and_labels(pk.project_margin, 256, 10),
        "8192 x 1000": logits_and_labels(pk.project_margin, 8192, 1000),
    },
    "prox_cross_entropy": {
        "256 x 10": logits_and_labels(pk.prox_cross_entropy, 256, 10),
        "2048 x 1000": logits_and_labels(pk.prox_cross_entropy, 2048, 1000),
    },
}
"""For each public kernel calls to time, from small to large.  The reference, which stores copies, gets the first."""
