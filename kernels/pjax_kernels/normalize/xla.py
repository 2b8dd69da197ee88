"""Projection onto a normalisation in jax.numpy: any platform."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

PARTS = 24
"""Lengths to start from, of a row that is as long as it can get."""

STEPS = 12


class _Row(NamedTuple):
    """What the distance to a normalised row depends on.

    Attributes:
        length: of the row.
        along: of the residual, along the row.
        across: of the residual, at right angles to it.
        scale: the square root of the number of entries.
        floor: what is added to the squared length.
    """

    length: Array
    along: Array
    across: Array
    scale: float
    floor: float


def normalize_increments(x: Array, z: Array, epsilon: float, centred: bool) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z`` over the last axis.

    A row keeps its mean, if that is taken away, and all else of it depends on its length: for a length, the best
    direction is that of ``length x + image z``, where ``image`` is the length of what becomes of it.  So one number is
    sought for each row, and the changes follow from it and from the residual without a difference of near numbers.
    """
    count = x.shape[-1]
    entries = x - jnp.mean(x, axis=-1, keepdims=True) if centred else x
    lost = jnp.mean(z, axis=-1, keepdims=True) if centred else jnp.zeros_like(z[..., :1])
    target = z - lost
    length = jnp.sqrt(jnp.sum(entries**2, axis=-1, keepdims=True))
    unit = jnp.where(length > 0, entries / jnp.where(length > 0, length, 1), _any_direction(target, centred))
    scale, floor = math.sqrt(count), count * epsilon
    residual = target - scale * length / jnp.sqrt(length**2 + floor) * unit
    along = jnp.sum(residual * unit, axis=-1, keepdims=True)
    aside = residual - along * unit
    row = _Row(length, along, jnp.sqrt(jnp.sum(aside**2, axis=-1, keepdims=True)), scale, floor)
    change = _change_of_length(row)
    new, image = length + change, _image(row, length + change)
    sum_ = _sum(row, change)
    # The new direction less the old one, in parts along the row and aside of it.
    turn, swing = -_lag(sum_), aside * (image / sum_.unit / sum_.norm)
    x_change = change * unit + new * (turn * unit + swing)
    gain = _gain(row, change)
    z_change = gain * unit + image * (turn * unit + swing) - residual - lost
    return x_change, z_change


def _any_direction(target: Array, centred: bool) -> Array:
    """A direction for rows of length 0: that of their target, else any."""
    norm = jnp.sqrt(jnp.sum(target**2, axis=-1, keepdims=True))
    first = jnp.zeros(target.shape[-1:], target.dtype).at[0].set(1)
    if centred:
        first = first - jnp.mean(first)
    first = first / jnp.maximum(jnp.sqrt(jnp.sum(first**2)), jnp.finfo(target.dtype).tiny)
    return jnp.where(norm > 0, target / jnp.where(norm > 0, norm, 1), first)


def _image(row: _Row, length: Array) -> Array:
    """The length of the normalised row."""
    return row.scale * length / jnp.sqrt(length**2 + row.floor)


def _gain(row: _Row, change: Array) -> Array:
    """By how much the image of the length grows, without cancellation."""
    old, new = row.length, row.length + change
    old_root, new_root = jnp.sqrt(old**2 + row.floor), jnp.sqrt(new**2 + row.floor)
    below = old_root * new_root * (new * old_root + old * new_root)
    return row.scale * row.floor * change * (new + old) / jnp.where(below > 0, below, 1)


class _Sum(NamedTuple):
    """``length x + image z``, whose direction is the new one, in a unit that keeps its squares from vanishing."""

    unit: Array
    along: Array
    across: Array
    norm: Array


def _sum(row: _Row, change: Array) -> _Sum:
    new = row.length + change
    image = _image(row, new)
    unit = lax.stop_gradient(jnp.maximum(new, image))  # what follows depends on ratios alone
    unit = jnp.where(unit > 0, unit, 1)
    along = (new / unit) * row.length + (image / unit) * (_image(row, row.length) + row.along)
    across = (image / unit) * row.across
    norm = jnp.sqrt(along**2 + across**2)
    return _Sum(unit, along, across, jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))


def _lag(sum_: _Sum) -> Array:
    """1 less the cosine of the turn, which may be close to it."""
    close = (sum_.across / sum_.norm) * (sum_.across / (sum_.norm + jnp.abs(sum_.along)))
    return jnp.where(sum_.along > 0, close, 1 - sum_.along / sum_.norm)


def _squared(row: _Row, change: Array) -> Array:
    """The squared distance, but for what no change of length alters."""
    sum_ = _sum(row, change)
    return (row.length + change) ** 2 + _image(row, row.length + change) ** 2 - 2 * sum_.unit * sum_.norm


def _slope(row: _Row, change: Array) -> Array:
    """Half the derivative of the squared distance."""
    new = row.length + change
    steepness = row.scale * row.floor / (new**2 + row.floor) ** 1.5
    sum_ = _sum(row, change)
    held = (row.length + steepness * _image(row, row.length)) * _lag(sum_)
    pull = steepness * (row.along * (sum_.along / sum_.norm) + row.across * (sum_.across / sum_.norm))
    return change + steepness * _gain(row, change) + held - pull


def _change_of_length(row: _Row) -> Array:
    """From the best of several lengths, by Newton's method, and bisection where that leads too far."""
    longest = row.length + jnp.abs(row.along) + row.across + row.scale
    starts = [longest * (k / PARTS) - row.length for k in range(PARTS + 1)]
    # Below the root of the floor the image grows fast.
    starts += [jnp.minimum(2.0**k * math.sqrt(row.floor), longest) - row.length for k in range(-2, 6)]
    best, low, high = jnp.zeros_like(row.length), starts[0], starts[PARTS]
    least = _squared(row, best)
    for start in starts:
        squared = _squared(row, start)
        nearer = squared < least
        best, least = jnp.where(nearer, start, best), jnp.where(nearer, squared, least)
    for start in starts:
        low = jnp.where(start < best, jnp.maximum(low, start), low)
        high = jnp.where(start > best, jnp.minimum(high, start), high)

    ones = jnp.ones_like(row.length)

    def halve_or_step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        change, low, high = state
        value, steepness = jax.jvp(functools.partial(_slope, row), (change,), (ones,))
        low, high = jnp.where(value < 0, change, low), jnp.where(value < 0, high, change)
        new = change - value / jnp.where(steepness > 0, steepness, 1)
        return jnp.where((low <= new) & (new <= high), new, (low + high) / 2), low, high

    change, _, _ = lax.fori_loop(0, STEPS, halve_or_step, (best, low, high))
    return change
