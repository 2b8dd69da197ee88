"""The operations of this package, each declared in one place."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.primitive import Batching, Bilinear, Primitive, bilinear, bilinear_increment, moved
from pjax_kernels.dense.in_place import project_dense_in_place

# Dot products.


_Projected = tuple[tuple[Array, ...], Array]


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def _project_dot(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    a, b = inputs
    a_change, b_change, z_change = pk.project_bilinear(a, b, output, residual=residual, increments=True)
    return (a_change, b_change), z_change


_ONE_EACH = ((0,), (1,))
dot = Primitive("dot", forward=_dot, project=_project_dot, increment=bilinear_increment(_dot, _ONE_EACH))


@jax.jit  # traced once for all layers of one shape
def _project_matmul(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    x, w = inputs
    x_change, w_change, z_change = pk.project_dense(x, w, output, residual=residual, increments=True)
    return (x_change, w_change), z_change


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
    increment=bilinear_increment(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), _ONE_EACH),
    copywise=dot,
    bilinear=Bilinear(_ONE_EACH, pk.project_dense_factored, _squared_norms, pk.project_dense_copies),
    batching=Batching.ROWS,
    project_in_place=project_dense_in_place,
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


def convolution(x: Array, w: Array, *, strides: tuple[int, int], padding: Any) -> Array:
    """The convolution of images ``(B, H, W, C)`` with filters ``(h, w, C, K)``."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers, precision=lax.Precision.HIGHEST)


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


def _project_convolution(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any
) -> _Projected:
    x, w = inputs
    x_change, w_change, z_change = pk.project_conv2d(x, w, output, residual=residual, increments=True, **settings)
    return (x_change, w_change), z_change


conv2d = bilinear(
    "conv2d", convolution, spread=_spread_convolution, project=_project_convolution, batching=Batching.ROWS
)


def _recurrence_products(x: Array, h: Array, w_x: Array, w_h: Array) -> Array:
    """``x w_x + h w_h``."""
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return product(x, w_x) + product(h, w_h)


def _project_recurrence(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    x, h, w_x, w_h = inputs
    *changes, z_change = pk.project_recurrence(x, h, w_x, w_h, output, residual=residual, increments=True)
    return tuple(changes), z_change


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


def _sum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    shape = jnp.broadcast_shapes(*(start.shape for start in starts))
    return jnp.broadcast_to(sum(change for change in changes if change is not None), shape)


def _project_sum(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    return pk.project_sum(inputs, output, residual=residual, increments=True)


def _equal_shares(*inputs: Array, **_: Any) -> tuple[float, ...]:
    """A residual is shared by all inputs and the output."""
    return (1 / (len(inputs) + 1),) * len(inputs)


add = Primitive(
    "sum",
    _total,
    _project_sum,
    spread=_broadcast,
    increment=_sum_increment,
    batching=Batching.BROADCAST,
    shares=_equal_shares,
)
identity = replace(add, name="identity")


def _project_sum_over(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
    change, output_change = pk.project_sum_over(inputs[0], output, residual=residual, increments=True, **settings)
    return (change,), output_change


sum_over = Primitive(
    "sum over axes",
    forward=lambda x, *, axis: jnp.sum(x, axis),
    project=_project_sum_over,
    increment=lambda _, changes, *, axis: jnp.sum(jnp.asarray(changes[0]), axis),
    shares=lambda x, *, axis: (1 / (x.size // max(jnp.sum(x, axis).size, 1) + 1),),
)


def _project_sum_relu(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    return pk.project_sum_relu(inputs, output, residual=residual, increments=True)


def _sum_relu_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    before, growth = _total(*starts), _sum_increment(starts, changes)
    after = _total(*map(moved, starts, changes))
    return jnp.where((before > 0) & (after > 0), growth, jnp.maximum(after, 0) - jnp.maximum(before, 0))


sum_relu = Primitive(
    "sum_relu",
    forward=lambda *inputs: jnp.maximum(_total(*inputs), 0),
    project=_project_sum_relu,
    spread=_broadcast,
    increment=_sum_relu_increment,
    shares=_equal_shares,
    batching=Batching.BROADCAST,
)

# Selections and steps.


def _project_maximum(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
    change, output_change = pk.project_max(inputs[0], output, residual=residual, increments=True, **settings)
    return (change,), output_change


def _maximum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, axis: Any) -> Array:
    (x,), (change,) = starts, changes
    assert change is not None
    return jnp.max((x - jnp.max(x, axis, keepdims=True)) + change, axis)


maximum = Primitive(
    "max", forward=lambda x, *, axis: jnp.max(x, axis), project=_project_maximum, increment=_maximum_increment
)


def _max_pool(x: Array, *, window: tuple[int, int], strides: tuple[int, int], padding: Any, size: Any) -> Array:
    del size
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    around = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, lowest, lax.max, (1, *window, 1), (1, *strides, 1), around)


def _project_max_pool(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, size: Any, **settings: Any
) -> _Projected:
    del size
    change, output_change = pk.project_max_pool(inputs[0], output, residual=residual, increments=True, **settings)
    return (change,), output_change


def _max_pool_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], **settings: Any) -> Array:
    assert changes[0] is not None
    (change,) = _spread_windows(changes[0], **settings)
    return _windows_increment(_spread_windows(*starts, **settings), (change,), **settings)


def _spread_windows(x: Array, *, window: Any, strides: Any, padding: Any, size: Any) -> tuple[Array]:
    """The elements of each window along the last axis."""
    del size
    return (jnp.moveaxis(_windows(x, window, strides, padding), 3, -1),)


def _without_padding(windows: Array, *, size: tuple[int, int], **settings: Any) -> Array:
    """Windows laid out, of images of a ``size``, with -inf where there is padding: never the largest."""
    (inside,) = _spread_windows(jnp.ones((1, *size, 1), windows.dtype), size=size, **settings)
    return jnp.where(inside == 0, -jnp.inf, windows)


def _project_windows(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
    windows = _without_padding(inputs[0], **settings)
    change, output_change = pk.project_max(windows, output, axis=-1, residual=residual, increments=True)
    return (jnp.where(windows == -jnp.inf, 0, change),), output_change


def _windows_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], **settings: Any) -> Array:
    return _maximum_increment((_without_padding(*starts, **settings),), changes, axis=-1)


max_pool = Primitive(
    "max_pool",
    forward=_max_pool,
    project=_project_max_pool,
    spread=_spread_windows,
    increment=_max_pool_increment,
    copywise=Primitive(
        "windows",
        lambda x, **settings: jnp.max(_without_padding(x, **settings), -1),
        _project_windows,
        increment=_windows_increment,
    ),
    uneven=True,
    batching=Batching.ROWS,
)


def _quantize(x: Array, *, levels: int, scale: float) -> Array:
    """The nearest of the levels."""
    place = jnp.clip(jnp.round((x / scale + 1) * ((levels - 1) / 2)), 0, levels - 1)
    return (scale * (2 * place - (levels - 1)) / (levels - 1)).astype(x.dtype)


def _project_quantize(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
    change, output_change = pk.project_quantize(inputs[0], output, residual=residual, increments=True, **settings)
    return (change,), output_change


quantize = Primitive("quantize", forward=_quantize, project=_project_quantize, batching=Batching.BROADCAST)

# Output constraints.


def _margin_violation(logits: Array, labels: Array) -> Array:
    change = pk.project_margin(logits, labels, increments=True)
    return jnp.mean(jnp.sum(change * change, axis=-1))


def _project_margin(inputs: tuple[Array, ...], output: None, residual: None) -> tuple[tuple[Array, ...], None]:
    logits, labels = inputs
    return (pk.project_margin(logits, labels, increments=True),), None


margin_loss = Primitive("margin_loss", _margin_violation, _project_margin, constrains_output=True)


def _mean_cross_entropy(logits: Array, labels: Array, *, strength: float) -> Array:
    del strength  # it weighs the loss against the movement of the logits, and there is no movement here
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits, axis=-1), axis=-1))


def _project_cross_entropy(
    inputs: tuple[Array, ...], output: None, residual: None, **settings: Any
) -> tuple[tuple[Array, ...], None]:
    logits, labels = inputs
    return (pk.prox_cross_entropy(logits, labels, increments=True, **settings),), None


cross_entropy = Primitive("cross_entropy", _mean_cross_entropy, _project_cross_entropy, constrains_output=True)
