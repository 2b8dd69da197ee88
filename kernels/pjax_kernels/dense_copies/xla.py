"""Projection of a dense layer with stored deviations, in jax.numpy: any platform."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels import root
from pjax_kernels.bilinear import xla
from pjax_kernels.meshes import in_shards, shards

Pair = tuple[Array, Array]

_BLOCK = 1 << 16
"""Entries of ``u`` that are computed at a time: few enough to stay in the cache of a CPU core."""

_PARTS = 16
"""Largest number of parts into which :func:`_inner_products` cuts a vector."""


class _Layer(NamedTuple):
    """All rows, or a block of them, in ``S`` parts that devices may hold; ``w`` transposed."""

    x: Array  # (S, B/S, N)
    w: Array  # (M, N)
    u: Array  # (S, B/S, M, N)
    v: Array  # (S, B/S, M, N)
    z: Array  # (S, B/S, M)


class _Result(NamedTuple):
    """What comes of all rows, of those done so far, or of a block."""

    u: Array  # (S, B/S, M, N)
    v: Array  # (S, B/S, M, N)
    x_sum: Array  # (S, B/S, N)
    w_sum: Array  # (M, N)
    z_change: Array  # (S, B/S, M)


class _Settings(NamedTuple):
    """For the copies of ``x`` and of ``w``."""

    scale: Pair
    keep: Pair
    gain: Pair


def dense_copies(
    x: Array, w: Array, u: Array, v: Array, z: Array, *, scale: Pair, keep: Pair, gain: Pair
) -> tuple[Array, Array, Array, Array, Array]:
    """The new ``u`` and ``v``, the mean changes of ``x`` (B, N) and ``w`` (N, M), the change of ``z`` (B, M)."""
    batch, width = z.shape
    x, u, v, z = (in_shards(array, shards(batch)) for array in (x, u, v, z))
    layer, settings = _Layer(x, w.T, u, v, z), _Settings(scale, keep, gain)
    rows = max(1, _BLOCK // max(w.size, 1))
    blocks = 1 if is_symbolic_dim(batch) else max(1, -(-z.shape[1] // rows))
    first = z.shape[1] - (blocks - 1) * rows

    def advance(done: _Result, start: int | Array, size: int) -> _Result:
        # In place: u and v are read a block at a time, each before it is written.
        new = _project_rows(layer._replace(u=done.u, v=done.v), start, size, settings)
        return _Result(
            u=lax.dynamic_update_slice_in_dim(done.u, new.u, start, 1),
            v=lax.dynamic_update_slice_in_dim(done.v, new.v, start, 1),
            x_sum=lax.dynamic_update_slice_in_dim(done.x_sum, new.x_sum, start, 1),
            w_sum=done.w_sum + new.w_sum,
            z_change=lax.dynamic_update_slice_in_dim(done.z_change, new.z_change, start, 1),
        )

    # The first block, which may be smaller, is outside the loop: under shard_map its result has the types of the carry.
    done = advance(_Result(u, v, jnp.zeros_like(x), jnp.zeros_like(layer.w), jnp.zeros_like(z)), 0, first)
    if blocks > 1:
        done = lax.fori_loop(1, blocks, lambda k, done: advance(done, first + (k - 1) * rows, rows), done)
    u, v, x_sum, z_change = (
        array.reshape(batch, *array.shape[2:]) for array in (done.u, done.v, done.x_sum, done.z_change)
    )
    return u, v, x_sum / max(width, 1), done.w_sum.T / max(batch, 1), z_change


def _project_rows(layer: _Layer, start: int | Array, size: int, settings: _Settings) -> _Result:
    """The result for ``size`` rows of each part: by near roots, nearly always right, and again if one was not near."""

    def block() -> _Layer:
        x, u, v, z = (lax.dynamic_slice_in_dim(y, start, size, 1) for y in (layer.x, layer.u, layer.v, layer.z))
        return _Layer(x, layer.w, u, v, z)

    def again(found: tuple[Array, _Result]) -> tuple[Array, _Result]:
        # Sliced anew, so that what enters the loop is no copy of the block.
        return jnp.zeros_like(found[0]), _any(block(), settings)

    # A loop that ends at once costs less than a branch: it leaves the common case in the main program.
    return lax.while_loop(lambda found: found[0], again, _near(block(), settings))[1]


def _near(block: _Layer, settings: _Settings) -> tuple[Array, _Result]:
    """Whether some root is not near, and the result where all are."""
    a, b = _copies(block, settings)
    p, q = _inner_products(a, b)
    scaled = root.scaled_residual(p, q, block.z)
    is_far = ~(jnp.max(jnp.abs(scaled), initial=0) <= root.near_limits(scaled.dtype)[-1])  # nor is what is not a number
    t, beta, gamma, _ = root.near_coefficients(root.near_root(scaled, p, q, steps=3))
    beta, gamma = beta[..., None], gamma[..., None]
    gain_u, gain_v = settings.gain
    return is_far, _Result(
        # The changes are formed for each use: to store them would cost more.
        u=_added(settings.keep[0], block.u, (gain_u * gamma) * a + (gain_u * beta) * b),
        v=_added(settings.keep[1], block.v, (gain_v * gamma) * b + (gain_v * beta) * a),
        x_sum=jnp.add(*_sums(gamma * a, beta * b, axis=-2)),
        # Over the rows of each part first: that sum is made by compilers for each device apart.
        w_sum=jnp.sum(jnp.add(*_sums(gamma * b, beta * a, axis=1)), axis=0),
        z_change=-t,
    )


def _any(block: _Layer, settings: _Settings) -> _Result:
    """The result whatever the roots."""
    u_change, v_change, z_change = xla.bilinear_increments(*_copies(block, settings), block.z)
    return _Result(
        u=_added(settings.keep[0], block.u, settings.gain[0] * u_change),
        v=_added(settings.keep[1], block.v, settings.gain[1] * v_change),
        x_sum=jnp.sum(u_change, axis=-2),
        w_sum=jnp.sum(v_change, axis=(0, 1)),
        z_change=z_change,
    )


def _copies(block: _Layer, settings: _Settings) -> tuple[Array, Array]:
    """The copies of ``x`` and of ``w`` (S, B/S, M, N)."""
    scale_u, scale_v = settings.scale
    dtype = block.x.dtype
    return block.x[..., None, :] + scale_u * block.u.astype(dtype), block.w + scale_v * block.v.astype(dtype)


def _added(keep: Array, old: Array, change: Array) -> Array:
    """``keep * old + change``, rounded once, to the dtype of ``old``."""
    # Nothing of what is not kept, which may be NaN; and a known 0 lets the compiler drop it.
    kept = jnp.where(keep == 0, 0, keep * old.astype(change.dtype))
    return (kept + change).astype(old.dtype)


def _inner_products(a: Array, b: Array) -> tuple[Array, Array]:
    """``a . b`` and ``|a|^2 + |b|^2`` over the last axis."""
    # Sums of a few numbers that are far apart in memory vectorise; those of neighbours wait for each other.
    length = a.shape[-1]
    parts = max(count for count in range(1, _PARTS + 1) if length % count == 0)
    a, b = (y.reshape(*y.shape[:-1], parts, length // parts) for y in (a, b))
    p, q = _sums(a * b, a * a + b * b, axis=-2)
    return jnp.sum(p, axis=-1), jnp.sum(q, axis=-1)


def _sums(x: Array, y: Array, *, axis: int) -> tuple[Array, Array]:
    """Both sums in one pass, without storing the terms, as two calls of jnp.sum would have it done on a CPU."""
    zero = np.zeros((), x.dtype)

    def add(total: tuple[Array, Array], terms: tuple[Array, Array]) -> tuple[Array, Array]:
        return total[0] + terms[0], total[1] + terms[1]

    return lax.reduce((x, y), (zero, zero), add, (axis % x.ndim,))
