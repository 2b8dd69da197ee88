"""Projection of a dense layer with stored deviations on a GPU: one pass over ``u`` and ``v``, in place.

A program takes ``ROWS`` rows of ``x`` and ``COLUMNS`` columns of ``w``.  For one row after the other it runs over the
columns, a tile at a time, holds the sum of the changes of the row's copies in registers, and adds those of the columns
to a buffer of its own, which stays in the L2 cache.  So beside ``4 B M N`` numbers of ``u`` and ``v`` there are
``B M N / COLUMNS + B M N / ROWS`` of partial sums; they are added in a fixed order.
"""

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array

from pjax_kernels import blocks, gpu, root_triton
from pjax_kernels.dense_copies.reference import Moves


def dense_copies(
    x: Array, w: Array, u: Array, v: Array, z: Array, moves: Moves, residual: Array | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """The new ``u``, ``v``, the mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""

    def project(numbers: Array, x: Array, w: Array, u: Array, v: Array, known: Array) -> tuple[Array, ...]:
        batch, width, length = u.shape
        sizes = blocks.find("dense copies", (batch, length, width), x.dtype.name)
        row_blocks, column_blocks = triton.cdiv(batch, sizes["ROWS"]), triton.cdiv(width, sizes["COLUMNS"])
        new_u, new_v, x_sums, w_sums, z_change = gpu.launch(
            _project_copies,
            numbers,
            x,
            w.T,
            known,
            u,
            v,
            outputs=[
                ((column_blocks, batch, length), x.dtype),
                ((row_blocks, width, length), x.dtype),
                (known.shape, x.dtype),
            ],
            grid=(row_blocks, column_blocks),
            in_place=2,
            BATCH=batch,
            WIDTH=width,
            LENGTH=length,
            BLOCK=triton.next_power_of_2(max(length, 1)),
            HAS_RESIDUAL=residual is not None,
            **sizes,
        )
        x_mean, w_mean = jnp.sum(x_sums, axis=0) / max(width, 1), jnp.sum(w_sums, axis=0).T / max(batch, 1)
        return new_u, new_v, x_mean, w_mean, z_change

    numbers = jnp.stack([*moves.scale, *moves.keep, *moves.gain])
    known = z if residual is None else residual
    return gpu.one_at_a_time(project)(numbers, x, w, u, v, known)  # type: ignore[return-value]


@triton.jit
def _project_copies(
    numbers_ptr,  # scale, keep and gain, each for u and for v
    x_ptr,
    w_ptr,
    known_ptr,  # z, or what it has beyond the product of what the copies have in common
    u_ptr,
    v_ptr,
    _u_ptr,  # jax-triton's second names of u and v, which are updated in place
    _v_ptr,
    x_sums_ptr,
    w_sums_ptr,
    z_change_ptr,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    compute: tl.constexpr = x_ptr.dtype.element_ty
    scale_u, scale_v = tl.load(numbers_ptr), tl.load(numbers_ptr + 1)
    keep_u, keep_v = tl.load(numbers_ptr + 2), tl.load(numbers_ptr + 3)
    gain_u, gain_v = tl.load(numbers_ptr + 4), tl.load(numbers_ptr + 5)
    entry = tl.arange(0, BLOCK)
    is_entry = entry < LENGTH
    first_row, first_column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS

    for row in range(first_row, min(first_row + ROWS, BATCH)):
        x = tl.load(x_ptr + tl.cast(row, tl.int64) * LENGTH + entry, mask=is_entry, other=0.0)
        x_sum = tl.zeros((TILE, BLOCK), compute)
        for tile in range(first_column, min(first_column + COLUMNS, WIDTH), TILE):
            column = tile + tl.arange(0, TILE)
            is_column = column < WIDTH
            inside = is_column[:, None] & is_entry[None, :]
            w_offset = column.to(tl.int64)[:, None] * LENGTH + entry[None, :]
            z_offset = tl.cast(row, tl.int64) * WIDTH + column
            offset = tl.cast(row, tl.int64) * (WIDTH * LENGTH) + w_offset
            u = tl.load(u_ptr + offset, mask=inside, other=0.0).to(compute)
            v = tl.load(v_ptr + offset, mask=inside, other=0.0).to(compute)
            w = tl.load(w_ptr + w_offset, mask=inside, other=0.0)
            known = tl.load(known_ptr + z_offset, mask=is_column, other=0.0)

            z_change, u_change, v_change = _changes(
                x[None, :], w, scale_u * u, scale_v * v, known, LENGTH, HAS_RESIDUAL
            )

            tl.store(u_ptr + offset, _kept(keep_u, u) + gain_u * u_change, mask=inside)
            tl.store(v_ptr + offset, _kept(keep_v, v) + gain_v * v_change, mask=inside)
            tl.store(z_change_ptr + z_offset, z_change, mask=is_column)
            x_sum += u_change
            w_sum_ptr = w_sums_ptr + tl.program_id(0).to(tl.int64) * (WIDTH * LENGTH) + w_offset
            if row > first_row:
                v_change += tl.load(w_sum_ptr, mask=inside, other=0.0)
            tl.store(w_sum_ptr, v_change, mask=inside)

        x_sum_offset = (tl.program_id(1).to(tl.int64) * BATCH + row) * LENGTH + entry
        tl.store(x_sums_ptr + x_sum_offset, tl.sum(x_sum, axis=0), mask=is_entry)
        tl.debug_barrier()  # before other threads read this row's w_sums


@triton.jit
def _changes(x, w, of_x, of_w, known, LENGTH: tl.constexpr, HAS_RESIDUAL: tl.constexpr):
    """Those of ``z`` and of copies, which are ``x`` and ``w`` and what each has beside, ``of_x`` and ``of_w``."""
    a, b = x + of_x, w + of_w
    p, plus, minus = root_triton.inner_products(a, b)
    residual = known - tl.sum(of_x * b + x * of_w, axis=1) if HAS_RESIDUAL else None
    t, gamma, beta, of_sum, of_difference, radius = root_triton.projection(p, plus, minus, known, residual, 0.25, 3)
    u_change, v_change = root_triton.changes(a, b, t, gamma, beta, of_sum, of_difference, radius, LENGTH)
    return -t, u_change, v_change


@triton.jit
def _kept(keep, old):
    """``keep * old``; nothing of what is not kept, which may be NaN."""
    return tl.where(keep != 0, keep * old, 0.0)
