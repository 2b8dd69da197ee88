"""Textbook projection onto a whole layer: its Jacobians as matrices, its equations solved as they stand."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
from jax import Array

from pjax_kernels.dot_products import BilinearMap, Tree


class Rule(NamedTuple):
    """How a layer is projected: the settings of :func:`pjax_kernels.project_layer`."""

    name: str
    b: float
    c: float
    steps: int
    moves_x: bool


NEGLIGIBLE = 2.0**20
"""In units of the least normal number: mean squares of inputs below count as so much, and their weights do not move."""


def layer_increments(
    x: Tree, w: Tree, z: Array, residual: Array | None = None, *, bilinear: BilinearMap, rule: Rule
) -> tuple[Tree, Tree, Array]:
    """The changes of ``x``, ``w`` and ``z``; no number of steps approximates them."""
    flat_x, unflatten_x = jax.flatten_util.ravel_pytree(x)
    flat_w, unflatten_w = jax.flatten_util.ravel_pytree(w)
    by_x = jax.jacobian(lambda flat: bilinear(unflatten_x(flat), w).ravel())(flat_x)
    by_x = by_x if rule.moves_x else jnp.zeros_like(by_x)
    by_w = jax.jacobian(lambda flat: bilinear(x, unflatten_w(flat)).ravel())(flat_w)
    residual = (z - bilinear(x, w) if residual is None else residual).ravel()
    rows = z.size // z.shape[-1]
    lengths = [array.size // z.shape[-1] for array in jax.tree.leaves(w)]
    squares = [jnp.mean(array**2) for array in jax.tree.leaves(x)]
    x_squared = sum(length * square for length, square in zip(lengths, squares, strict=True))
    x_squared = jnp.maximum(x_squared, NEGLIGIBLE * jnp.finfo(z.dtype).tiny)
    w_squared = jnp.sum(flat_w**2) / z.shape[-1]
    mobility, one = rule.b / (rows * x_squared), jnp.eye(z.size)

    if rule.name == "coupled":
        slack = rule.c * (w_squared + rule.b / rows)
        multiplier = jnp.linalg.solve(by_x @ by_x.T + mobility * by_w @ by_w.T + slack * one, residual)
        x_change, w_change, z_change = by_x.T @ multiplier, mobility * by_w.T @ multiplier, -slack * multiplier
    else:
        x_change = by_x.T @ residual / (1 + w_squared)
        if rule.name == "apart":
            w_change = mobility * by_w.T @ jnp.linalg.solve(one + mobility * by_w @ by_w.T, residual)
        else:
            # The sum of the rows of each column of w, in its own place: as many shared directions as columns.
            columns = by_w.reshape(rows, z.shape[-1], -1)
            shared = jnp.sum(columns, axis=0)
            norm = jnp.linalg.norm(shared, axis=1, keepdims=True)
            shared = shared / jnp.where(norm > 0, norm, 1)
            stiffness = rule.b * jnp.mean(jnp.einsum("rkn,kn->rk", columns, shared) ** 2) / x_squared
            gradient = by_w.T @ residual
            along = shared.T @ (shared @ gradient)
            w_change = (gradient - stiffness / (1 + stiffness) * along) / (rows * x_squared)
        z_change = by_w @ w_change - residual
    return unflatten_x(x_change), unflatten_w(w_change), z_change.reshape(z.shape)
