"""Projection onto means of windows in jax.numpy: any platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_kernels.average_pool.windows import WindowsOfArray


def average_pool_increments(x: Array, z: Array, windows: WindowsOfArray) -> tuple[Array, Array]:
    """The mean changes of ``x`` over its copies, and the changes of ``z``; no window is stored."""

    def sums(x: Array) -> Array:
        return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, windows.size, windows.strides, windows.padding)

    factors = windows.factors
    weights = 1 / (1 + windows.entries * factors**2)
    share = (z - sums(x) * _constant(factors, x)) * _constant(weights, x)
    (totals,) = jax.linear_transpose(sums, x)(share * _constant(factors, x))
    return totals * _constant(1 / np.maximum(windows.coverage, 1), x), -share


def _constant(numbers: np.ndarray, like: Array) -> Array:
    """The numbers as an array, a single one where all are equal."""
    if numbers.size and np.all(numbers == numbers.flat[0]):
        numbers = numbers.flat[0]
    return jnp.asarray(numbers, like.dtype)
