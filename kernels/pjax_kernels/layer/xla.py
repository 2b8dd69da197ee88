"""Projection onto a whole layer in jax.numpy: any platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from pjax_kernels.bilinear_map.xla import transposed
from pjax_kernels.dot_products import BilinearMap, Tree
from pjax_kernels.layer.reference import NEGLIGIBLE, Rule
from pjax_kernels.roots import always, replaced_if


class Layer(NamedTuple):
    """A layer at the point that is projected, and what its metric is measured by.

    Attributes:
        product: ``F(x, w)``.
        to_x: ``F_x^T(c; w)``.
        to_w: ``F_w^T(c; x)``.
        rows: of each column of ``w``, how many dot products hold it.
        x_squared: the mean over all dot products of the sum of squares of their entries of ``x``.
        w_squared: that of their entries of ``w``.
    """

    product: BilinearMap
    to_x: Callable[[Array], Tree]
    to_w: Callable[[Array], Tree]
    rows: int
    x_squared: Array
    w_squared: Array


def layer_increments(
    x: Tree, w: Tree, z: Array, residual: Array | None = None, *, bilinear: BilinearMap, rule: Rule
) -> tuple[Tree, Tree, Array]:
    """The changes of ``x``, ``w`` and ``z``."""
    layer = _layer(bilinear, x, w, z)
    residual = z - bilinear(x, w) if residual is None else residual
    if rule.name == "coupled":
        x_change, w_change, z_change = _coupled(layer, x, w, residual, rule)
        return x_change if rule.moves_x else jax.tree.map(jnp.zeros_like, x), w_change, z_change
    of_x = 1 / (1 + layer.w_squared)
    x_change = _times(of_x, layer.to_x(residual)) if rule.moves_x else jax.tree.map(jnp.zeros_like, x)
    w_change = (_damped if rule.name == "rank one" else _whitened)(layer, x, w, residual, rule)
    return x_change, w_change, bilinear(x, w_change) - residual


def _layer(bilinear: BilinearMap, x: Tree, w: Tree, z: Array) -> Layer:

    def to_x(c: Array) -> Tree:
        return transposed(lambda x: bilinear(x, w), x, c)

    def to_w(c: Array) -> Tree:
        return transposed(lambda w: bilinear(x, w), w, c)

    return Layer(bilinear, to_x, to_w, *metric(x, w, z))


def _moves_of_output(layer: Layer, x: Tree, w: Tree, steps: int) -> tuple[Callable[[Array], Array], ...]:
    """By how much outputs move if inputs, or weights, are moved by ``c``: ``F(to_x(c), w)`` and ``F(x, to_w(c))``."""
    by_x, by_w = lambda c: layer.product(layer.to_x(c), w), lambda c: layer.product(x, layer.to_w(c))
    if layer.product is jnp.matmul and x.ndim == w.ndim == 2:
        # What is the same in all steps is formed once, where that takes fewer products.
        (rows, length), width = x.shape, w.shape[1]
        if width * length + steps * rows * width < 2 * steps * rows * length:
            of_weights = w.T @ w
            by_x = lambda c: c @ of_weights  # noqa: E731
        if rows * length + steps * rows * width < 2 * steps * length * width:
            of_inputs = x @ x.T
            by_w = lambda c: of_inputs @ c  # noqa: E731
    return by_x, by_w


def metric(x: Tree, w: Tree, z: Array) -> tuple[int, Array, Array]:
    """The last fields of :class:`Layer`."""
    width = max(z.shape[-1], 1)
    pairs = list(zip(jax.tree.leaves(x), jax.tree.leaves(w), strict=True))
    x_squared = jnp.asarray(sum(jnp.mean(x * x) * (w.size // width) for x, w in pairs))
    w_squared = jnp.asarray(sum(jnp.sum(w * w) for _, w in pairs)) / width
    return z.size // width, jnp.maximum(x_squared, NEGLIGIBLE * jnp.finfo(z.dtype).tiny), w_squared


def _coupled(layer: Layer, x: Tree, w: Tree, residual: Array, rule: Rule) -> tuple[Tree, Tree, Array]:
    mobility = rule.b / (layer.rows * layer.x_squared)
    slack = rule.c * (layer.w_squared + rule.b / layer.rows)

    def multiplier_of(residual: Array) -> Array:
        by_x, by_w = _moves_of_output(layer, x, w, rule.steps)

        def gain(multiplier: Array) -> Array:
            of_w_and_z = mobility * by_w(multiplier) + slack * multiplier
            return by_x(multiplier) + of_w_and_z if rule.moves_x else of_w_and_z

        return conjugate_gradients(gain, residual, rule.steps)

    # In a loop that runs once: compilers would form the products of all layers first, and hold them together.
    multiplier = replaced_if(always(residual), multiplier_of, residual)
    return layer.to_x(multiplier), _times(mobility, layer.to_w(multiplier)), -slack * multiplier


def _whitened(layer: Layer, x: Tree, w: Tree, residual: Array, rule: Rule) -> Tree:
    """The change of ``w`` with the inputs held: ``m X^T (1 + m X X^T)^-1 R``."""
    mobility = rule.b / (layer.rows * layer.x_squared)
    _, by_w = _moves_of_output(layer, x, w, rule.steps)

    def gain(multiplier: Array) -> Array:
        return multiplier + mobility * by_w(multiplier)

    return _times(mobility, layer.to_w(conjugate_gradients(gain, residual, rule.steps)))


def _damped(layer: Layer, x: Tree, w: Tree, residual: Array, rule: Rule) -> Tree:
    """The change of ``w`` with the inputs held, in a metric that is stiff along their mean."""
    column = jax.tree.map(lambda w: w[..., :1], w)
    one = jnp.ones((), residual.dtype)
    ones = jnp.where(residual[..., :1] == 0, one, one)  # of the residual's type: it may differ from shard to shard
    mean = transposed(lambda column: layer.product(x, column), column, ones)
    norm = jnp.sqrt(sum(jnp.sum(part * part) for part in jax.tree.leaves(mean)))
    mean = _times(1 / jnp.where(norm > 0, norm, 1), mean)
    along = layer.product(x, mean)
    stiffness = rule.b * jnp.mean(along * along) / layer.x_squared
    # What the gradient has along the mean, without a pass over it.
    shared = jnp.sum(along * residual, axis=tuple(range(residual.ndim - 1))) * (stiffness / (1 + stiffness))
    scale = 1 / (layer.rows * layer.x_squared)
    return jax.tree.map(lambda of_w, part: scale * (of_w - shared * part), layer.to_w(residual), mean)


def conjugate_gradients(gain: Callable[[Array], Array], target: Array, steps: int) -> Array:
    """About the solution of ``gain(x) = target``, a linear map that is symmetric and positive: from 0, some steps."""
    largest = jnp.max(jnp.abs(target), initial=0)
    scale = jnp.where(largest > 0, largest, 1)  # squares of a small target would underflow
    found, left = jnp.zeros_like(target), target / scale
    direction, squared = left, jnp.vdot(left, left)
    for _ in range(steps):
        image = gain(direction)
        step = _ratio(squared, jnp.vdot(direction, image))
        found, left = found + step * direction, left - step * image
        new_squared = jnp.vdot(left, left)
        direction, squared = left + _ratio(new_squared, squared) * direction, new_squared
    return scale * found


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient; 0 once there is nothing left to divide."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def _times(factor: Array, tree: Tree) -> Tree:
    return jax.tree.map(lambda array: factor * array, tree)
