"""Each dot product of a convolution of any kind, laid out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

Settings = tuple[tuple[str, Any], ...]


def spread_convolution(x: Array, w: Array, *, settings: Settings) -> tuple[Array, Array]:
    """The entries of each dot product of :func:`jax.lax.conv_general_dilated` along a last axis, 0 where is padding."""
    given = dict(settings)
    numbers = given["dimension_numbers"]
    x, w = x.transpose(numbers.lhs_spec), w.transpose(numbers.rhs_spec)  # channels before the axes of space
    window, filters = w.shape[2:], w.shape[0]
    windows, inside = _windows(x, window, given)
    size = windows.shape[2 : 2 + len(window)]
    # Groups of channels or of samples: each filter reads one of them.
    groups, parts = given["feature_group_count"], given["batch_group_count"]
    samples, channels = x.shape[0] // parts, x.shape[1] // groups
    entries = windows.reshape(parts, samples, groups, channels, math.prod(size), math.prod(window))
    entries = jnp.einsum("bngcsk->nbgsck", entries).reshape(samples, parts * groups, 1, *size, -1)
    shape = (samples, filters, *size, entries.shape[-1])
    rows = jnp.broadcast_to(entries, (samples, parts * groups, filters // (parts * groups), *shape[2:])).reshape(shape)
    weights = w.reshape(filters, 1, channels, -1) * inside.reshape(math.prod(size), 1, -1).astype(w.dtype)
    columns = jnp.broadcast_to(weights.reshape(1, filters, *size, -1), shape)
    order = (*np.argsort(numbers.out_spec), len(shape) - 1)
    return rows.transpose(order), columns.transpose(order)


def squared_norms_of_convolution(
    convolve: Callable[..., Array], x: Array, w: Array, *, settings: Settings
) -> tuple[Array, Array]:
    """Of the windows and of the filters: with any filter and for any sample, where all see the same."""
    given, pixels, filters, sample = dict(settings), x * x, list(w.shape), list(x.shape)
    of_images, of_filters = given["dimension_numbers"].lhs_spec, given["dimension_numbers"].rhs_spec
    if given["feature_group_count"] * given["batch_group_count"] == 1:
        pixels = jnp.sum(pixels, axis=of_images[1], keepdims=True)
        filters[of_filters[0]] = filters[of_filters[1]] = sample[of_images[0]] = 1
    of_windows = convolve(pixels, jnp.ones(filters, x.dtype), settings=settings)
    return jnp.maximum(of_windows, 0), jnp.maximum(convolve(jnp.ones(sample, w.dtype), w * w, settings=settings), 0)


def _windows(x: Array, window: tuple[int, ...], given: dict[str, Any]) -> tuple[Array, np.ndarray]:
    """The windows of ``x``, with the axes of places before those in a window, and which entries are no padding."""
    n_axes = len(window)
    inside = np.ones((1,) * 2 * n_axes, bool)
    for axis in range(n_axes):
        spaced, step = given["lhs_dilation"][axis], given["rhs_dilation"][axis]
        low, high = given["padding"][axis]
        length = x.shape[2 + 2 * axis]
        extent = (length - 1) * spaced + 1 + low + high - (window[axis] - 1) * step - 1
        starts = np.arange(extent // given["window_strides"][axis] + 1) * given["window_strides"][axis] - low
        places = starts[:, None] + step * np.arange(window[axis])
        valid = (places >= 0) & (places <= (length - 1) * spaced) & (places % spaced == 0)
        inside = inside & valid.reshape([n if i % n_axes == axis else 1 for i, n in enumerate(_doubled(valid, n_axes))])
        x = jnp.take(x, np.where(valid, places // spaced, 0), axis=2 + 2 * axis)
    x = x.transpose(0, 1, *range(2, 2 + 2 * n_axes, 2), *range(3, 3 + 2 * n_axes, 2))
    return jnp.where(inside, x, 0), inside


def _doubled(valid: np.ndarray, n_axes: int) -> list[int]:
    """The lengths of a table of places and entries, for all axes of places and then of entries."""
    return [valid.shape[0]] * n_axes + [valid.shape[1]] * n_axes
