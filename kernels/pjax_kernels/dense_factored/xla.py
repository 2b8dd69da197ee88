"""Projection of a dense layer in factored form, in jax.numpy: any platform."""

from __future__ import annotations

from jax import Array, lax

from pjax_kernels import factored
from pjax_kernels.combination import Copies, FactoredChanges
from pjax_kernels.dense.xla import dot_products


def factored_increments(
    copies: Copies, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    dots = dot_products(copies.x[0], copies.w[0], precision=precision)
    return factored.factored_increments(dots, copies, z, residual)


def factored_formula(z_change: Array, copies: Copies, z: Array, *, precision: lax.PrecisionLike) -> FactoredChanges:
    """The same from roots that are known, and differentiable."""
    dots = dot_products(copies.x[0], copies.w[0], precision=precision)
    return factored.factored_formula(z_change, dots, copies, z)
