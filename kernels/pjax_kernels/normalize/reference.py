"""Textbook projection onto a normalisation: every length of a fine grid, for each the best direction; bisection."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

PARTS = 2000
ZOOMS = 2
BISECTIONS = 60


def normalize_increments(x: Array, z: Array, epsilon: float, centred: bool) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z`` over the last axis."""
    count = x.shape[-1]
    mean = jnp.mean(x, axis=-1, keepdims=True) if centred else 0
    entries = x - mean
    target = z - jnp.mean(z, axis=-1, keepdims=True) if centred else z

    def image(length: Array) -> Array:
        return math.sqrt(count) * length / jnp.sqrt(length**2 + count * epsilon)

    def squared(length: Array) -> Array:
        """The squared distance, but for what no length changes."""
        aim = jnp.linalg.norm(length[..., None] * entries + image(length)[..., None] * target, axis=-1)
        return length**2 + image(length) ** 2 - 2 * aim

    high = jnp.linalg.norm(entries, axis=-1) + jnp.linalg.norm(target, axis=-1) + math.sqrt(count)
    low = 0 * high  # varies over devices as what is computed does
    fractions = jnp.linspace(0, 1, PARTS, dtype=x.dtype)

    def zoom(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        lengths = low + (high - low) * fractions.reshape(-1, *(1,) * low.ndim)
        best = jnp.argmin(lax.map(squared, lengths), axis=0)[None]
        neighbours = (jnp.clip(best + step, 0, PARTS - 1) for step in (-1, 1))
        low, high = (jnp.take_along_axis(lengths, place, axis=0)[0] for place in neighbours)
        return low, high

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        beyond = jax.jvp(squared, (middle,), (jnp.ones_like(middle),))[1] > 0
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    low, high = lax.fori_loop(0, BISECTIONS, halve, lax.fori_loop(0, ZOOMS, zoom, (low, high)))
    length = (low + high) / 2
    aim = length[..., None] * entries + image(length)[..., None] * target
    norm = jnp.linalg.norm(aim, axis=-1, keepdims=True)
    direction = aim / jnp.where(norm > 0, norm, 1)  # of nothing to aim at none: all entries become equal
    new_z = image(length)[..., None] * direction
    return length[..., None] * direction - entries, new_z - z
