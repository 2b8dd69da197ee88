"""Textbook projection onto a line, elementwise: the foot of the perpendicular."""

from __future__ import annotations

from jax import Array


def affine_increments(x: Array, z: Array, scale: Array, offset: Array) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``."""
    new_x = (x + scale * (z - offset)) / (1 + scale**2)
    return new_x - x, scale * new_x + offset - z
