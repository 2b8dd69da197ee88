"""Projection onto a Boolean threshold function in jax.numpy: any platform."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.consensus import mean_change, squares
from pjax_kernels.dense.xla import dot_products
from pjax_kernels.threshold.root import threshold_root


def threshold_increments(a: Array, b: Array, z: Array, margin: Array, *, axis: int) -> tuple[Array, Array, Array]:
    """The changes of ``a`` and ``b``, whose entries lie along ``axis``, and of ``z``, which lacks it."""
    # By way of the sum and the difference: exact when one of them nearly vanishes, also where they are stretched.
    half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
    plus, minus = (jnp.sum(half * half, axis=axis) for half in (half_sum, half_difference))
    found = threshold_root(plus, minus, z, margin)
    sign, beta, gamma, radius = (jnp.expand_dims(array, axis) for array in found)
    up, down = sign * beta + gamma, _shrinking(sign * beta, gamma)  # of a + sign b, and of a - sign b
    of_sum, of_difference = (jnp.where(sign > 0, *pair) for pair in ((up, down), (down, up)))
    shared = of_sum * half_sum
    opposed = of_difference * half_difference
    free = radius * max(a.shape[axis], 1) ** -0.5
    return shared + opposed + free, shared - opposed + sign * free, found.sign - z


def _shrinking(beta: Array, gamma: Array) -> Array:
    """``gamma - beta``, without cancellation: ``-v/(1 + v)`` with ``v = gamma/beta``."""
    near = gamma <= 0.5 * beta
    v = jnp.where(near, 0, gamma / jnp.where(near, 1, beta))
    return jnp.where(near, gamma - beta, -v / (1 + v))


def dense_increments(
    x: Array, w: Array, z: Array, margin: Array, *, precision: lax.PrecisionLike
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    dots = dot_products(x, w, precision=precision)
    p, q = dots.product(x, w), dots.of_x(squares(x)) + dots.of_w(squares(w))
    plus, minus = (jnp.maximum(0.25 * q + half_p, 0) for half_p in (0.5 * p, -0.5 * p))
    sign, beta, gamma, radius = threshold_root(plus, minus, z, margin)
    free = radius * max(x.shape[1], 1) ** -0.5
    x_change = mean_change(x, dots.spread_x(gamma), dots.spread_x(free), dots.to_x(-beta, w), dots.x_copies)
    w_change = mean_change(w, dots.spread_w(gamma), dots.spread_w(sign * free), dots.to_w(-beta, x), dots.w_copies)
    return x_change, w_change, sign - z
