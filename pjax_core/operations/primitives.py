"""The operations of this package, each declared in one place."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.operations.convolutions import spread_convolution
from pjax_core.operations.primitive import Batching, Bilinear, Primitive, bilinear
from pjax_kernels import compose

# Dot products.


def _project_dot(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    a, b = inputs
    a_change, b_change, z_change = pk.project_bilinear(a, b, output, increments=True)
    return (a_change, b_change), output + z_change


dot = Primitive("dot", forward=lambda a, b: jnp.sum(a * b, axis=-1), project=_project_dot)


@jax.jit  # traced once for all layers of one shape
def _project_matmul(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    x, w = inputs
    x_change, w_change, z_change = pk.project_dense(x, w, output, increments=True)
    return (x_change, w_change), output + z_change


def _dot_products(x: Array, w: Array) -> tuple[Array, Array]:
    """Each dot product with its own row of ``x`` and column of ``w``."""
    copies = (x.shape[0], w.shape[1], x.shape[1])
    return jnp.broadcast_to(x[:, None, :], copies), jnp.broadcast_to(w.T[None, :, :], copies)


def _squared_norms(x: Array, w: Array) -> tuple[Array, Array]:
    """Of the rows of ``x`` and the columns of ``w``."""
    return jnp.sum(x * x, axis=1)[:, None], jnp.sum(w * w, axis=0)


matmul = Primitive(
    "matmul",
    forward=jnp.matmul,
    project=_project_matmul,
    spread=_dot_products,
    copywise=dot,
    bilinear=Bilinear(((0,), (1,)), pk.project_dense_factored, _squared_norms, pk.project_dense_copies),
    batching=Batching.ROWS,
    project_in_place=compose.project_dense_in_place,
)


def _spread_einsum(a: Array, b: Array, *, equation: str) -> tuple[Array, Array]:
    """Each dot product of an einsum along the last axis."""
    left, output = equation.split("->")
    labels = left.split(",")
    sizes = dict(zip("".join(labels), (*a.shape, *b.shape), strict=True))
    contracted = "".join(label for label in sizes if label not in output)
    shape = tuple(sizes[label] for label in output + contracted)

    def laid_out(array: Array, own: str) -> Array:
        kept = "".join(label for label in output + contracted if label in own)
        array = jnp.einsum(f"{own}->{kept}", array)  # the diagonal of a repeated label
        array = array.reshape([sizes[label] if label in own else 1 for label in output + contracted])
        return jnp.broadcast_to(array, shape).reshape(*shape[: len(output)], -1)

    return laid_out(a, labels[0]), laid_out(b, labels[1])


einsum = bilinear(
    "einsum",
    lambda a, b, *, equation: jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST),
    spread=_spread_einsum,
)


def _spread_multiply(a: Array, b: Array) -> tuple[Array, ...]:
    """Each product along a last axis of length 1."""
    return tuple(array[..., None] for array in jnp.broadcast_arrays(a, b))


multiply = bilinear("multiply", jnp.multiply, spread=_spread_multiply, batching=Batching.BROADCAST)


def _project_divide(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    """The same set as that of ``output * divisor = dividend``."""
    dividend, divisor = (jnp.broadcast_to(x, output.shape) for x in inputs)
    z_change, divisor_change, dividend_change = pk.project_bilinear(
        output[..., None], divisor[..., None], dividend, increments=True
    )
    changes = (dividend_change, divisor_change[..., 0])
    return tuple(map(_mean_of_copies, inputs, changes)), output + z_change[..., 0]


def _mean_of_copies(x: Array, change: Array) -> Array:
    """The mean over the copies of each element of what broadcasts."""
    if x.shape == change.shape:
        return change
    (total,) = jax.linear_transpose(lambda a: jnp.broadcast_to(a, change.shape), jnp.zeros(x.shape, change.dtype))(
        change
    )
    return total * (x.size / change.size)


divide = Primitive(
    "divide",
    forward=jnp.divide,
    project=_project_divide,
    spread=lambda *inputs, **_: tuple(jnp.broadcast_arrays(*inputs)),
    batching=Batching.BROADCAST,
)


def _windows(x: Array, window: tuple[int, int], strides: tuple[int, int], padding: Any) -> Array:
    """The windows of padded images: ``(B, H', W', window size, C)``, zero where there is padding."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    lengths = [
        (size - extent) // stride + 1 for size, extent, stride in zip(padded.shape[1:3], window, strides, strict=True)
    ]
    entries = []
    for offset in itertools.product(*map(range, window)):
        places = [
            slice(start, start + (length - 1) * stride + 1, stride)
            for start, length, stride in zip(offset, lengths, strides, strict=True)
        ]
        entries.append(padded[:, places[0], places[1]])
    return jnp.stack(entries, axis=3)


def _spread_convolution(x: Array, w: Array, *, strides: tuple[int, int], padding: Any) -> tuple[Array, Array]:
    """Each dot product of a convolution along the last axis, zero where a window has padding."""
    window, filters = (w.shape[0], w.shape[1]), w.shape[3]
    entries = _windows(x, window, strides, padding)
    inside = _windows(jnp.ones((1, *x.shape[1:3], 1), w.dtype), window, strides, padding)
    rows = entries.reshape(*entries.shape[:3], 1, -1)
    columns = inside[..., None] * w.reshape(-1, *w.shape[2:])  # (1, H', W', window size, C, K)
    columns = jnp.moveaxis(columns, -1, 3).reshape(1, *entries.shape[1:3], filters, -1)
    shape = (*entries.shape[:3], filters, rows.shape[-1])
    return jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape)


def _project_convolution(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    x, w = inputs
    x_change, w_change, z_change = pk.project_conv2d(x, w, output, increments=True, **settings)
    return (x_change, w_change), output + z_change


conv2d = bilinear(
    "conv2d", compose.conv2d, spread=_spread_convolution, project=_project_convolution, batching=Batching.ROWS
)


def _convolution_of_any_kind(x: Array, w: Array, *, settings: tuple[tuple[str, Any], ...]) -> Array:
    x, w = (array.astype(jnp.result_type(x, w)) for array in (x, w))
    return lax.conv_general_dilated(x, w, precision=lax.Precision.HIGHEST, **dict(settings))


convolution_of_any_kind = bilinear("convolution", _convolution_of_any_kind, spread=spread_convolution)


def _recurrence_products(x: Array, h: Array, w_x: Array, w_h: Array) -> Array:
    """``x w_x + h w_h``."""
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return product(x, w_x) + product(h, w_h)


def _project_recurrence(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    x, h, w_x, w_h = inputs
    *changes, z_change = pk.project_recurrence(x, h, w_x, w_h, output, increments=True)
    return tuple(changes), output + z_change


def _spread_recurrence(x: Array, h: Array, w_x: Array, w_h: Array) -> tuple[Array, ...]:
    """Each dot product of a recurrence along the last axis."""

    def rows(array: Array) -> Array:
        return jnp.broadcast_to(array[..., None, :], (*array.shape[:-1], w_x.shape[1], array.shape[-1]))

    def columns(array: Array) -> Array:
        return jnp.broadcast_to(array.T, (*x.shape[:-1], *array.T.shape))

    return rows(x), rows(h), columns(w_x), columns(w_h)


recurrence = bilinear(
    "recurrence",
    _recurrence_products,
    sides=((0, 1), (2, 3)),
    spread=_spread_recurrence,
    project=_project_recurrence,
    batching=Batching.EACH,
)

# Sums.


def _broadcast(*inputs: Array, **_: Any) -> tuple[Array, ...]:
    """Each element of an input enters every element of the output that it broadcasts to."""
    return tuple(jnp.broadcast_arrays(*inputs))


def _total(*inputs: Array) -> Array:
    return jnp.asarray(sum(inputs))


def _project_sum(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    changes, output_change = pk.project_sum(inputs, output, increments=True)
    return changes, output + output_change


add = Primitive("sum", forward=_total, project=_project_sum, spread=_broadcast, batching=Batching.BROADCAST)
identity = Primitive("identity", forward=_total, project=_project_sum, spread=_broadcast, batching=Batching.BROADCAST)


def _signed_total(*inputs: Array, coefficients: tuple[float, ...]) -> Array:
    return _total(*(c * x for x, c in zip(inputs, coefficients, strict=True)))


def _project_signed_sum(
    inputs: tuple[Array, ...], output: Array, *, coefficients: tuple[float, ...]
) -> tuple[tuple[Array, ...], Array]:
    changes, output_change = pk.project_sum(inputs, output, coefficients=coefficients, increments=True)
    return changes, output + output_change


signed_sum = Primitive("signed_sum", _signed_total, _project_signed_sum, spread=_broadcast, batching=Batching.BROADCAST)
"""``z = c_1 x_1 + ... + c_n x_n``; setting ``coefficients``, one number for each input: differences, negations."""


def _project_sum_over(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    (x,) = inputs
    change, output_change = pk.project_sum_over(x, output, increments=True, **settings)
    return (change,), output + output_change


def _sum_over(x: Array, *, axis: tuple[int, ...], factor: float = 1.0) -> Array:
    total = jnp.sum(x, axis)
    return total if factor == 1 else factor * total


sum_over = Primitive("sum over axes", forward=_sum_over, project=_project_sum_over)
"""``z = factor sum(x)`` over ``axis``; the mean for a ``factor`` of 1/n."""


def _project_affine(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    x, scale, offset = inputs
    change, output_change = pk.project_affine(x, output, scale=scale, offset=offset, increments=True)
    return (change,), output + output_change


affine = Primitive("affine", lambda x, scale, offset: scale * x + offset, _project_affine, moving=1)
"""``z = scale x + offset``; ``scale`` and ``offset`` are data, of shapes that broadcast to that of ``x``."""


def _average_pool(x: Array, **settings: Any) -> Array:
    placed = _windows_of(**settings)
    zero = np.zeros((), x.dtype)  # known, or JAX would not see that this is a sum, which has a transpose
    sums = lax.reduce_window(x, zero, lax.add, placed.size, placed.strides, placed.padding)
    return sums * jnp.asarray(placed.factors, x.dtype)


def _windows_of(
    *, size: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], padding: Any, factor: float | None
) -> compose.WindowsOfArray:
    return compose.place_windows(size, window, strides, padding, factor)


def _project_average_pool(
    inputs: tuple[Array, ...], output: Array, *, size: Any, **settings: Any
) -> tuple[tuple[Array, ...], Array]:
    del size
    change, output_change = pk.project_average_pool(inputs[0], output, increments=True, **settings)
    return (change,), output + output_change


def _normal_of_windows(dtype: Any, **settings: Any) -> Array:
    """What each entry of windows laid out counts, 0 where there is padding."""
    placed = _windows_of(**settings)
    return placed.spread(jnp.ones(settings["size"], dtype)) * jnp.asarray(placed.factors, dtype)[..., None]


def _project_windows_average(
    inputs: tuple[Array, ...], output: Array, **settings: Any
) -> tuple[tuple[Array, ...], Array]:
    (windows,) = inputs
    normal = _normal_of_windows(windows.dtype, **settings)
    share = (output - jnp.sum(normal * windows, -1)) / (1 + jnp.sum(normal**2, -1))
    return (normal * share[..., None],), output - share


average_pool = Primitive(
    "average_pool",
    _average_pool,
    _project_average_pool,
    spread=lambda x, **settings: (_windows_of(**settings).spread(x),),
    copywise=Primitive(
        "windows",
        lambda x, **settings: jnp.sum(_normal_of_windows(x.dtype, **settings) * x, -1),
        _project_windows_average,
    ),
    uneven=True,
)
"""``z = factor (sum of a window)``, the mean for None; settings those of :func:`pjax_kernels.project_average_pool`,
``padding`` as pairs, and ``size``, the shape of ``x``."""


def _project_sum_relu(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    changes, output_change = pk.project_sum_relu(inputs, output, increments=True)
    for x, change in zip(inputs, changes, strict=True):
        if x.shape == output.shape:
            # All inputs move by the same amount, so the new output follows from them, and has no rounding of the old.
            # From the moved inputs: those in place are then free before the output is written.
            return changes, jnp.maximum(_total(*(moved + change for moved in inputs)), 0)
    return changes, output + output_change


sum_relu = Primitive(
    "sum_relu",
    forward=lambda *inputs: jnp.maximum(_total(*inputs), 0),
    project=_project_sum_relu,
    spread=_broadcast,
    batching=Batching.BROADCAST,
)

# Selections and steps.


def _project_maximum(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    (x,) = inputs
    change, output_change = pk.project_max(x, output, increments=True, **settings)
    return (change,), output + output_change


def _project_minimum(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    (x,) = inputs
    change, output_change = pk.project_min(x, output, increments=True, **settings)
    return (change,), output + output_change


minimum = Primitive("min", forward=lambda x, *, axis: jnp.min(x, axis), project=_project_minimum)
maximum = Primitive("max", forward=lambda x, *, axis: jnp.max(x, axis), project=_project_maximum)


def _max_pool(x: Array, *, window: tuple[int, int], strides: tuple[int, int], padding: Any, size: Any) -> Array:
    del size
    return compose.max_pool(x, window=window, strides=strides, padding=padding)


def _project_max_pool(
    inputs: tuple[Array, ...], output: Array, *, size: Any, **settings: Any
) -> tuple[tuple[Array, ...], Array]:
    del size
    (x,) = inputs
    change, output_change = pk.project_max_pool(x, output, increments=True, **settings)
    return (change,), output + output_change


def _spread_windows(x: Array, *, window: Any, strides: Any, padding: Any, size: Any) -> tuple[Array]:
    """The elements of each window along the last axis."""
    del size
    return (jnp.moveaxis(_windows(x, window, strides, padding), 3, -1),)


def _without_padding(windows: Array, *, size: tuple[int, int], **settings: Any) -> Array:
    """Windows laid out, of images of a ``size``, with -inf where there is padding: never the largest."""
    (inside,) = _spread_windows(jnp.ones((1, *size, 1), windows.dtype), size=size, **settings)
    return jnp.where(inside == 0, -jnp.inf, windows)


def _project_windows(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    windows = _without_padding(inputs[0], **settings)
    change, output_change = pk.project_max(windows, output, axis=-1, increments=True)
    return (jnp.where(windows == -jnp.inf, 0, change),), output + output_change


max_pool = Primitive(
    "max_pool",
    forward=_max_pool,
    project=_project_max_pool,
    spread=_spread_windows,
    copywise=Primitive("windows", lambda x, **settings: jnp.max(_without_padding(x, **settings), -1), _project_windows),
    uneven=True,
    batching=Batching.ROWS,
)


def _quantize(x: Array, *, levels: int, scale: float) -> Array:
    """The nearest of the levels."""
    place = jnp.clip(jnp.round((x / scale + 1) * ((levels - 1) / 2)), 0, levels - 1)
    return (scale * (2 * place - (levels - 1)) / (levels - 1)).astype(x.dtype)


def _project_quantize(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    (x,) = inputs
    change, output_change = pk.project_quantize(x, output, increments=True, **settings)
    return (change,), output + output_change


quantize = Primitive("quantize", forward=_quantize, project=_project_quantize, batching=Batching.BROADCAST)


def _normalize(x: Array, *, axis: int, epsilon: float, centred: bool) -> Array:
    entries = x - jnp.mean(x, axis, keepdims=True) if centred else x
    return entries * lax.rsqrt(jnp.mean(entries * entries, axis, keepdims=True) + epsilon)


def _project_normalize(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
    change, output_change = pk.project_normalize(inputs[0], output, increments=True, **settings)
    return (change,), output + output_change


normalize = Primitive("normalize", _normalize, _project_normalize)
"""Layer normalisation along an ``axis``, or RMS normalisation if not ``centred``, without scale and bias."""

# Scalar functions.


def elementwise(function: str | Callable[..., Array], name: str | None = None) -> Primitive:
    """The operation of a scalar function, by a name of :data:`pjax_kernels.ELEMENTWISE` or as it is.

    A named one takes the function's settings by keyword.  A function may have further arguments, which are data, of
    shapes that broadcast to that of the first one.
    """
    if isinstance(function, str):
        return _NAMED[function]
    return _elementwise(function, name or str(getattr(function, "__name__", "elementwise")))


def _elementwise(function: str | Callable[..., Array], name: str) -> Primitive:
    def forward(x: Array, *constants: Array, **settings: Any) -> Array:
        if callable(function):
            return function(x, *constants)
        return compose.elementwise_function(function, (), settings).value(x)

    def project(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
        x, *constants = inputs
        change, output_change = pk.project_elementwise(
            function, x, output, constants=constants, increments=True, **settings
        )
        return (change,), output + output_change

    return Primitive(
        name, forward, project, batching=Batching.BROADCAST if isinstance(function, str) else Batching.EACH, moving=1
    )


_NAMED = {name: _elementwise(name, name) for name in pk.ELEMENTWISE}


def _project_clip(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    x, low, high = inputs
    change, output_change = pk.project_elementwise("clip", x, output, low=low, high=high, increments=True)
    return (change,), output + output_change


clip = Primitive("clip", lambda x, low, high: jnp.clip(x, low, high), _project_clip, moving=1)
"""``z = min(max(x, low), high)``; the limits are data, of shapes that broadcast to that of ``x``, infinite for none."""

# Output constraints.


def _weighted_mean(losses: Array, weights: Array | None) -> Array:
    """The mean, or the mean by weights, which are 0 where a loss does not count."""
    if weights is None:
        return jnp.mean(losses)
    weights = jnp.broadcast_to(weights, losses.shape).astype(losses.dtype)
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(losses.dtype).tiny)
    return jnp.sum(jnp.where(weights == 0, 0, weights * losses)) / total


def _margin_violation(logits: Array, labels: Array, weights: Array | None = None) -> Array:
    change = pk.project_margin(logits, labels, increments=True)
    return _weighted_mean(jnp.sum(change * change, axis=-1), weights)


def _project_margin(inputs: tuple[Array, ...], output: None) -> tuple[tuple[Array, ...], None]:
    logits, labels, *weights = inputs
    change = pk.project_margin(logits, labels, increments=True)
    return (weights[0][..., None].astype(change.dtype) * change if weights else change,), None


margin_loss = Primitive("margin_loss", _margin_violation, _project_margin, constrains_output=True)
"""Of logits, labels, and perhaps the fraction of the way that each row goes."""


def _cross_entropy_rows(
    logits: Array, labels: Array, weights: Array | None, class_weights: tuple[float, ...] | None
) -> tuple[Array, Array | None]:
    """The probabilities of each row, and its weight; None where each has weight 1."""
    indices = jnp.issubdtype(labels.dtype, jnp.integer)
    if not indices and weights is None and class_weights is None:
        return labels, None
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    # A class that is not there, such as -1, has no label, and hence its row no weight.
    labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=dtype) if indices else labels.astype(dtype)
    if class_weights is not None:
        labels = labels * jnp.asarray(class_weights, dtype)
    own = jnp.sum(labels, axis=-1)
    labels = labels / jnp.where(own == 0, 1, own)[..., None]
    return labels, own if weights is None else own * weights.astype(dtype)


def _mean_cross_entropy(
    logits: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    strength: float,
    class_weights: tuple[float, ...] | None = None,
) -> Array:
    del strength  # it weighs the loss against the movement of the logits, and there is no movement here
    labels, weights = _cross_entropy_rows(logits, labels, weights, class_weights)
    # Masked classes, at -inf, have no label: nothing is lost there.
    losses = labels * jnp.where(labels == 0, 0, jax.nn.log_softmax(logits, axis=-1))
    return _weighted_mean(-jnp.sum(losses, axis=-1), weights)


def _project_cross_entropy(
    inputs: tuple[Array, ...], output: None, *, strength: float, class_weights: tuple[float, ...] | None = None
) -> tuple[tuple[Array, ...], None]:
    logits, labels, *given = inputs
    labels, weights = _cross_entropy_rows(logits, labels, given[0] if given else None, class_weights)
    return (pk.prox_cross_entropy(logits, labels, strength=strength, weights=weights, increments=True),), None


cross_entropy = Primitive("cross_entropy", _mean_cross_entropy, _project_cross_entropy, constrains_output=True)
"""Of logits, labels (probabilities, or class numbers), and perhaps a weight for each row."""


def _error(name: str, error: Callable[[Array], Array], prox: Callable[..., Array]) -> Primitive:
    """The output constraint of an error of each element: of a prediction, a target, and perhaps weights."""

    def mean(prediction: Array, target: Array, weights: Array | None = None, *, strength: float) -> Array:
        del strength
        return _weighted_mean(error(prediction - target), weights)

    def project(inputs: tuple[Array, ...], output: None, *, strength: float) -> tuple[tuple[Array, ...], None]:
        prediction, target, *weights = inputs
        options = {"weights": weights[0]} if weights else {}
        return (prox(prediction, target, strength=strength, increments=True, **options),), None

    return Primitive(name, mean, project, constrains_output=True)


squared_error = _error("squared_error", jnp.square, pk.prox_squared_error)
absolute_error = _error("absolute_error", jnp.abs, pk.prox_absolute_error)


def _box_violation(value: Array, low: Array, high: Array) -> Array:
    change = pk.project_box(value, low, high, increments=True)
    return jnp.mean(change * change)


def _project_box(inputs: tuple[Array, ...], output: None) -> tuple[tuple[Array, ...], None]:
    return (pk.project_box(*inputs, increments=True),), None


within_box = Primitive("within", _box_violation, _project_box, constrains_output=True)
"""``low <= value <= high``; the limits are data, of shapes that broadcast to that of the value."""


def output_constraint(name: str, loss: Callable[..., Array], prox: Callable[..., Array]) -> Primitive:
    """The output constraint of a loss with its proximal operator, both functions of a prediction and of data."""

    def project(inputs: tuple[Array, ...], output: None, **settings: Any) -> tuple[tuple[Array, ...], None]:
        return (prox(*inputs, **settings) - inputs[0],), None

    return Primitive(name, loss, project, constrains_output=True)
