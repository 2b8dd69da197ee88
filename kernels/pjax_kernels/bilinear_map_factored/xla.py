"""Projection of the dot products of any bilinear map in factored form, by linear transposition: any platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import Array

from pjax_kernels import factored
from pjax_kernels.bilinear_map.xla import dot_products
from pjax_kernels.combination import Combination, FactoredChanges
from pjax_kernels.dot_products import Tree


def factored_increments(
    x: Sequence[Tree],
    w: Sequence[Tree],
    u: Combination,
    v: Combination,
    z: Array,
    *,
    residual: Array | None = None,
    **settings: Any,
) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    return factored.factored_increments(dot_products(x=x[0], w=w[0], z=z, **settings), x, w, u, v, z, residual)


def factored_formula(
    z_change: Array, x: Sequence[Tree], w: Sequence[Tree], u: Combination, v: Combination, z: Array, **settings: Any
) -> FactoredChanges:
    """The same from roots that are known, and differentiable."""
    return factored.factored_formula(z_change, dot_products(x=x[0], w=w[0], z=z, **settings), x, w, u, v, z)
