"""Kernels on layers of useful size: what the tools inspect, measure and tune on GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import pjax_kernels as pk

Array = np.ndarray
Generator = np.random.Generator


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
    implementations: tuple[str, ...] = ("triton", "xla")
    """That are timed; the first is checked."""
    goals: tuple[Goal, ...] = ()


AT_COPY_BANDWIDTH = Goal("floor", "triton", 0.85)
LEFT_TO_XLA = Goal("floor", "xla", 0.85)
"""As fast as a kernel of its own could be, but for what fusion with a neighbour would save."""
NO_SLOWER_THAN_XLA = Goal("xla", "triton", 1.0)
FASTER_THAN_SORT = Goal("reference", "triton", 10.0)
"""The reference sorts."""


def rows_of_copies(rows: int, length: int) -> Case:
    """``project_bilinear`` with residuals as in training: small, some of them not."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        a, b = rng.standard_normal((2, rows, length), np.float32)
        residual = 0.02 * rng.standard_normal(rows, np.float32) * (1 + np.sum(a * a + b * b, axis=1))
        return a, b, np.sum(a * b, axis=1) + residual

    shapes = (rows, length), (rows, length), (rows,)
    size = 4 * 2 * rows * (2 * length + 1)
    return Case(pk.project_bilinear, shapes, arrays, size, goals=(AT_COPY_BANDWIDTH,))


def layer_with_deviations(batch: int, length: int, width: int) -> Case:
    """A step of Douglas-Rachford on a dense layer with all its copies."""

    def call(*arrays: Any, implementation: str | None, increments: bool = False) -> pk.DenseCopies:
        del increments  # the means are changes, and the deviations are what they are
        return pk.project_dense_copies(
            *arrays, scale=(-1.0, -1.0), keep=(0.4, 0.4), gain=(0.6, 0.6), implementation=implementation
        )

    def arrays(rng: Generator) -> tuple[Array, ...]:
        x, w, z = dense_layer(rng, batch, length, width)
        u, v = 0.1 * rng.standard_normal((2, batch, width, length), np.float32)
        return x, w, u, v, z

    copies = (batch, width, length)
    shapes = (batch, length), (length, width), copies, copies, (batch, width)
    size = 2 * 4 * (2 * batch * width * length + batch * length + length * width + batch * width)
    return Case(call, shapes, arrays, size, updated=(2, 3), goals=(AT_COPY_BANDWIDTH,))


def layer_in_consensus(batch: int, length: int, width: int, precision: str) -> Case:
    """``project_dense`` with products of this precision."""
    shapes = (batch, length), (length, width), (batch, width)
    return Case(
        call=partial(pk.project_dense, precision=precision),
        shapes=shapes,
        arrays=lambda rng: dense_layer(rng, batch, length, width),
        size=2 * 4 * (batch * length + length * width + batch * width),
        flops=6 * batch * length * width,
        precision=precision,
        goals=(NO_SLOWER_THAN_XLA,),
    )


def dense_layer(rng: Generator, batch: int, length: int, width: int) -> tuple[Array, Array, Array]:
    """``x``, ``w`` and ``z`` with residuals as in training."""
    x = rng.standard_normal((batch, length), np.float32)
    w = rng.standard_normal((length, width), np.float32)
    scale = 1 + np.sum(x * x, axis=1)[:, None] + np.sum(w * w, axis=0)
    return x, w, x @ w + 0.02 * rng.standard_normal((batch, width), np.float32) * scale


def layer_in_factored_form(batch: int, length: int, width: int, history: int, precision: str) -> Case:
    """``project_dense_factored`` as in a step of Douglas-Rachford with so many terms for the inputs and the weights."""
    operands = 1 + history
    count = 2 * operands

    def call(*arrays: Any, implementation: str | None, increments: bool = False) -> tuple[Any, ...]:
        del increments  # there is nothing else
        x, w, z = arrays[:operands], arrays[operands:count], arrays[-1]
        u_x, u_w, v_x, v_w = (arrays[i : i + history] for i in range(count, len(arrays) - 1, history))
        u, v = ((1.0, *u_x), (0.0, *u_w)), ((0.0, *v_x), (1.0, *v_w))
        found = pk.project_dense_factored(x, w, u, v, z, precision=precision, implementation=implementation)
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
    )


def recurrence(batch: int, steps: int, inputs: int, hidden: int, precision: str) -> Case:
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
    return Case(call, shapes, arrays, layers * one.size, layers * one.flops, precision)


def rows_of_entries(rows: int, length: int) -> Case:
    """``project_max`` over the last axis."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return rng.standard_normal((rows, length), np.float32), rng.standard_normal(rows, np.float32)

    return Case(pk.project_max, ((rows, length), (rows,)), arrays, size=2 * 4 * rows * (length + 1))


def windows_of_images(batch: int, size: int, channels: int, window: int) -> Case:
    """``project_max_pool`` of square images in square windows, side by side."""
    x, z = (batch, size, size, channels), (batch, size // window, size // window, channels)

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return rng.standard_normal(x, np.float32), 1 + rng.standard_normal(z, np.float32)

    pool = partial(pk.project_max_pool, window=(window, window))
    size = 2 * 4 * (math.prod(x) + math.prod(z))
    implementations = "triton", "xla", "reference"
    return Case(pool, (x, z), arrays, size, implementations=implementations, goals=(FASTER_THAN_SORT,))


def hidden_layer(batch: int, width: int) -> Case:
    """``project_sum_relu`` of a matrix product's results and a bias."""

    def call(x: Any, bias: Any, z: Any, **options: Any) -> tuple[Any, ...]:
        (new_x, new_bias), new_z = pk.project_sum_relu((x, bias), z, **options)
        return new_x, new_bias, new_z

    return elementwise(call, (batch, width), (width,), (batch, width))


def elementwise(call: Callable[..., Any], *shapes: tuple[int, ...], outputs: int | None = None) -> Case:
    """A projection that is left to XLA, with as many ``outputs`` as arrays, or only of the first of them."""

    def arrays(rng: Generator) -> tuple[Array, ...]:
        return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)

    size = 4 * sum(map(math.prod, (*shapes, *shapes[:outputs])))
    return Case(call, shapes, arrays, size, implementations=("xla",), goals=(LEFT_TO_XLA,))


def margin_of(logits: Any, labels: Any, **options: Any) -> tuple[Any, ...]:
    """``project_margin``, with labels that are not negative."""
    return (pk.project_margin(logits, abs(labels), **options),)


PRECISIONS = ("highest", "high", "default")

TRITON_CASES = {
    "bilinear 65536 x 784": rows_of_copies(65536, 784),
    "bilinear 1048576 x 32": rows_of_copies(1048576, 32),
    "bilinear 2048 x 20000": rows_of_copies(2048, 20000),
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
}
"""With a Triton kernel."""

CASES = TRITON_CASES | {
    "sum relu 16384 x 1024": hidden_layer(16384, 1024),
    "quantize 16384 x 1024, 4 levels": elementwise(
        partial(pk.project_quantize, levels=4, scale=1.0), (16384, 1024), (16384, 1024)
    ),
    "margin 65536 x 256": elementwise(margin_of, (65536, 256), (65536, 256), outputs=1),
}

ODD_CASES = {
    "bilinear 37 x 129": rows_of_copies(37, 129),
    "bilinear 3 x 5001": rows_of_copies(3, 5001),
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
