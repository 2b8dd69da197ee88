"""Textbook projection onto a Boolean threshold function: bisection for both signs, every copy stored."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

BISECTIONS = 250


def threshold_increments(a: Array, b: Array, z: Array, margin: Array, *, axis: int) -> tuple[Array, Array, Array]:
    """The changes of ``a`` and ``b``, whose entries lie along ``axis``, and of ``z``, which lacks it."""
    a, b = jnp.moveaxis(a, axis, -1), jnp.moveaxis(b, axis, -1)
    candidates = []
    for sign in (1, -1):
        a_change, b_change = _to_margin(a, sign * b, margin)
        squared_distance = jnp.sum(a_change**2 + b_change**2, axis=-1) - 2 * sign * z  # and z^2 + 1, of both
        candidates.append((squared_distance, a_change, sign * b_change, sign - z))
    (up, *to_up), (down, *to_down) = candidates
    known = ~jnp.isnan(up - down)
    changes = []
    for of_up, of_down in zip(to_up, to_down, strict=True):
        rows = (slice(None),) * z.ndim + (None,) * (of_up.ndim - z.ndim)
        nearer = jnp.where((up <= down)[rows], of_up, of_down)
        changes.append(jnp.where(known[rows], nearer, jnp.nan))
    return jnp.moveaxis(changes[0], -1, axis), jnp.moveaxis(changes[1], -1, axis), changes[2]


def _to_margin(a: Array, b: Array, margin: Array) -> tuple[Array, Array]:
    """The changes of ``a`` and ``b`` to the nearest point with ``a . b >= margin``."""
    half_sum, half_difference = (a + b) / 2, (a - b) / 2
    plus, minus = jnp.sum(half_sum**2, axis=-1), jnp.sum(half_difference**2, axis=-1)
    residual = margin - jnp.sum(a * b, axis=-1)
    x = _root(plus, minus, residual)
    set_valued = (plus == 0) & (residual > 0)
    # a' + b' = (a + b)/(1 - v) and a' - b' = (a - b)/(1 + v), with v = tanh(x/2).
    sum_change = jnp.where(set_valued, 0, jnp.expm1(x) / 2)[..., None] * half_sum
    difference_change = jnp.where(set_valued, -1 / 2, jnp.expm1(-x) / 2)[..., None] * half_difference
    radius = jnp.where(set_valued, jnp.sqrt(jnp.maximum(margin + minus / 4, 0)), 0)
    free = radius[..., None] * jnp.full_like(a, max(a.shape[-1], 1) ** -0.5)
    return sum_change + difference_change + free, sum_change - difference_change + free


def _root(plus: Array, minus: Array, residual: Array) -> Array:
    """``x >= 0`` with ``v = tanh(x/2)``, by bisection up to what exp can hold; 0 where the margin is reached."""

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        x = (low + high) / 2
        grow, shrink = jnp.expm1(x), jnp.expm1(-x)
        above = plus * grow * (grow + 4) / 4 - minus * shrink * (shrink + 4) / 4 > residual
        return jnp.where(above, low, x), jnp.where(above, x, high)

    limit = jnp.log(jnp.finfo(residual.dtype).max) / 2 - 2
    low, high = lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(residual), jnp.full_like(residual, limit)))
    return jnp.where(residual > 0, (low + high) / 2, residual * 0)


def dense_increments(
    x: Array, w: Array, z: Array, margin: Array, *, precision: lax.PrecisionLike
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    del precision  # there is no matrix product here
    copies = (x.shape[0], w.shape[1], x.shape[1])
    x_copies = jnp.broadcast_to(x[:, None, :], copies)
    w_copies = jnp.broadcast_to(w.T[None, :, :], copies)
    x_changes, w_changes, z_change = threshold_increments(x_copies, w_copies, z, margin, axis=-1)
    batch, width, _ = copies
    return jnp.sum(x_changes, axis=1) / max(width, 1), jnp.sum(w_changes, axis=0).T / max(batch, 1), z_change
