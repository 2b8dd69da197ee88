"""Textbook projection of a bilinear map: the copies found from the map itself, and every one of them stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from pjax_kernels.bilinear import reference
from pjax_kernels.dot_products import BilinearMap, Tree


class Selection(NamedTuple):
    """Dot products of one length: their places in ``z``, and those of their entries in ``x`` and ``w``, all flat."""

    outputs: NDArray[np.intp]  # (count,)
    x: NDArray[np.intp]  # (count, length)
    w: NDArray[np.intp]  # (count, length)


def bilinear_map_increments(
    x: Tree, w: Tree, z: Array, *, bilinear: BilinearMap, precision: str | None, residual: Array | None = None
) -> tuple[Tree, Tree, Array]:
    """The mean changes of ``x`` and ``w``, and the change of ``z``."""
    del precision  # of the map nothing is taken but what it selects
    return selected_increments(selections(bilinear, x, w), x, w, z, residual)


def selected_increments(
    selected: Sequence[Selection], x: Tree, w: Tree, z: Array, residual: Array | None = None
) -> tuple[Tree, Tree, Array]:
    """The same, for given selections."""
    flat_x, flat_w, flat_z = flat(x), flat(w), z.ravel()
    changes = [
        reference.bilinear_increments(
            flat_x[chosen.x],
            flat_w[chosen.w],
            flat_z[chosen.outputs],
            None if residual is None else residual.ravel()[chosen.outputs],
        )
        for chosen in selected
    ]
    z_change = jnp.zeros_like(flat_z)
    for chosen, (_, _, change) in zip(selected, changes, strict=True):
        z_change = z_change.at[chosen.outputs].set(change)
    return (
        mean_at(x, [chosen.x for chosen in selected], [change for change, _, _ in changes]),
        mean_at(w, [chosen.w for chosen in selected], [change for _, change, _ in changes]),
        z_change.reshape(z.shape),
    )


def selections(bilinear: BilinearMap, x: Tree, w: Tree) -> list[Selection]:
    """What each output of the map selects, by its values at all pairs of unit vectors."""

    def units(tree: Tree) -> Tree:
        leaves, structure = jax.tree.flatten(tree)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = np.split(np.eye(ends[-1], dtype=np.float32), ends[:-1], axis=1)
        return jax.tree.unflatten(
            structure, [part.reshape(ends[-1], *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        )

    with jax.ensure_compile_time_eval():
        pairs = jax.vmap(jax.vmap(bilinear, (None, 0)), (0, None))
        table = np.asarray(pairs(units(x), units(w)))
    table = table.reshape(*table.shape[:2], math.prod(table.shape[2:]))
    if not np.isin(table, (0, 1)).all():
        wrong = table[~np.isin(table, (0, 1))][0]
        raise ValueError(
            f"project_bilinear_map: bilinear multiplies a product of entries by {wrong}, "
            f"but each output must be a dot product of selected entries"
        )
    return by_length([np.nonzero(table[:, :, output]) for output in range(table.shape[2])])


def by_length(entries: Sequence[tuple[Any, ...]]) -> list[Selection]:
    """The places in ``x`` and ``w`` of the entries of each output, gathered by how many there are."""
    lengths = np.array([len(places) for places, _ in entries], np.intp)
    chosen = []
    for length in np.unique(lengths):
        outputs = np.flatnonzero(lengths == length)
        x, w = (np.array([entries[output][side] for output in outputs.tolist()], np.intp) for side in (0, 1))
        chosen.append(Selection(outputs, x, w))
    return chosen


def flat(tree: Tree) -> Array:
    """All entries in one row."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def mean_at(tree: Tree, places: Sequence[NDArray[np.intp]], changes: Sequence[Array]) -> Tree:
    """The mean, for each entry of ``tree``, of the changes at its places; zero where there are none."""
    total, count = jnp.zeros_like(flat(tree)), np.zeros(flat(tree).shape)
    for where, change in zip(places, changes, strict=True):
        total = total.at[where].add(change)
        np.add.at(count, where, 1)
    mean = total / np.maximum(count, 1).astype(total.dtype)
    leaves, structure = jax.tree.flatten(tree)
    parts = jnp.split(mean, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])
