"""Textbook projection of a dense layer: every dot product with its own stored copies."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.bilinear import reference


def dense_increments(
    x: Array, w: Array, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    del precision  # there is no matrix product here
    copies = (x.shape[0], w.shape[1], x.shape[1])
    x_copies = jnp.broadcast_to(x[:, None, :], copies)
    w_copies = jnp.broadcast_to(w.T[None, :, :], copies)
    x_changes, w_changes, z_change = reference.bilinear_increments(x_copies, w_copies, z, residual)
    batch, width, _ = copies
    return jnp.sum(x_changes, axis=1) / max(width, 1), jnp.sum(w_changes, axis=0).T / max(batch, 1), z_change
