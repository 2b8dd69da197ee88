"""Projection of a dense layer with stored deviations, in jax.numpy: any platform."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels import roots, sums
from pjax_kernels.bilinear.xla import coefficients
from pjax_kernels.dense_copies.reference import Moves
from pjax_kernels.meshes import in_shards, shards

_BLOCK = 1 << 16
"""Entries of ``u`` that are computed at a time: few enough to stay in the cache of a CPU core."""


class _Layer(NamedTuple):
    """All rows, or a block of them, in ``S`` parts that devices may hold; ``w`` transposed."""

    x: Array  # (S, B/S, N)
    w: Array  # (M, N)
    u: Array  # (S, B/S, M, N)
    v: Array  # (S, B/S, M, N)
    z: Array  # (S, B/S, M)
    residual: Array | None  # (S, B/S, M), of what the copies have in common


class _Result(NamedTuple):
    """What comes of all rows, of those done so far, or of a block."""

    u: Array  # (S, B/S, M, N)
    v: Array  # (S, B/S, M, N)
    x_sum: Array  # (S, B/S, N)
    w_sum: Array  # (M, N)
    z_change: Array  # (S, B/S, M)


def dense_copies(
    x: Array, w: Array, u: Array, v: Array, z: Array, moves: Moves, residual: Array | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """The new ``u`` and ``v``, the mean changes of ``x`` (B, N) and ``w`` (N, M), the change of ``z`` (B, M)."""
    if x.shape[1] == 0:  # the only point of the set has z = 0
        return u, v, x, w, -z
    batch, width = z.shape
    x, u, v, z, residual = jax.tree.map(lambda array: in_shards(array, shards(batch)), (x, u, v, z, residual))
    layer = _Layer(x, w.T, u, v, z, residual)
    rows, blocks = _in_blocks(z.shape[1], w.size)
    first = z.shape[1] - blocks * rows

    def advance(done: _Result, start: int | Array, size: Any) -> _Result:
        # In place: u and v are read a block at a time, each before it is written.
        new = _project_rows(layer._replace(u=done.u, v=done.v), done.w_sum, start, size, moves)
        return _Result(
            u=lax.dynamic_update_slice_in_dim(done.u, new.u, start, 1),
            v=lax.dynamic_update_slice_in_dim(done.v, new.v, start, 1),
            x_sum=lax.dynamic_update_slice_in_dim(done.x_sum, new.x_sum, start, 1),
            w_sum=new.w_sum,
            z_change=lax.dynamic_update_slice_in_dim(done.z_change, new.z_change, start, 1),
        )

    nothing = jax.tree.map(jnp.zeros_like, (x, layer.w, z))
    # What is added depends on the rows, as under shard_map the types of the carry must say.
    done = _Result(u, v, nothing[0], nothing[1] + 0 * jnp.sum(nothing[2]), nothing[2])
    if is_symbolic_dim(first) or first:
        done = advance(done, 0, first)
    if blocks:
        done = lax.fori_loop(0, blocks, lambda k, done: advance(done, first + k * rows, rows), done)
    u, v, x_sum, z_change = (
        array.reshape(batch, *array.shape[2:]) for array in (done.u, done.v, done.x_sum, done.z_change)
    )
    return u, v, x_sum / max(width, 1), done.w_sum.T / max(batch, 1), z_change


def _in_blocks(batch: Any, size: int) -> tuple[Any, Any]:
    """How many rows of that size to take at a time, and how often; rows that are left over are a block of their own."""
    if is_symbolic_dim(batch):
        return 0, 0
    most = max(1, min(batch, _BLOCK // max(size, 1)))
    # Without rest where that is possible with blocks at least half as large: what is left over is compiled once more.
    rows = next((rows for rows in range(most, most // 2, -1) if batch % rows == 0), most)
    return rows, batch // rows


def _project_rows(layer: _Layer, w_sum: Array, start: int | Array, size: Any, moves: Moves) -> _Result:
    """The result for ``size`` rows of each part, and what ``w_sum`` is with them."""
    own = (layer.x, layer.u, layer.v, layer.z, layer.residual)
    x, u, v, z, residual = jax.tree.map(lambda y: lax.dynamic_slice_in_dim(y, start, size, 1), own)
    block = _Layer(x, layer.w, u, v, z, residual)
    a, b = _copies(block, moves)
    # The copies of the block enter the loop for far roots: all of u and v, which are overwritten next, would be copied.
    found = coefficients(a, b, _equations(a, b, block, moves))
    gamma, sign, rest, free = (array[..., None] for array in found[1:])
    of_x, of_w = (gamma * (a + sign * b), rest * b + free), (gamma * (b + sign * a), rest * a + sign * free)
    # The changes are formed for each use: to store them would cost more.
    u = _added(moves.keep[0], u, moves.gain[0] * jnp.add(*of_x))
    v = _added(moves.keep[1], v, moves.gain[1] * jnp.add(*of_w))
    x_sum = jnp.add(*sums.over_axis(of_x, -2))
    # Over the rows of each part first: that sum is made by compilers for each device apart.
    new_w_sum = w_sum + jnp.sum(jnp.add(*sums.over_axis(of_w, 1)), axis=0)
    # All is read before any is overwritten: else compilers, which see no order, would copy u and v whole.
    results, operands = (u, x_sum, new_w_sum), (v, x, w_sum)
    (u, x_sum, w_sum), (v, _, _) = roots.replaced_if(~roots.always(z), _exchanged, (results, operands))
    return _Result(u, v, x_sum, w_sum, found.z_change)


def _exchanged(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """The second and the first, each in the dtypes of the other."""
    first, second = pair

    def like(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: n.astype(o.dtype), new, old)

    return like(second, first), like(first, second)


def _deviations(block: _Layer, moves: Moves) -> tuple[Array, Array]:
    """Those of the copies of ``x`` and of ``w`` (S, B/S, M, N) from what they have in common."""
    scale_u, scale_v = moves.scale
    dtype = block.x.dtype
    return scale_u * block.u.astype(dtype), scale_v * block.v.astype(dtype)


def _copies(block: _Layer, moves: Moves) -> tuple[Array, Array]:
    """The copies of ``x`` and of ``w`` (S, B/S, M, N)."""
    of_x, of_w = _deviations(block, moves)
    return block.x[..., None, :] + of_x, block.w + of_w


def _added(keep: Array, old: Array, change: Array) -> Array:
    """``keep * old + change``, rounded once, to the dtype of ``old``."""
    # Nothing of what is not kept, which may be NaN; and a known 0 lets the compiler drop it.
    kept = jnp.where(keep == 0, 0, keep * old.astype(change.dtype))
    return (kept + change).astype(old.dtype)


def _equations(a: Array, b: Array, block: _Layer, moves: Moves) -> roots.Equations:
    """``a . b``, ``|a|^2 + |b|^2``, ``z``, and what that has beyond ``a . b`` where it is known."""
    squares = a * a + b * b
    if block.residual is None:
        p, q = sums.over_rows((a * b, squares))
        return p, q, block.z, None
    of_x, of_w = _deviations(block, moves)
    # By the copy b, which is computed anyway: by a and the weights themselves it takes a tenth longer.
    growth, q = sums.over_rows((of_x * b + block.x[..., None, :] * of_w, squares))
    residual = block.residual - growth
    return block.z - residual, q, block.z, residual
