"""Work that few rows of a batch need: these are gathered, block by block, and what becomes of them is put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.meshes import in_shards, shards

MOST_BLOCKS = 32
"""Rows are gathered in so many blocks at most."""


def replaced_where(
    far: Array, replace: Callable[..., Any], operands: Sequence[Any], results: Any, *, least: int
) -> Any:
    """``results``, where ``far`` with what ``replace`` makes of these rows of the ``operands``.

    All arrays have an axis of rows first.  ``replace`` gets blocks of at least ``least`` rows, with an axis of devices
    before that of rows, along which no row moves, and gives what ``results`` has for them.
    """
    parts = shards(far.size)
    far, operands, results = jax.tree.map(lambda array: in_shards(array, parts), (far, list(operands), results))
    rows_of_part = far.shape[1]
    counted = jnp.cumsum(far, axis=1, dtype=jnp.int32)
    places = jnp.broadcast_to(jnp.arange(rows_of_part, dtype=jnp.int32), far.shape)
    # The places of the far ones in turn, and after them one that no row has.
    in_turn = _put(jnp.full_like(places, rows_of_part), jnp.where(far, counted - 1, rows_of_part), places)
    most = jnp.max(counted[:, -1:], initial=0)
    block = min(rows_of_part, max(least, rows_of_part // MOST_BLOCKS))

    def advance(state: tuple[Array, Any]) -> tuple[Array, Any]:
        start, results = state
        rows = lax.dynamic_slice_in_dim(in_turn, start, block, 1)
        found = replace(*jax.tree.map(lambda array: _taken(array, rows), operands))
        return start + block, jax.tree.map(lambda old, new: _put(old, rows, new), results, found)

    _, results = lax.while_loop(lambda state: state[0] < most, advance, (jnp.zeros_like(most), results))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), results)


def _taken(arrays: Array, rows: Array) -> Array:
    """Some rows of each array; the last one for those beyond."""
    return jax.vmap(lambda array, k: array.at[k].get(mode="clip"))(arrays, rows)


def _put(arrays: Array, rows: Array, new: Array) -> Array:
    """The arrays with new rows; those beyond the last are dropped."""
    return jax.vmap(lambda array, k, new: array.at[k].set(new, mode="drop"))(arrays, rows, new)
