"""Projection of the dot products of any bilinear map in consensus form, by linear transposition: any platform."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels.consensus import consensus_increments
from pjax_kernels.dot_products import BilinearMap, DotProducts, Tree


def bilinear_map_increments(
    x: Tree, w: Tree, z: Array, *, bilinear: BilinearMap, residual: Array | None = None
) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``."""
    return consensus_increments(dot_products(bilinear, x, w, z), x, w, z, residual)


def dot_products(bilinear: BilinearMap, x: Tree, w: Tree, z: Array) -> DotProducts:
    """Those of ``bilinear`` for operands and outputs like ``x``, ``w`` and ``z``."""
    like_x, like_w = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (x, w))

    def product(x: Tree, w: Tree) -> Array:
        return bilinear(x, w).astype(z.dtype)

    def to_x(c: Array, w: Tree) -> Tree:
        return transposed(lambda x: product(x, w), like_x, c)

    def to_w(c: Array, x: Tree) -> Tree:
        return transposed(lambda w: product(x, w), like_w, c)

    def ones(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), tree)

    # Evaluated once, while tracing: every other way would count anew in every call.
    with jax.ensure_compile_time_eval():
        counted_x, counted_w, one = ones((x, w, z))
        length, x_copies, w_copies = jax.tree.map(
            _compact, (product(counted_x, counted_w), to_x(one, counted_w), to_w(one, counted_x))
        )
    x_ones, w_ones = ones((x, w))  # not those above, which would be constants of the compiled program
    return DotProducts(
        product,
        of_x=lambda x: product(x, w_ones),
        of_w=lambda w: product(x_ones, w),
        to_x=to_x,
        to_w=to_w,
        spread_x=lambda c: to_x(c, w_ones),
        spread_w=lambda c: to_w(c, x_ones),
        length=length,
        x_copies=x_copies,
        w_copies=w_copies,
    )


def transposed(linear: Callable[[Tree], Array], like: Tree, c: Array) -> Tree:
    """The transpose of ``linear``, whose argument is like ``like``, applied to ``c``."""
    # Under shard_map, the transpose in an operand that all shards share would sum over the shards.
    like = jax.tree.map(lambda leaf: jax.eval_shape(lambda leaf, c: leaf + jnp.sum(c), leaf, c), like)
    (result,) = jax.linear_transpose(linear, like)(c)
    return result


def _compact(counts: Array) -> ArrayLike:
    """With length 1 along every axis where nothing changes: counts are constants in the compiled program."""
    if isinstance(counts, jax.core.Tracer):  # the map itself depends on traced values
        return counts
    compact = np.asarray(counts)
    for axis in range(compact.ndim):
        first = compact.take([0], axis) if compact.shape[axis] else compact
        compact = first if (compact == first).all() else compact
    return compact
