"""Projection of a dense layer in factored form, in jax.numpy: any platform."""

from __future__ import annotations

from collections.abc import Sequence

from jax import Array, lax

from pjax_kernels import factored
from pjax_kernels.combination import Combination, FactoredChanges
from pjax_kernels.dense.xla import dot_products


def factored_increments(
    x: Sequence[Array], w: Sequence[Array], u: Combination, v: Combination, z: Array, *, precision: lax.PrecisionLike
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    return factored.factored_increments(dot_products(x[0], w[0], precision=precision), x, w, u, v, z)


def factored_formula(
    z_change: Array,
    x: Sequence[Array],
    w: Sequence[Array],
    u: Combination,
    v: Combination,
    z: Array,
    *,
    precision: lax.PrecisionLike,
) -> FactoredChanges:
    """The same from roots that are known, and differentiable."""
    return factored.factored_formula(z_change, dot_products(x[0], w[0], precision=precision), x, w, u, v, z)
