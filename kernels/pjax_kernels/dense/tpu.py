"""Projection of a dense layer in consensus form on a TPU: the product, the roots and the sums of gamma in one kernel.

A tile of the product is added up in VMEM and never leaves it: what is written is ``beta``, from which the two
transposed products follow, and the change of ``z``.  These products are XLA's: they are plain ones, whose epilogue
(gamma times ``x``, the division by the number of copies, the sum with the old value) it fuses into them.

Where the residual is known it stands for the product, which is not formed: the kernel finds the roots alone.

:mod:`pjax_kernels.recurrence` is the same with two pairs of operands, whose products add up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pjax_kernels import arguments, root, tpu
from pjax_kernels.dense import xla
from pjax_kernels.tpu import LANES

_PART = 16
"""Rows of a tile whose roots are found at a time: roots take many registers."""

_MULTIPLIED = 128
"""Rows of a tile that are multiplied at a time: all at once take minutes to compile."""

_STEPS = 3
"""Of :func:`root.near_root`: with them most roots are near ones."""


class Blocks(NamedTuple):
    """Rows and columns of ``z``, and terms of its sums, that are in VMEM at a time; all are multiples of 128."""

    rows: int
    columns: int
    inner: int


def default_blocks(rows: Sequence[Array], columns: Sequence[Array], z: Array) -> Blocks:
    """The largest square tiles that fit into VMEM: the larger they are, the less often operands are read."""
    batch, width = z.shape
    length = max(array.shape[1] for array in rows)

    def fit(blocks: Blocks) -> bool:
        tile, f32 = (blocks.rows, blocks.columns), jnp.float32
        operands = [((blocks.rows, blocks.inner), array.dtype) for array in rows]
        operands += [((blocks.inner, blocks.columns), array.dtype) for array in columns]
        sums = ((3, blocks.rows, LANES), f32), ((3, _PART, blocks.columns), f32)
        scratch = tpu.scratch_bytes((tile, f32), *sums)
        return tpu.block_bytes(*operands, (tile, z.dtype), (tile, f32), (tile, f32)) + scratch <= tpu.VMEM

    sizes = [(tile, inner) for tile in (512, 256, 128) for inner in (256, 128)]
    tiles = (
        Blocks(*(min(tpu.tile_up(size), limit) for size, limit in ((batch, tile), (width, tile), (length, inner))))
        for tile, inner in sizes
    )
    return next(blocks for blocks in tiles if fit(blocks))


def project_dense(
    x: Array,
    w: Array,
    z: Array,
    *,
    increments: bool,
    precision: lax.PrecisionLike,
    residual: Array | None = None,
    blocks: Blocks | None = None,
) -> tuple[Array, Array, Array]:
    """The new means ``x`` (B, N) and ``w`` (N, M), and ``z`` (B, M), or their changes."""
    if 0 in (x.size, w.size):  # no grid covers it
        project = arguments.from_increments(xla.dense_increments)
        return project(x, w, z, increments=increments, precision=precision, residual=residual)
    (new_x,), (new_w,), new_z = project_products(
        (x,), (w,), z, residual, increments=increments, precision=precision, blocks=blocks
    )
    return new_x, new_w, new_z


def project_products(
    rows: Sequence[Array],
    columns: Sequence[Array],
    z: Array,
    residual: Array | None = None,
    *,
    increments: bool,
    precision: lax.PrecisionLike,
    blocks: Blocks | None,
) -> tuple[list[Array], list[Array], Array]:
    """The same for ``z`` the sum of the products ``rows[k] columns[k]``: the new ``rows``, ``columns`` and ``z``."""
    (batch, width), length = z.shape, sum(array.shape[1] for array in rows)
    blocks = blocks or default_blocks(rows, columns, z)
    minus_beta, new_z, row_sums, column_sums = _solve(
        rows, columns, z, residual, increments=increments, precision=precision, blocks=blocks
    )
    free = max(length, 1) ** -0.5

    def moved(old: Array, gamma: Array, radius: Array, product: Array, copies: int) -> Array:
        change = ((gamma * old + radius * free) - product) * (1 / copies)
        return change if increments else (old + change).astype(old.dtype)

    matmul = functools.partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32)
    new_rows = [
        moved(x, row_sums[0][:, None], row_sums[1][:, None], matmul(minus_beta, w.T.astype(jnp.float32)), width)
        for x, w in zip(rows, columns, strict=True)
    ]
    new_columns = [
        moved(w, column_sums[0], column_sums[1], matmul(x.T.astype(jnp.float32), minus_beta), batch)
        for x, w in zip(rows, columns, strict=True)
    ]
    return new_rows, new_columns, new_z


def _solve(
    rows: Sequence[Array],
    columns: Sequence[Array],
    z: Array,
    residual: Array | None,
    *,
    increments: bool,
    precision: lax.PrecisionLike,
    blocks: Blocks,
) -> tuple[Array, Array, Array, Array]:
    """``-beta``, the new ``z``, and of rows and of columns the sums of gamma and of the radii, (2, B) and (2, M)."""
    batch, width = z.shape
    grid_rows, grid_columns = pl.cdiv(batch, blocks.rows), pl.cdiv(width, blocks.columns)
    tile = pl.BlockSpec((blocks.rows, blocks.columns), lambda i, j, k: (i, j))
    if residual is None:
        pairs, sums = _pairs(rows, blocks), [(blocks.rows, blocks.columns), (blocks.rows, 1), (1, blocks.columns)]
        given = [(x, pair.of_rows(blocks)) for x, pair in zip(rows, pairs, strict=True)]
        given += [(w, pair.of_columns(blocks)) for w, pair in zip(columns, pairs, strict=True)]
    else:
        pairs, sums, given = [], [], [(residual, tile), *_squared_norms(rows, columns, blocks)]
    minus_beta, new_z, row_sums, column_sums = tpu.launch(
        functools.partial(
            _multiply_and_solve,
            pairs=pairs,
            batch=batch,
            width=width,
            increments=increments,
            precision=tpu.product_precision(precision),
        ),
        *(array for array, _ in given),
        z,
        name="multiply_and_solve" if pairs else "solve",
        grid=(grid_rows, grid_columns, sum(pair.steps for pair in pairs) or 1),
        inputs=[*(block for _, block in given), tile],
        outputs=[
            tpu.Output((batch, width), jnp.float32, tile),
            tpu.Output((batch, width), jnp.float32 if increments else z.dtype, tile),
            tpu.Output((2, batch), jnp.float32, pl.BlockSpec((2, blocks.rows), lambda i, j, k: (0, i))),
            tpu.Output(
                (grid_rows, 2, width), jnp.float32, pl.BlockSpec((None, 2, blocks.columns), lambda i, j, k: (i, 0, j))
            ),
        ],
        scratch=[
            pltpu.VMEM(shape, jnp.float32) for shape in ((2, blocks.rows, LANES), (2, _PART, blocks.columns), *sums)
        ],
    )
    return minus_beta, new_z, row_sums, jnp.sum(column_sums, axis=0)


def _squared_norms(rows: Sequence[Array], columns: Sequence[Array], blocks: Blocks) -> list[tuple[Array, pl.BlockSpec]]:
    """Those of joined rows, (B, 1), and of joined columns, (1, M)."""

    def added(arrays: Sequence[Array], axis: int) -> Array:
        squares = (jnp.square(array.astype(jnp.float32)) for array in arrays)
        return functools.reduce(jnp.add, (jnp.sum(square, axis=axis, keepdims=True) for square in squares))

    return [
        (added(rows, 1), pl.BlockSpec((blocks.rows, 1), lambda i, j, k: (i, 0))),
        (added(columns, 0), pl.BlockSpec((1, blocks.columns), lambda i, j, k: (0, j))),
    ]


class _Pair(NamedTuple):
    """Operands of a product of which the grid adds up ``inner`` terms in each of ``steps`` steps from ``first`` on."""

    first: int
    steps: int
    inner: int
    length: int

    def step(self, k: Array) -> Array:
        """The block at step ``k`` of the grid; at steps of other pairs the nearest one, which is there already."""
        return jnp.clip(k - self.first, 0, self.steps - 1)

    def of_rows(self, blocks: Blocks) -> pl.BlockSpec:
        """Those of the first operand."""
        return pl.BlockSpec((blocks.rows, self.inner), lambda i, j, k: (i, self.step(k)))

    def of_columns(self, blocks: Blocks) -> pl.BlockSpec:
        """Those of the second one."""
        return pl.BlockSpec((self.inner, blocks.columns), lambda i, j, k: (self.step(k), j))


def _pairs(rows: Sequence[Array], blocks: Blocks) -> list[_Pair]:
    """One for each of the rows, one after the other."""
    pairs, first = [], 0
    for array in rows:
        inner = min(blocks.inner, tpu.tile_up(array.shape[1]))
        pairs.append(_Pair(first, pl.cdiv(array.shape[1], inner), inner, array.shape[1]))
        first += pairs[-1].steps
    return pairs


def _multiply_and_solve(
    *refs: Any, pairs: Sequence[_Pair], batch: int, width: int, increments: bool, precision: lax.Precision
) -> None:
    count = 2 * len(pairs) or 3
    given, (z_ref, minus_beta_ref, new_z_ref, row_sums_ref, column_sums_ref, *scratch) = refs[:count], refs[count:]
    row_parts_ref, column_parts_ref, *added_refs = scratch
    # The product and the squared norms, which pairs are added up to; without these, the residual stands for the first.
    sums_refs = added_refs or given
    i, j, k = (pl.program_id(axis) for axis in range(3))

    @pl.when(k == 0)
    def _start() -> None:
        for ref in (column_parts_ref, *added_refs):
            ref[...] = jnp.zeros_like(ref)

    @pl.when((j == 0) & (k == 0))
    def _start_row() -> None:
        row_parts_ref[...] = jnp.zeros_like(row_parts_ref)

    for pair, x_ref, w_ref in zip(pairs, given, given[len(pairs) :], strict=False):

        @pl.when((k >= pair.first) & (k < pair.first + pair.steps))
        def _multiply(pair: _Pair = pair, x_ref: Any = x_ref, w_ref: Any = w_ref) -> None:
            _add_product(x_ref, w_ref, *sums_refs, pair=pair, step=k - pair.first, precision=precision)

    @pl.when(k == pl.num_programs(2) - 1)
    def _solve_tile() -> None:
        _find_roots(
            z_ref,
            sums_refs,
            (minus_beta_ref, new_z_ref),
            (row_parts_ref, column_parts_ref),
            rows_left=batch - i * z_ref.shape[0],
            columns_left=width - j * z_ref.shape[1],
            increments=increments,
            has_residual=not pairs,
        )
        for n in range(2):
            column_sums_ref[n : n + 1] = jnp.sum(column_parts_ref[n], axis=0, keepdims=True)

    @pl.when((k == pl.num_programs(2) - 1) & (j == pl.num_programs(1) - 1))
    def _end_row() -> None:
        # Transposed, partial sums of 128 rows add up to one row.
        for n in range(2):
            for first in range(0, row_sums_ref.shape[1], LANES):
                here = slice(first, first + LANES)
                row_sums_ref[n : n + 1, here] = jnp.sum(row_parts_ref[n, here].T, axis=0, keepdims=True)


def _add_product(
    x_ref: Any,
    w_ref: Any,
    product_ref: Any,
    x_squared_ref: Any,
    w_squared_ref: Any,
    *,
    pair: _Pair,
    step: Array,
    precision: lax.Precision,
) -> None:
    """Adds the product of two blocks, and the squared norms of their rows and columns."""
    exact = x_ref.dtype == w_ref.dtype == jnp.bfloat16  # in one pass, which "default" is
    masked, left = pair.length % pair.inner, pair.length - step * pair.inner

    def read(ref: Any, rows: Any, axis: int) -> tuple[Array, Array]:
        """A block as the product takes it, and in float32."""
        block = ref[rows]
        if masked:  # what lies beyond is not zero, or even a number
            block = jnp.where(lax.broadcasted_iota(jnp.int32, block.shape, axis) < left, block, 0)
        wide = block.astype(jnp.float32)
        return (block if exact else wide), wide

    w, wide_w = read(w_ref, slice(None), 0)
    w_squared_ref[...] += jnp.sum(wide_w * wide_w, axis=0, keepdims=True)
    rows_at_a_time = min(x_ref.shape[0], _MULTIPLIED)

    @tpu.repeat(x_ref.shape[0] // rows_at_a_time)
    def _add_rows(part: Array) -> None:
        here = tpu.rows_of(part, rows_at_a_time)
        x, wide_x = read(x_ref, here, 1)
        x_squared_ref[here] += jnp.sum(wide_x * wide_x, axis=1, keepdims=True)
        product_ref[here] += jnp.dot(
            x, w, precision=lax.Precision.DEFAULT if exact else precision, preferred_element_type=jnp.float32
        )


def _find_roots(
    z_ref: Any,
    sums_refs: Sequence[Any],
    new_refs: tuple[Any, Any],
    parts_refs: tuple[Any, Any],
    *,
    rows_left: Array,
    columns_left: Array,
    increments: bool,
    has_residual: bool,
) -> None:
    """Writes ``-beta`` and the new ``z`` of a tile, and adds gamma and the radii to the partial sums."""
    (known_ref, x_squared_ref, w_squared_ref), (minus_beta_ref, new_z_ref) = sums_refs, new_refs
    row_parts_ref, column_parts_ref = parts_refs
    shape = _PART, z_ref.shape[1]
    is_column = lax.broadcasted_iota(jnp.int32, shape, 1) < columns_left
    near_limit = root.near_limits(jnp.float32)[_STEPS - 1]

    @tpu.repeat(z_ref.shape[0] // _PART)
    def _find_part(part: Array) -> None:
        here = tpu.rows_of(part, _PART)
        # What lies outside must neither count nor ask for a far root.
        inside = is_column & (lax.broadcasted_iota(jnp.int32, shape, 0) < rows_left - part * _PART)
        z, known = z_ref[here].astype(jnp.float32), known_ref[here]
        p, residual = (z - known, known) if has_residual else (known, None)
        q = x_squared_ref[here] + w_squared_ref[...]
        scaled = root.scaled_residual(p, q, z, residual)
        is_near = jnp.abs(scaled) <= near_limit
        minus_t, minus_beta, gamma, _ = root.near_coefficients(-root.near_root(scaled, p, q, steps=_STEPS))
        some_far = jnp.max(jnp.where(is_near | ~inside, 0.0, 1.0)) > 0

        def write(minus_t: Array, minus_beta: Array) -> None:
            minus_beta_ref[here] = minus_beta
            new_z_ref[here] = (minus_t if increments else z + minus_t).astype(new_z_ref.dtype)

        def add(sums: int, of_rows: Array, of_columns: Array) -> None:
            of_rows, of_columns = (jnp.where(inside, terms, 0) for terms in (of_rows, of_columns))
            column_parts_ref[sums] += of_columns
            registers = [of_rows[:, first : first + LANES] for first in range(0, shape[1], LANES)]
            row_parts_ref[sums, here] += functools.reduce(jnp.add, registers)

        @pl.when(jnp.logical_not(some_far))
        def _near() -> None:
            write(minus_t, minus_beta)
            add(0, gamma, gamma)

        @pl.when(some_far)
        def _far() -> None:
            far = root.far_root(*root.squares(p, q), z)
            radius = jnp.where(is_near, 0, far.radius)
            write(jnp.where(is_near, minus_t, -far.t), jnp.where(is_near, minus_beta, -far.beta))
            all_gamma = jnp.where(is_near, gamma, far.gamma)
            add(0, all_gamma, all_gamma)
            add(1, radius, far.t * radius)
