"""What slides over images: convolutions and pooling."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.operations.convolutions import spread_convolution, squared_norms_of_convolution
from pjax_core.operations.primitive import Batching, Primitive, Projected, bilinear, by_kernel
from pjax_core.operations.primitives.choices import maximum_increment
from pjax_kernels import compose


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


def _squared_norms_of_windows(x: Array, w: Array, **settings: Any) -> tuple[Array, Array]:
    """Of the windows, with any filter, and of the filters, for any sample."""
    of_pixels, one_filter = jnp.sum(x * x, axis=3, keepdims=True), jnp.ones((*w.shape[:2], 1, 1), x.dtype)
    of_windows = compose.conv2d(of_pixels, one_filter, **settings)
    of_filters = compose.conv2d(jnp.ones((1, *x.shape[1:]), w.dtype), w * w, **settings)
    return jnp.maximum(of_windows, 0), jnp.maximum(of_filters, 0)


conv2d = bilinear(
    "conv2d",
    compose.conv2d,
    spread=_spread_convolution,
    project=by_kernel(pk.project_conv2d),
    squared_norms=_squared_norms_of_windows,
    batching=Batching.ROWS,
)


def _convolution_of_any_kind(x: Array, w: Array, *, settings: tuple[tuple[str, Any], ...]) -> Array:
    x, w = (array.astype(jnp.result_type(x, w)) for array in (x, w))
    return lax.conv_general_dilated(x, w, precision=lax.Precision.HIGHEST, **dict(settings))


convolution_of_any_kind = bilinear(
    "convolution",
    _convolution_of_any_kind,
    spread=spread_convolution,
    squared_norms=functools.partial(squared_norms_of_convolution, _convolution_of_any_kind),
)


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
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, size: Any, **settings: Any
) -> Projected:
    del size
    if residual is not None:  # the projection is linear in it: that of windows of zeros
        inputs, output = (jnp.zeros_like(inputs[0], residual.dtype),), residual
    change, output_change = pk.project_average_pool(inputs[0], output, increments=True, **settings)
    return (change,), output_change


def _normal_of_windows(dtype: Any, **settings: Any) -> Array:
    """What each entry of windows laid out counts, 0 where there is padding."""
    placed = _windows_of(**settings)
    return placed.spread(jnp.ones(settings["size"], dtype)) * jnp.asarray(placed.factors, dtype)[..., None]


def _project_windows_average(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any
) -> Projected:
    (windows,) = inputs
    normal = _normal_of_windows(windows.dtype, **settings)
    residual = output - jnp.sum(normal * windows, -1) if residual is None else residual
    share = residual / (1 + jnp.sum(normal**2, -1))
    return (normal * share[..., None],), -share


def _windows_average(windows: Array, **settings: Any) -> Array:
    return jnp.sum(_normal_of_windows(windows.dtype, **settings) * windows, -1)


average_pool = Primitive(
    "average_pool",
    _average_pool,
    _project_average_pool,
    spread=lambda x, **settings: (_windows_of(**settings).spread(x),),
    copywise=Primitive(
        "windows",
        _windows_average,
        _project_windows_average,
        increment=lambda _, changes, **settings: _windows_average(jnp.asarray(changes[0]), **settings),
    ),
    increment=lambda _, changes, **settings: _average_pool(jnp.asarray(changes[0]), **settings),
    uneven=True,
)
"""``z = factor (sum of a window)``, the mean for None; settings those of :func:`pjax_kernels.project_average_pool`,
``padding`` as pairs, and ``size``, the shape of ``x``."""


def _max_pool(x: Array, *, window: tuple[int, int], strides: tuple[int, int], padding: Any, size: Any) -> Array:
    del size
    return compose.max_pool(x, window=window, strides=strides, padding=padding)


def _project_max_pool(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, size: Any, **settings: Any
) -> Projected:
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


def _project_windows(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> Projected:
    windows = _without_padding(inputs[0], **settings)
    change, output_change = pk.project_max(windows, output, axis=-1, residual=residual, increments=True)
    return (jnp.where(windows == -jnp.inf, 0, change),), output_change


def _windows_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], **settings: Any) -> Array:
    return maximum_increment((_without_padding(*starts, **settings),), changes, axis=-1)


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
