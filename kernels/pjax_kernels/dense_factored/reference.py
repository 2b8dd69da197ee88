"""Textbook projection of a dense layer in factored form: every copy formed, the coefficients from its root."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.bilinear import reference
from pjax_kernels.combination import Combination, Copies, FactoredChanges, with_first_operands


def factored_increments(
    copies: Copies, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    del precision  # there is no matrix product here
    x, w, u, v = copies
    a, b = _formed(copies, u, z), _formed(copies, v, z)
    if residual is not None:
        u, v = with_first_operands(u, v)
        of_u, of_v, a, b = a, b, _formed(copies, u, z), _formed(copies, v, z)
        residual = residual - jnp.sum(of_u * w[0].T + a * of_v, axis=-1)
    found = reference.bilinear_root(a, b, z, residual)

    def changed(own: Combination, other: Combination) -> Combination:
        def change(a: Array | float, b: Array | float) -> Array:
            return found.gamma * a + found.beta * b

        return Combination(tuple(map(change, own.x, other.x)), tuple(map(change, own.w, other.w)))

    u_change, v_change = changed(u, v), changed(v, u)
    u_copies, v_copies = _formed(copies, u_change, z), _formed(copies, v_change, z)
    squared_free = jnp.sum((1 + found.t**2) * found.radius**2)
    batch, width = z.shape
    return FactoredChanges(
        u_change,
        v_change,
        x_mean=jnp.sum(u_copies, axis=1) / max(width, 1),
        w_mean=jnp.sum(v_copies, axis=0).T / max(batch, 1),
        z_change=-found.t,
        squared_change=jnp.sum(u_copies**2 + v_copies**2) + squared_free,
        squared_free=squared_free,
    )


def _formed(copies: Copies, combination: Combination, z: Array) -> Array:
    """The combinations of their operands, ``(B, M, N)``."""
    formed = jnp.zeros((*z.shape, copies.x[0].shape[1]), z.dtype)
    for coefficient, array in zip(combination.x, copies.x, strict=True):
        formed = formed + jnp.broadcast_to(coefficient, z.shape)[..., None] * array[:, None, :]
    for coefficient, array in zip(combination.w, copies.w, strict=True):
        formed = formed + jnp.broadcast_to(coefficient, z.shape)[..., None] * array.T[None, :, :]
    return formed
