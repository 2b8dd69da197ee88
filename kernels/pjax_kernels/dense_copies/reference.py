"""Textbook projection of a dense layer with stored deviations: every copy formed."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pjax_kernels.bilinear import reference

Pair = tuple[Array, Array]


class Moves(NamedTuple):
    """How the deviations are used and updated, for the copies of ``x`` and of ``w``."""

    scale: Pair
    keep: Pair
    gain: Pair


def dense_copies(
    x: Array, w: Array, u: Array, v: Array, z: Array, moves: Moves, residual: Array | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """The new ``u``, ``v``, the mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    scale, keep, gain = moves
    wide_u, wide_v = u.astype(x.dtype), v.astype(x.dtype)
    x_copies, w_copies = x[:, None, :] + scale[0] * wide_u, w.T[None, :, :] + scale[1] * wide_v
    if residual is not None:
        of_u = jnp.sum(scale[0] * wide_u * w.T, axis=-1)
        residual = residual - (of_u + jnp.sum(x_copies * scale[1] * wide_v, axis=-1))
    u_change, v_change, z_change = reference.bilinear_increments(x_copies, w_copies, z, residual)
    batch, width = z.shape
    return (
        (keep[0] * wide_u + gain[0] * u_change).astype(u.dtype),
        (keep[1] * wide_v + gain[1] * v_change).astype(v.dtype),
        jnp.sum(u_change, axis=1) / max(width, 1),
        jnp.sum(v_change, axis=0).T / max(batch, 1),
        z_change,
    )
