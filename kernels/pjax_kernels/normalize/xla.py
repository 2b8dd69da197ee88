"""Projection onto a normalisation in jax.numpy: any platform."""

from __future__ import annotations

import math
from typing import NamedTuple

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
    s, norm = _lengths(row, change)
    # The new direction less the old one, in parts along the row and aside of it.
    norm = jnp.maximum(norm, jnp.finfo(x.dtype).tiny)
    turn = jnp.where(s > 0, -((image * row.across) ** 2) / (norm * (norm + jnp.abs(s))), s / norm - 1)
    swing = image * aside / norm
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


def _lengths(row: _Row, change: Array) -> tuple[Array, Array]:
    """Of ``length x + image z``: the part along the row, and the norm."""
    new = row.length + change
    image = _image(row, new)
    s = new * row.length + image * (_image(row, row.length) + row.along)
    return s, jnp.sqrt(s**2 + (image * row.across) ** 2)


def _squared(row: _Row, change: Array) -> Array:
    """The squared distance, but for what no change of length alters."""
    return (row.length + change) ** 2 + _image(row, row.length + change) ** 2 - 2 * _lengths(row, change)[1]


def _slope(row: _Row, change: Array) -> Array:
    """Half the derivative of the squared distance."""
    new = row.length + change
    old_image, image = _image(row, row.length), _image(row, new)
    steepness = row.scale * row.floor / (new**2 + row.floor) ** 1.5
    s, norm = _lengths(row, change)
    norm = jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    # 1 - s / norm, where they may be close.
    lag = jnp.where(s > 0, (image * row.across) ** 2 / (norm * (norm + jnp.abs(s))), 1 - s / norm)
    pull = steepness * (row.along * s + image * row.across**2) / norm
    return change + steepness * _gain(row, change) + (row.length + steepness * old_image) * lag - pull


def _change_of_length(row: _Row) -> Array:
    """From the best of several lengths, by bisection that becomes the secant method where that is quicker."""
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

    def halve_or_step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        change, low, high = state
        value = _slope(row, change)
        low, high = jnp.where(value < 0, change, low), jnp.where(value < 0, high, change)
        apart = jnp.maximum(jnp.abs(change), 1e-3 * (1 + row.length)) * 1e-2
        steepness = (_slope(row, change + apart) - value) / apart
        new = change - value / jnp.where(steepness > 0, steepness, 1)
        return jnp.where((low <= new) & (new <= high), new, (low + high) / 2), low, high

    change, _, _ = lax.fori_loop(0, STEPS, halve_or_step, (best, low, high))
    return change
