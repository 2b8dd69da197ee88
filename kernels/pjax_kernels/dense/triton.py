"""Projection of a dense layer in consensus form on a GPU: the roots and the sums of gamma in one pass.

Where ``precision`` allows tensor cores, the product ``x w`` is computed in the same kernel, which then finds the roots
of its tile of the product; otherwise XLA's product comes first, as full float32 runs on no tensor core.  The two
transposed products are XLA's: they are plain ones.  Under :func:`jax.vmap`, several layers are one launch.  A
recurrence is a layer with two pairs of operands, whose products are added up.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array, lax

from pjax_kernels import blocks, gpu, root_triton


class Layer(NamedTuple):
    """The shape of a layer, for its kernels."""

    BATCH: int
    WIDTH: int
    LENGTH: int
    OTHER_LENGTH: int = 0


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
    product = product_on_tensor_cores(precision, z)
    layer = Layer(*z.shape[1:], *(array.shape[2] for array in rows))
    squares = sum(jnp.sum(x * x, axis=2) for x in rows), sum(jnp.sum(w * w, axis=1) for w in columns)
    if product is None:
        p = sum(jnp.matmul(x, w, precision=precision) for x, w in zip(rows, columns, strict=True))
        found = launch_tiles(_solve, "dense, XLA's product", (*squares, z, p), layer, in_place=1)
    else:
        operands = rows[0], columns[0], rows[-1], columns[-1]
        found = launch_tiles(_multiply_and_solve, "dense", (*squares, z, *operands), layer, PRECISION=product)
    beta, z_change, *sums = found
    row_means, column_means = means_of_copies(rows, columns, beta, sums, precision=precision)
    return *row_means, *column_means, z_change


def launch_tiles(
    kernel: Any, name: str, arrays: Sequence[Array], layer: Layer, *, in_place: int = 0, **constants: Any
) -> tuple[Array, ...]:
    """``beta`` and the change of ``z`` (L, B, M), and what :func:`means_of_copies` takes as sums.

    The third of the ``arrays`` is ``z``, and the last, where one is overwritten, the products, which become ``beta``.
    """
    z = arrays[2]
    layers = len(z)
    numbers = constants.get("PRECISION", z.dtype.name)
    sizes = blocks.find(name, (layers, layer.BATCH, layer.LENGTH + layer.OTHER_LENGTH, layer.WIDTH), numbers)
    tile, entries = sizes["TILE"], sizes.pop("ENTRIES")
    row_blocks, column_blocks = triton.cdiv(layer.BATCH, tile), triton.cdiv(layer.WIDTH, tile)
    sums_of_rows, sums_of_columns = (layers, column_blocks, layer.BATCH), (layers, row_blocks, layer.WIDTH)
    shapes = [z.shape] * (2 - in_place) + [sums_of_rows, sums_of_columns] * 2
    return gpu.launch(
        kernel,
        *arrays,
        outputs=[(shape, z.dtype) for shape in shapes],
        in_place=in_place,
        grid=(row_blocks * column_blocks, layers),
        LAYER=layer,
        SOLVED=max(1, entries // tile),
        **sizes,
        **constants,
    )


def means_of_copies(
    rows: Sequence[Array], columns: Sequence[Array], beta: Array, sums: Sequence[Array], *, precision: lax.PrecisionLike
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
    LAYER: tl.constexpr,
    TILE: tl.constexpr,
    INNER: tl.constexpr,
    SOLVED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    layer, row_block, column_block = place_tile(LAYER, TILE)
    row = row_block * TILE + tl.arange(0, TILE)
    column = column_block * TILE + tl.arange(0, TILE)

    p, place = tl.zeros((TILE, TILE), tl.float32), (layer, row, column)
    p = _add_product(p, x_ptr, w_ptr, place, LAYER, LAYER.LENGTH, INNER, PRECISION)
    p = _add_product(p, other_x_ptr, other_w_ptr, place, LAYER, LAYER.OTHER_LENGTH, INNER, PRECISION)

    offset = (layer * LAYER.BATCH + row)[:, None] * LAYER.WIDTH + column[None, :]
    tl.store(beta_ptr + offset, p, mask=(row < LAYER.BATCH)[:, None] & (column < LAYER.WIDTH)[None, :])
    tl.debug_barrier()  # before other threads read it
    sums = (gamma_rows_ptr, gamma_columns_ptr, free_rows_ptr, free_columns_ptr)
    tile = (layer, row_block, column_block)
    solve_tile(
        _root, 0.0, (x_squared_ptr, w_squared_ptr, z_ptr), (beta_ptr, z_change_ptr), sums, tile, LAYER, TILE, SOLVED
    )


@triton.jit
def _add_product(
    p, x_ptr, w_ptr, place, LAYER: tl.constexpr, LENGTH: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr
):
    """``p`` and the product of rows and columns, of ``LENGTH`` entries, at a ``place``."""
    layer, row, column = place
    x_row_ptr = x_ptr + (layer * LAYER.BATCH + row)[:, None] * LENGTH
    w_column_ptr = w_ptr + layer * (LENGTH * LAYER.WIDTH) + column[None, :]
    is_row, is_column = (row < LAYER.BATCH)[:, None], (column < LAYER.WIDTH)[None, :]
    for first in range(0, LENGTH, INNER):
        entry = first + tl.arange(0, INNER)
        x = tl.load(x_row_ptr + entry[None, :], mask=is_row & (entry < LENGTH)[None, :], other=0.0)
        w_entry_ptr = w_column_ptr + entry.to(tl.int64)[:, None] * LAYER.WIDTH
        w = tl.load(w_entry_ptr, mask=(entry < LENGTH)[:, None] & is_column, other=0.0)
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
    LAYER: tl.constexpr,
    TILE: tl.constexpr,
    SOLVED: tl.constexpr,
):
    sums = (gamma_rows_ptr, gamma_columns_ptr, free_rows_ptr, free_columns_ptr)
    tile = place_tile(LAYER, TILE)
    solve_tile(
        _root, 0.0, (x_squared_ptr, w_squared_ptr, z_ptr), (beta_ptr, z_change_ptr), sums, tile, LAYER, TILE, SOLVED
    )


@triton.jit
def _root(p, q, z, inside, _setting):
    """What :func:`solve_tile` asks of a root; outside ``p``, ``q`` and ``z`` are 0, and so is all that is found."""
    t, beta, gamma, radius = root_triton.bilinear_root(p, q, z, 0.25, 3)
    return -t, t, beta, gamma, radius


@triton.jit
def place_tile(LAYER: tl.constexpr, TILE: tl.constexpr):
    """The layer, the rows and the columns of this program, these two in tiles.

    Neighbours in time share rows of ``x`` and columns of ``w`` in the L2 cache.
    """
    row_blocks, column_blocks = tl.cdiv(LAYER.BATCH, TILE), tl.cdiv(LAYER.WIDTH, TILE)
    place = tl.program_id(0)
    row_block, column_block = tl.swizzle2d(place // column_blocks, place % column_blocks, row_blocks, column_blocks, 8)
    return tl.program_id(1).to(tl.int64), row_block, column_block


@triton.jit
def solve_tile(
    ROOT: tl.constexpr,
    setting,
    inputs,
    outputs,
    sums,
    tile,
    LAYER: tl.constexpr,
    TILE: tl.constexpr,
    SOLVED: tl.constexpr,
):
    """Replaces the products of a tile by ``beta``, ``SOLVED`` rows at a time: roots take many registers.

    ``ROOT`` makes of ``p``, ``q``, ``z``, of what is inside the arrays, and of the ``setting`` the change of ``z``,
    what the free part of ``w`` is multiplied by, ``beta``, ``gamma``, and the radius of the free part.
    """
    layer, row_block, column_block = tile
    x_squared_ptr, w_squared_ptr, z_ptr = inputs
    beta_ptr, z_change_ptr = outputs
    gamma_rows_ptr, gamma_columns_ptr, free_rows_ptr, free_columns_ptr = sums
    column = column_block * TILE + tl.arange(0, TILE)
    is_column = column < LAYER.WIDTH
    w_squared = tl.load(w_squared_ptr + layer * LAYER.WIDTH + column, mask=is_column, other=0.0)
    gamma_sum, free_sum = tl.zeros_like(w_squared), tl.zeros_like(w_squared)

    for first in range(row_block * TILE, min(row_block * TILE + TILE, LAYER.BATCH), SOLVED):
        row = first + tl.arange(0, SOLVED)
        is_row = row < LAYER.BATCH
        inside = is_row[:, None] & is_column[None, :]
        offset = (layer * LAYER.BATCH + row)[:, None] * LAYER.WIDTH + column[None, :]
        x_squared = tl.load(x_squared_ptr + layer * LAYER.BATCH + row, mask=is_row, other=0.0)
        p = tl.load(beta_ptr + offset, mask=inside, other=0.0)
        z = tl.load(z_ptr + offset, mask=inside, other=0.0)

        z_change, t, beta, gamma, radius = ROOT(p, x_squared[:, None] + w_squared[None, :], z, inside, setting)

        tl.store(beta_ptr + offset, beta, mask=inside)
        tl.store(z_change_ptr + offset, z_change, mask=inside)
        sum_offset = (layer * tl.cdiv(LAYER.WIDTH, TILE) + column_block) * LAYER.BATCH + row
        tl.store(gamma_rows_ptr + sum_offset, tl.sum(gamma, axis=1), mask=is_row)
        tl.store(free_rows_ptr + sum_offset, tl.sum(radius, axis=1), mask=is_row)
        gamma_sum += tl.sum(gamma, axis=0)
        free_sum += tl.sum(t * radius, axis=0)

    sum_offset = (layer * tl.cdiv(LAYER.BATCH, TILE) + row_block) * LAYER.WIDTH + column
    tl.store(gamma_columns_ptr + sum_offset, gamma_sum, mask=is_column)
    tl.store(free_columns_ptr + sum_offset, free_sum, mask=is_column)
