"""Compensated pairs: a number as what one dtype holds of it, and what rounding took from that."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def add_to_pair(high: Array, low: Array, change: Array | float = 0) -> tuple[Array, Array]:
    """``high + low + change`` as such a pair again: ``high`` rounded, ``low`` what rounding took from it (Knuth)."""
    wide, low = high.astype(low.dtype), low + change
    rounded = (wide + low).astype(high.dtype)
    total = rounded.astype(low.dtype)
    low_part = total - wide
    new_low = (wide - (total - low_part)) + (low - low_part)
    # The same sum, exactly, but from new_low: now that is computed before high is overwritten.  Compilers order by
    # data alone, and would copy high.
    return new_high(high, low, new_low) if high.dtype == low.dtype else rounded, new_low


def new_high(high: Array, low: Array, new_low: Array) -> Array:
    """``high + low`` rounded, from what rounding takes from it."""
    return jnp.where(jnp.abs(high) >= jnp.abs(low), high + (low - new_low), low + (high - new_low))


def difference_of_pairs(high: Array, low: Array, old_high: Array, old_low: Array) -> Array:
    """``(high + low) - (old_high + old_low)``, precise also where both have the same ``high``."""
    return (high.astype(low.dtype) - old_high.astype(low.dtype)) + (low - old_low)
