"""Projections onto sets in jax.numpy: any platform.  Each returns the new value, and how it is reached from the old."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels import sums


def sphere(value: Array, norm: Array, *, axis: tuple[int, ...]) -> Array:
    """The nearest vectors of this norm along the axes; of equal entries where the old one is 0."""
    # By way of the largest entry: squares do not overflow, and do not vanish.
    largest = jnp.max(jnp.abs(value), axis, keepdims=True, initial=0)
    scale = _moderate(largest)
    unit = (value * scale) / jnp.where(largest == 0, 1, largest * scale)
    squared = jnp.sum(unit * unit, axis, keepdims=True)
    entries = max(value.size // max(largest.size, 1), 1)
    return norm * jnp.where(largest == 0, entries**-0.5, unit * lax.rsqrt(jnp.where(largest == 0, 1, squared)))


def _moderate(largest: Array) -> Array:
    """A power of two that makes the largest numbers such as can be squared: derivatives of quotients do."""
    half = jnp.finfo(largest.dtype).maxexp // 2
    too_large, too_small = largest >= 2.0 ** (half - 1), largest < 2.0 ** (1 - half)
    return jnp.where(too_large, 2.0**-half, jnp.where(too_small, 2.0**half, 1)).astype(largest.dtype)


def levels(value: Array, *, levels: Sequence[float]) -> Array:
    """The nearest of increasing levels, the lower one of two that are as near."""
    nearest = jnp.full_like(value, levels[0])
    for below, level in zip(levels[:-1], levels[1:], strict=True):
        # Two numbers on either side of a midpoint are told apart by their distances, not by a rounded midpoint.
        nearest = jnp.where(value - below > level - value, level, nearest)
    return jnp.where(jnp.isnan(value), value, nearest)


def sparse(value: Array, *, count: int, axis: int) -> Array:
    """The ``count`` entries of largest size, of equal ones the first; 0 elsewhere."""
    size = jnp.abs(value)
    least = _largest(size, count, axis)
    larger, equal = size > least, size == least
    free = count - jnp.sum(larger, axis, keepdims=True)
    kept = larger | (equal & (jnp.cumsum(equal, axis) <= free))
    return jnp.where(kept | jnp.isnan(value), value, 0)


def _largest(size: Array, count: int, axis: int) -> Array:
    """The ``count``-th largest of numbers that are not negative: bit by bit, whose order is theirs."""
    bits = lax.bitcast_convert_type(size, jnp.int64 if size.dtype.itemsize == 8 else jnp.int32)
    digits = 8 * size.dtype.itemsize - 1

    def with_digit(place: Array, found: Array) -> Array:
        candidate = found | (jnp.ones((), bits.dtype) << (digits - 1 - place.astype(bits.dtype)))
        return jnp.where(jnp.sum(bits >= candidate, axis, keepdims=True) >= count, candidate, found)

    found = lax.fori_loop(0, digits, with_digit, jnp.zeros_like(bits, shape=jnp.sum(bits, axis, keepdims=True).shape))
    return lax.bitcast_convert_type(found, size.dtype)


def one_hot(value: Array, low: Array, high: Array, *, axis: int) -> Array:
    """``high`` at the largest entry, the first of equal ones, and ``low`` elsewhere."""
    chosen = jnp.argmax(jnp.where(high > low, value, -value), axis, keepdims=True)
    places = lax.broadcasted_iota(chosen.dtype, value.shape, axis)
    known = ~jnp.any(jnp.isnan(value), axis, keepdims=True)
    return jnp.where(known, jnp.where(places == chosen, high, low), jnp.nan)


def simplex(value: Array, total: Array, *, axis: int) -> Array:
    """``max(value - t, 0)`` whose sum is ``total``."""
    # Below the largest entry, so that neither large entries nor their sum take the total's digits; what is lower by the
    # total becomes 0, however much lower it is.
    value = jnp.maximum(value - jnp.max(value, axis, keepdims=True), -total)

    known, known_total = lax.stop_gradient((value, total))

    # Newton's method, from below: the function is convex and piecewise linear, and once the entries above stay, a step
    # ends at the root.
    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        threshold = jnp.maximum(*state)
        above = known > threshold
        terms = jnp.where(above, known, 0), above.astype(known.dtype)
        return threshold, _threshold(*_sums(terms, axis), known_total, axis)

    lowest = jnp.broadcast_to(-known_total, jnp.sum(known, axis, keepdims=True).shape)
    last, _ = lax.while_loop(lambda state: jnp.any(state[1] > state[0]), step, step((lowest, lowest)))
    above = value > last
    return jnp.maximum(value - _threshold(jnp.sum(value, axis, where=above), jnp.sum(above, axis), total, axis), 0)


def _threshold(found: Array, count: Array, total: Array, axis: int) -> Array:
    """What so many entries, of this sum, must be lowered by to have the total."""
    return (jnp.expand_dims(found, axis) - total) / jnp.maximum(jnp.expand_dims(count, axis), 1)


def _sums(terms: tuple[Array, Array], axis: int) -> tuple[Array, Array]:
    """Those of two arrays over the axis, in one pass."""
    in_rows = axis % terms[0].ndim == terms[0].ndim - 1 and not is_symbolic_dim(terms[0].shape[axis])
    first, second = sums.over_rows(terms) if in_rows else sums.over_axis(terms, axis)
    return first, second


def orthonormal(value: Array) -> Array:
    """``Q U V^T`` for ``value = Q R`` and ``R = U S V^T``: the decomposition of a small square."""
    largest = jnp.max(jnp.abs(value), (-2, -1), keepdims=True, initial=0)
    # Of infinite numbers LAPACK does not come back.
    q, r = jnp.linalg.qr(jnp.where(largest < jnp.inf, value * _moderate(largest), jnp.nan))
    u, _, v = jnp.linalg.svd(r, full_matrices=False)
    return functools.reduce(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), (q, u, v))
