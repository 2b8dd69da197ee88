"""Projection of the dot products of any bilinear map in consensus form, by linear transposition: any platform."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import is_symbolic_dim
from jax.typing import ArrayLike

from pjax_kernels.consensus import consensus_increments
from pjax_kernels.dot_products import BilinearMap, DotProducts, Tree
from pjax_kernels.known import computed


def bilinear_map_increments(
    x: Tree, w: Tree, z: Array, *, bilinear: BilinearMap, precision: str | None, residual: Array | None = None
) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``."""
    return consensus_increments(dot_products(bilinear, x, w, z, precision=precision), x, w, z, residual)


def dot_products(bilinear: BilinearMap, x: Tree, w: Tree, z: Array, *, precision: str | None) -> DotProducts:
    """Those of ``bilinear`` for operands and outputs like ``x``, ``w`` and ``z``."""
    like_x, like_w = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (x, w))

    def product(x: Tree, w: Tree) -> Array:
        with jax.default_matmul_precision(precision):
            return bilinear(x, w).astype(z.dtype)

    def to_x(c: Array, w: Tree) -> Tree:
        return transposed(lambda x: product(x, w), like_x, c)

    def to_w(c: Array, x: Tree) -> Tree:
        return transposed(lambda w: product(x, w), like_w, c)

    def ones(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), tree)

    is_open = any(is_symbolic_dim(leaf.size) for leaf in jax.tree.leaves((x, w, z)))
    counts = None if is_open else _counts(product, to_x, to_w, (x, w, z))
    x_ones, w_ones = ones((x, w))  # not of NumPy, which would be constants of the compiled program
    if counts is None:
        one = ones(z)
        counts = product(x_ones, w_ones), to_x(one, w_ones), to_w(one, x_ones)
    length, x_copies, w_copies = counts
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


def _counts(
    product: Callable[[Tree, Tree], Array],
    to_x: Callable[[Array, Tree], Tree],
    to_w: Callable[[Array, Tree], Tree],
    like: tuple[Tree, Tree, Array],
) -> tuple[ArrayLike, Tree, Tree] | None:
    """The length of the dot products, and how many copies they hold of each entry; None of a map that is traced.

    Counted once, while tracing: every other way counts anew in every call.
    """
    x, w, one = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), like)
    counts = computed(lambda x, w, one: (product(x, w), to_x(one, w), to_w(one, x)), x, w, one)
    if counts is None:
        return None
    _require_selection(to_x, to_w, w, one, jax.tree.leaves(counts))
    return jax.tree.map(_compact, counts)


def _require_selection(
    to_x: Callable[[Array, Tree], Tree],
    to_w: Callable[[Array, Tree], Tree],
    w_ones: Tree,
    one: np.ndarray,
    counts: list[np.ndarray],
) -> None:
    """Raise ``ValueError`` where the map is found to do more than select entries.

    All counts must be whole, and the pairs of one entry of ``x`` in the first and in the last output be single.  That
    costs a few evaluations while tracing, and tells a factor from a selection; the reference looks at every pair.
    """
    if any(count.size == 0 for count in counts):
        return
    wrong = next((c[c != abs(np.rint(c))] for c in counts if (c != abs(np.rint(c))).any()), None)
    for output in {0, one.size - 1}:
        at_output = np.zeros_like(one)
        at_output.flat[output] = 1
        leaves, structure = jax.tree.flatten(computed(to_x, at_output, w_ones))
        flat = np.concatenate([leaf.ravel() for leaf in leaves])
        if wrong is None and flat.any():
            unit = np.zeros(flat.size, one.dtype)
            unit[np.argmax(abs(flat))] = 1
            parts = np.split(unit, np.cumsum([leaf.size for leaf in leaves])[:-1])
            entry = jax.tree.unflatten(
                structure, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
            )
            pairs = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(computed(to_w, at_output, entry))])
            wrong = pairs[~np.isin(pairs, (0, 1))] if not np.isin(pairs, (0, 1)).all() else None
    if wrong is not None:
        raise ValueError(
            f"project_bilinear_map: bilinear multiplies products of entries by {wrong[0]}, "
            f"but each output must be a dot product of selected entries"
        )


def transposed(linear: Callable[[Tree], Array], like: Tree, c: Array) -> Tree:
    """The transpose of ``linear``, whose argument is like ``like``, applied to ``c``."""
    # Under shard_map, the transpose in an operand that all shards share would sum over the shards.
    like = jax.tree.map(lambda leaf: jax.eval_shape(lambda leaf, c: leaf + jnp.sum(c), leaf, c), like)
    (result,) = jax.linear_transpose(linear, like)(c)
    return result


def _compact(counts: np.ndarray) -> np.ndarray:
    """With length 1 along every axis where nothing changes: counts are constants in the compiled program."""
    for axis in range(counts.ndim):
        first = counts.take([0], axis) if counts.shape[axis] else counts
        counts = first if (counts == first).all() else counts
    return counts
