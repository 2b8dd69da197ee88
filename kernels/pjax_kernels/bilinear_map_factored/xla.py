"""Projection of the dot products of any bilinear map in factored form, by linear transposition: any platform."""

from __future__ import annotations

from typing import Any

from jax import Array

from pjax_kernels import factored
from pjax_kernels.bilinear_map.xla import dot_products
from pjax_kernels.combination import Copies, FactoredChanges
from pjax_kernels.dot_products import DotProducts


def factored_increments(copies: Copies, z: Array, *, residual: Array | None = None, **of_map: Any) -> FactoredChanges:
    """The changes of the coefficients, the mean changes of the copies, and the change of ``z``."""
    return factored.factored_increments(_dot_products(copies, z, **of_map), copies, z, residual)


def factored_formula(z_change: Array, copies: Copies, z: Array, **of_map: Any) -> FactoredChanges:
    """The same from roots that are known, and differentiable."""
    return factored.factored_formula(z_change, _dot_products(copies, z, **of_map), copies, z)


def _dot_products(copies: Copies, z: Array, **of_map: Any) -> DotProducts:
    return dot_products(x=copies.x[0], w=copies.w[0], z=z, **of_map)
