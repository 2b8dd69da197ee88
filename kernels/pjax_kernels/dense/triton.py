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
    """A layer's shape, for its kernels: a program has ``TILE`` x ``TILE`` outputs, and solves some rows at a time."""

    BATCH: int
    WIDTH: int
    TILE: int
    SOLVED: int
    LENGTH: int
    OTHER_LENGTH: int = 0


_TENSOR_CORES = {
    "cuda": {lax.Precision.DEFAULT: "tf32", lax.Precision.HIGH: "tf32x3"},
    "rocm": {lax.Precision.DEFAULT: "bf16x3", lax.Precision.HIGH: "bf16x6"},
}
"""What Triton calls the products of float32 that are at least as precise and run on tensor cores."""


def dense_increments(
    x: Array, w: Array, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""
    known = [] if residual is None else [residual[None]]

    def project(x: Array, w: Array, z: Array, *known: Array) -> tuple[Array, ...]:
        return layers_increments((x,), (w,), z, *known, precision=precision)

    x_mean, w_mean, z_change = gpu.over_leading_axis(project)(x[None], w[None], z[None], *known)
    return x_mean[0], w_mean[0], z_change[0]


def layers_increments(
    rows: Sequence[Array],
    columns: Sequence[Array],
    z: Array,
    residual: Array | None = None,
    *,
    precision: lax.PrecisionLike,
) -> tuple[Array, ...]:
    """The mean changes of ``rows`` and ``columns``, and the change of ``z``, of layers along their first axis.

    There are one or two ``rows`` (L, B, N) and as many ``columns`` (L, N, M), each pair with its own N; ``z``
    (L, B, M) are the estimates of their products, added up, and ``residual`` is what they have beyond these, if known:
    no product is formed then.
    """
    product = product_on_tensor_cores(precision, z)
    lengths = [array.shape[2] for array in rows]
    squares = sum(jnp.sum(x * x, axis=2) for x in rows), sum(jnp.sum(w * w, axis=1) for w in columns)
    if residual is not None:
        arrays = *squares, z, residual.astype(z.dtype)
        found = launch_tiles(_solve, "dense, XLA's product", arrays, lengths, HAS_RESIDUAL=True)
    elif product is None:
        p = sum(jnp.matmul(x, w, precision=precision) for x, w in zip(rows, columns, strict=True))
        arrays = *squares, z, p
        found = launch_tiles(_solve, "dense, XLA's product", arrays, lengths, in_place=1, HAS_RESIDUAL=False)
    else:
        operands = rows[0], columns[0], rows[-1], columns[-1]
        found = launch_tiles(_multiply_and_solve, "dense", (*squares, z, *operands), lengths, PRECISION=product)
    beta, z_change, *sums = found
    row_means, column_means = means_of_copies(rows, columns, beta, sums, precision=precision)
    return *row_means, *column_means, z_change


def launch_tiles(
    kernel: Any, name: str, arrays: Sequence[Array], lengths: Sequence[int], *, in_place: int = 0, **constants: Any
) -> tuple[Array, ...]:
    """``beta`` and the change of ``z`` (L, B, M), and the sums that :func:`means_of_copies` takes.

    The third of the ``arrays`` is ``z``, and the last, where one is overwritten, the products, which become ``beta``.
    """
    z = arrays[2]
    layers, batch, width = z.shape
    sizes = blocks.find(name, (layers, batch, sum(lengths), width), constants.get("PRECISION", z.dtype.name))
    tile = sizes.pop("TILE")
    layer = Layer(batch, width, tile, max(1, sizes.pop("ENTRIES") // tile), *lengths)
    row_blocks, column_blocks = triton.cdiv(batch, tile), triton.cdiv(width, tile)
    of_rows = column_blocks * batch
    shapes = [z.shape] * (2 - in_place) + [(layers, 2, of_rows + row_blocks * width)]
    beta, z_change, sums = gpu.launch(
        kernel,
        *arrays,
        outputs=[(shape, z.dtype) for shape in shapes],
        in_place=in_place,
        grid=(row_blocks * column_blocks, layers),
        LAYER=layer,
        **sizes,
        **constants,
    )
    return (
        beta,
        z_change,
        jnp.sum(sums[:, :, :of_rows].reshape(layers, 2, column_blocks, batch), axis=2),
        jnp.sum(sums[:, :, of_rows:].reshape(layers, 2, row_blocks, width), axis=2),
    )


def means_of_copies(
    rows: Sequence[Array], columns: Sequence[Array], beta: Array, sums: Sequence[Array], *, precision: lax.PrecisionLike
) -> tuple[list[Array], list[Array]]:
    """The mean changes of ``rows`` and ``columns``, from ``beta`` (L, B, M) and ``sums``.

    These are the sums over rows (L, 2, B) and columns (L, 2, M) of ``gamma``, and of what is free.
    """
    (_, batch, width), length = beta.shape, sum(array.shape[2] for array in rows)
    (gamma_rows, free_rows), (gamma_columns, free_columns) = ((array[:, 0], array[:, 1]) for array in sums)
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
    sums_ptr,
    LAYER: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    layer, row_block, column_block = place_tile(LAYER)
    TILE: tl.constexpr = LAYER.TILE
    row, column = row_block * TILE + tl.arange(0, TILE), column_block * TILE + tl.arange(0, TILE)

    p, place = tl.zeros((TILE, TILE), tl.float32), (layer, row, column)
    p = _add_product(p, x_ptr, w_ptr, place, LAYER, LAYER.LENGTH, INNER, PRECISION)
    p = _add_product(p, other_x_ptr, other_w_ptr, place, LAYER, LAYER.OTHER_LENGTH, INNER, PRECISION)

    offset = (layer * LAYER.BATCH + row)[:, None] * LAYER.WIDTH + column[None, :]
    tl.store(beta_ptr + offset, p, mask=(row < LAYER.BATCH)[:, None] & (column < LAYER.WIDTH)[None, :])
    tl.debug_barrier()  # before other threads read it
    inputs, outputs = (x_squared_ptr, w_squared_ptr, z_ptr, beta_ptr), (beta_ptr, z_change_ptr, sums_ptr)
    solve_tile(_root, False, inputs, outputs, (layer, row_block, column_block), LAYER)


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
    known_ptr,
    beta_ptr,
    z_change_ptr,
    sums_ptr,
    LAYER: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    # jax-triton has two names for products, which become beta in place; residuals stay what they are.
    beta_ptr = beta_ptr if HAS_RESIDUAL else known_ptr
    inputs, outputs = (x_squared_ptr, w_squared_ptr, z_ptr, known_ptr), (beta_ptr, z_change_ptr, sums_ptr)
    solve_tile(_root, HAS_RESIDUAL, inputs, outputs, place_tile(LAYER), LAYER)


@triton.jit
def _root(known, q, z, _inside, HAS_RESIDUAL: tl.constexpr):
    """What :func:`solve_tile` asks of a root; outside all that is given is 0, and so is all that is found."""
    p, residual = (z - known, known) if HAS_RESIDUAL else (known, None)
    t, beta, gamma, radius = root_triton.bilinear_root(p, q, z, residual, 0.25, 3)
    return -t, t, beta, gamma, radius


@triton.jit
def place_tile(LAYER: tl.constexpr):
    """The layer, the rows and the columns of this program, these two in tiles.

    Neighbours in time share rows of ``x`` and columns of ``w`` in the L2 cache.
    """
    row_blocks, column_blocks = tl.cdiv(LAYER.BATCH, LAYER.TILE), tl.cdiv(LAYER.WIDTH, LAYER.TILE)
    place = tl.program_id(0)
    row_block, column_block = tl.swizzle2d(place // column_blocks, place % column_blocks, row_blocks, column_blocks, 8)
    return tl.program_id(1).to(tl.int64), row_block, column_block


@triton.jit
def solve_tile(ROOT: tl.constexpr, setting, inputs, outputs, tile, LAYER: tl.constexpr):
    """From what is known of the products of a tile to ``beta``, some rows at a time: roots take many registers.

    ``ROOT`` makes of that, of ``q``, ``z``, of what is inside the arrays, and of the ``setting`` the change of ``z``,
    what the free part of ``w`` is multiplied by, ``beta``, ``gamma``, and the radius of the free part.
    """
    layer, row_block, column_block = tile
    x_squared_ptr, w_squared_ptr, z_ptr, known_ptr = inputs
    beta_ptr, z_change_ptr, sums_ptr = outputs
    # The sums of gamma: for each block of columns those of all rows, and for each block of rows those of all columns.
    of_rows = tl.cdiv(LAYER.WIDTH, LAYER.TILE) * LAYER.BATCH
    free = of_rows + tl.cdiv(LAYER.BATCH, LAYER.TILE) * LAYER.WIDTH  # so far behind are the sums of what is free
    column = column_block * LAYER.TILE + tl.arange(0, LAYER.TILE)
    is_column = column < LAYER.WIDTH
    w_squared = tl.load(w_squared_ptr + layer * LAYER.WIDTH + column, mask=is_column, other=0.0)
    gamma_sum, free_sum = tl.zeros_like(w_squared), tl.zeros_like(w_squared)

    first_row = row_block * LAYER.TILE
    for first in range(first_row, min(first_row + LAYER.TILE, LAYER.BATCH), LAYER.SOLVED):
        row = first + tl.arange(0, LAYER.SOLVED)
        is_row = row < LAYER.BATCH
        inside = is_row[:, None] & is_column[None, :]
        offset = (layer * LAYER.BATCH + row)[:, None] * LAYER.WIDTH + column[None, :]
        x_squared = tl.load(x_squared_ptr + layer * LAYER.BATCH + row, mask=is_row, other=0.0)
        known = tl.load(known_ptr + offset, mask=inside, other=0.0)
        z = tl.load(z_ptr + offset, mask=inside, other=0.0)

        z_change, t, beta, gamma, radius = ROOT(known, x_squared[:, None] + w_squared[None, :], z, inside, setting)

        tl.store(beta_ptr + offset, beta, mask=inside)
        tl.store(z_change_ptr + offset, z_change, mask=inside)
        sum_offset = layer * (2 * free) + column_block.to(tl.int64) * LAYER.BATCH + row
        tl.store(sums_ptr + sum_offset, tl.sum(gamma, axis=1), mask=is_row)
        tl.store(sums_ptr + free + sum_offset, tl.sum(radius, axis=1), mask=is_row)
        gamma_sum += tl.sum(gamma, axis=0)
        free_sum += tl.sum(t * radius, axis=0)

    column_sums_ptr = sums_ptr + layer * (2 * free) + of_rows + row_block.to(tl.int64) * LAYER.WIDTH
    tl.store(column_sums_ptr + column, gamma_sum, mask=is_column)
    tl.store(column_sums_ptr + free + column, free_sum, mask=is_column)
