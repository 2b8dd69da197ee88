"""Projection onto a line in jax.numpy: any platform."""

from __future__ import annotations

from jax import Array


def affine_increments(x: Array, z: Array, scale: Array, offset: Array) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``, from the residual: they are often smaller than the rounding of the values."""
    share = (z - (scale * x + offset)) / (1 + scale * scale)
    return scale * share, -share
