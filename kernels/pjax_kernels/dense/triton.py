"""Projection of a dense layer in consensus form on a GPU: the roots and the sums of gamma in one pass.

Where ``precision`` allows tensor cores, the product ``x w`` is computed in the same kernel, which then finds the roots
of its tile of the product; otherwise XLA's product comes first, as full float32 runs on no tensor core.  The two
transposed products are XLA's: they are plain ones.  Under :func:`jax.vmap`, several layers are one launch.  A
recurrence is a layer with two pairs of operands, whose products are added up.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array, lax

from pjax_kernels import blocks, gpu, root_triton

_TENSOR_CORES = {
    "cuda": {lax.Precision.DEFAULT: "tf32", lax.Precision.HIGH: "tf32x3"},
    "rocm": {lax.Precision.DEFAULT: "bf16x3", lax.Precision.HIGH: "bf16x6"},
}
"""What Triton calls the products of float32 that are at least as precise and run on tensor cores."""


def dense_increments(x: Array, w: Array, z: Array, *, precision: lax.PrecisionLike) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""

    def project(x: Array, w: Array, z: Array) -> tuple[Array, ...]:
        return layers_increments((x,), (w,), z, precision=precision)

    x_mean, w_mean, z_change = gpu.over_leading_axis(project)(x[None], w[None], z[None])
    return x_mean[0], w_mean[0], z_change[0]


def layers_increments(
    rows: Sequence[Array], columns: Sequence[Array], z: Array, *, precision: lax.PrecisionLike
) -> tuple[Array, ...]:
    """The mean changes of ``rows`` and ``columns``, and the change of ``z``, of layers along their first axis.

    There are one or two ``rows`` (L, B, N) and as many ``columns`` (L, N, M), each pair with its own N; ``z``
    (L, B, M) are the estimates of their products, added up.
    """
    (layers, batch, width), lengths = z.shape, [array.shape[2] for array in rows]
    length, product = sum(lengths), product_on_tensor_cores(precision, z)
    kernel = "dense" if product else "dense, XLA's product"
    sizes = blocks.find(kernel, (layers, batch, length, width), product or z.dtype.name)
    tile, entries = sizes["TILE"], sizes.pop("ENTRIES")
    row_blocks, column_blocks = triton.cdiv(batch, tile), triton.cdiv(width, tile)
    sums_of_rows = (layers, column_blocks, batch), z.dtype
    sums_of_columns = (layers, row_blocks, width), z.dtype
    squares = sum(jnp.sum(x * x, axis=2) for x in rows), sum(jnp.sum(w * w, axis=1) for w in columns)
    outputs = [(z.shape, z.dtype), sums_of_rows, sums_of_columns, sums_of_rows, sums_of_columns]
    common = sizes | {
        "grid": (row_blocks * column_blocks, layers),
        "BATCH": batch,
        "WIDTH": width,
        "SOLVED": max(1, entries // tile),
    }
    if product is None:
        p = sum(jnp.matmul(x, w, precision=precision) for x, w in zip(rows, columns, strict=True))
        found = gpu.launch(_solve, *squares, z, p, outputs=outputs, in_place=1, **common)
    else:
        found = gpu.launch(
            _multiply_and_solve,
            *squares,
            z,
            rows[0],
            columns[0],
            rows[-1],
            columns[-1],
            outputs=[(z.shape, z.dtype), *outputs],
            LENGTH=lengths[0],
            OTHER_LENGTH=sum(lengths[1:]),
            PRECISION=product,
            **common,
        )
    beta, z_change, *sums = found
    row_means, column_means = means_of_copies(rows, columns, beta, sums, precision=precision)
    return *row_means, *column_means, z_change


def means_of_copies(
    rows: Sequence[Array],
    columns: Sequence[Array],
    beta: Array,
    sums: Sequence[Array],
    *,
    precision: lax.PrecisionLike,
) -> tuple[list[Array], list[Array]]:
    """The mean changes of ``rows`` and ``columns``, from ``beta`` (L, B, M) and what the blocks of a launch summed up.

    The ``sums`` are those of ``gamma`` over rows and columns, then of what is free.
    """
    (_, batch, width), length = beta.shape, sum(array.shape[2] for array in rows)
    gamma_rows, gamma_columns, free_rows, free_columns = (jnp.sum(array, axis=1) for array in sums)

    per_row, per_column, free = 1 / max(width, 1), 1 / max(batch, 1), max(length, 1) ** -0.5
    own_rows, free_rows = gamma_rows * per_row, free_rows * (per_row * free)
    own_columns, free_columns = gamma_columns * per_column, free_columns * (per_column * free)
    row_means = [
        own_rows[:, :, None] * x + free_rows[:, :, None] + jnp.matmul(beta, w.mT, precision=precision) * per_row
        for x, w in zip(rows, columns, strict=True)
    ]
    column_means = [
        own_columns[:, None] * w + free_columns[:, None] + jnp.matmul(x.mT, beta, precision=precision) * per_column
        for x, w in zip(rows, columns, strict=True)
    ]
    return row_means, column_means


def product_on_tensor_cores(precision: lax.PrecisionLike, z: Array) -> str | None:
    """Of products of Triton, or None where they would not be as ``precision`` has it, or not on tensor cores."""
    if z.dtype != jnp.float32 or not isinstance(precision, (str, lax.Precision)):
        return None
    return _TENSOR_CORES[gpu.platform()].get(lax.Precision(precision))


@triton.jit
def _multiply_and_solve(
    x_squared_ptr,
    w_squared_ptr,
    z_ptr,
    x_ptr,
    w_ptr,
    other_x_ptr,
    other_w_ptr,
    beta_ptr,
    z_change_ptr,
    gamma_rows_ptr,
    gamma_columns_ptr,
    free_rows_ptr,
    free_columns_ptr,
    BATCH: tl.constexpr,
    LENGTH: tl.constexpr,
    OTHER_LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    INNER: tl.constexpr,
    SOLVED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    layer = tl.program_id(1).to(tl.int64)
    row_block, column_block = _place(BATCH, WIDTH, TILE)
    row = row_block * TILE + tl.arange(0, TILE)
    column = column_block * TILE + tl.arange(0, TILE)

    p = tl.zeros((TILE, TILE), tl.float32)
    p = _add_product(p, x_ptr, w_ptr, layer, row, column, BATCH, LENGTH, WIDTH, INNER, PRECISION)
    p = _add_product(p, other_x_ptr, other_w_ptr, layer, row, column, BATCH, OTHER_LENGTH, WIDTH, INNER, PRECISION)

    offset = (layer * BATCH + row)[:, None] * WIDTH + column[None, :]
    tl.store(beta_ptr + offset, p, mask=(row < BATCH)[:, None] & (column < WIDTH)[None, :])
    tl.debug_barrier()  # before other threads read it
    _solve_tile(
        x_squared_ptr,
        w_squared_ptr,
        z_ptr,
        beta_ptr,
        z_change_ptr,
        gamma_rows_ptr,
        gamma_columns_ptr,
        free_rows_ptr,
        free_columns_ptr,
        row_block,
        column_block,
        BATCH,
        WIDTH,
        TILE,
        SOLVED,
    )


@triton.jit
def _add_product(
    p,
    x_ptr,
    w_ptr,
    layer,
    row,
    column,
    BATCH: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``p`` and the product of these rows and columns."""
    x_row_ptr = x_ptr + (layer * BATCH + row)[:, None] * LENGTH
    w_column_ptr = w_ptr + layer * (LENGTH * WIDTH) + column[None, :]
    for first in range(0, LENGTH, INNER):
        entry = first + tl.arange(0, INNER)
        x = tl.load(x_row_ptr + entry[None, :], mask=(row < BATCH)[:, None] & (entry < LENGTH)[None, :], other=0.0)
        w_entry_ptr = w_column_ptr + entry.to(tl.int64)[:, None] * WIDTH
        w = tl.load(w_entry_ptr, mask=(entry < LENGTH)[:, None] & (column < WIDTH)[None, :], other=0.0)
        p = tl.dot(x, w, p, input_precision=PRECISION)
    return p


@triton.jit
def _solve(
    x_squared_ptr,
    w_squared_ptr,
    z_ptr,
    beta_ptr,
    _beta_ptr,  # jax-triton's second name of the product, which becomes beta in place
    z_change_ptr,
    gamma_rows_ptr,
    gamma_columns_ptr,
    free_rows_ptr,
    free_columns_ptr,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    SOLVED: tl.constexpr,
):
    row_block, column_block = _place(BATCH, WIDTH, TILE)
    _solve_tile(
        x_squared_ptr,
        w_squared_ptr,
        z_ptr,
        beta_ptr,
        z_change_ptr,
        gamma_rows_ptr,
        gamma_columns_ptr,
        free_rows_ptr,
        free_columns_ptr,
        row_block,
        column_block,
        BATCH,
        WIDTH,
        TILE,
        SOLVED,
    )


@triton.jit
def _place(BATCH: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """The tile of this program: neighbours in time share rows of ``x`` and columns of ``w`` in the L2 cache."""
    row_blocks, column_blocks = tl.cdiv(BATCH, TILE), tl.cdiv(WIDTH, TILE)
    place = tl.program_id(0)
    return tl.swizzle2d(place // column_blocks, place % column_blocks, row_blocks, column_blocks, 8)


@triton.jit
def _solve_tile(
    x_squared_ptr,
    w_squared_ptr,
    z_ptr,
    beta_ptr,
    z_change_ptr,
    gamma_rows_ptr,
    gamma_columns_ptr,
    free_rows_ptr,
    free_columns_ptr,
    row_block,
    column_block,
    BATCH: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    SOLVED: tl.constexpr,
):
    """Replaces the products of a tile by ``beta``, ``SOLVED`` rows at a time: roots take many registers."""
    layer = tl.program_id(1).to(tl.int64)
    column = column_block * TILE + tl.arange(0, TILE)
    is_column = column < WIDTH
    w_squared = tl.load(w_squared_ptr + layer * WIDTH + column, mask=is_column, other=0.0)
    gamma_sum, free_sum = tl.zeros_like(w_squared), tl.zeros_like(w_squared)

    for first in range(row_block * TILE, min(row_block * TILE + TILE, BATCH), SOLVED):
        row = first + tl.arange(0, SOLVED)
        is_row = row < BATCH
        inside = is_row[:, None] & is_column[None, :]
        offset = (layer * BATCH + row)[:, None] * WIDTH + column[None, :]
        x_squared = tl.load(x_squared_ptr + layer * BATCH + row, mask=is_row, other=0.0)
        p = tl.load(beta_ptr + offset, mask=inside, other=0.0)
        z = tl.load(z_ptr + offset, mask=inside, other=0.0)

        t, beta, gamma, radius = root_triton.bilinear_root(p, x_squared[:, None] + w_squared[None, :], z, 0.25, 3)

        tl.store(beta_ptr + offset, beta, mask=inside)
        tl.store(z_change_ptr + offset, -t, mask=inside)
        sum_offset = (layer * tl.cdiv(WIDTH, TILE) + column_block) * BATCH + row
        tl.store(gamma_rows_ptr + sum_offset, tl.sum(gamma, axis=1), mask=is_row)
        tl.store(free_rows_ptr + sum_offset, tl.sum(radius, axis=1), mask=is_row)
        gamma_sum += tl.sum(gamma, axis=0)
        free_sum += tl.sum(t * radius, axis=0)

    sum_offset = (layer * tl.cdiv(BATCH, TILE) + row_block) * WIDTH + column
    tl.store(gamma_columns_ptr + sum_offset, gamma_sum, mask=is_column)
    tl.store(free_columns_ptr + sum_offset, free_sum, mask=is_column)
