"""Projection onto ``z = a . b`` on a TPU, in one pass over memory: ``a`` and ``b`` are read and written once.

So is ``z``, or the residual in its place, of which the change is written.

A row of ``a`` is a row of registers, but its root is one number: where the sum of a register's row ends up, in one lane
of 128, it would cost as much as the rest.  So the partial sums of 128 rows, 128 each, are transposed before they are
added up; a row of registers then holds the sums of 128 rows, and their roots are computed at a time.  Transposed back,
each coefficient fills the lanes of its own row.

Rows that do not fit into VMEM are read twice, a block at a time: once for the sums, and again for the changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from pjax_kernels import arguments, root, tpu
from pjax_kernels.bilinear import xla
from pjax_kernels.tpu import LANES

_PART = 32
"""Rows whose partial sums stay in registers."""

_SUMS = 3
"""For every row: of ``|a + b|^2/4``, ``|a - b|^2/4`` and ``a . b``, which a known residual makes needless."""

_COEFFICIENTS = 6
"""For every row: gamma and beta of near roots; of far ones of the sum, of the difference, free, and t times free."""


class Blocks(NamedTuple):
    """Entries of ``a`` that are in VMEM at a time; both are multiples of 128."""

    rows: int
    columns: int


def default_blocks(count: int, length: int, dtypes: tuple[DTypeLike, ...]) -> Blocks:
    """Whole rows where 128 of them fit into VMEM; ``dtypes`` are those of ``a``, ``b`` and what is written of them."""

    def fit(blocks: Blocks) -> bool:
        scratch = tpu.scratch_bytes(((_SUMS + _COEFFICIENTS, blocks.rows, LANES), jnp.float32))
        return tpu.block_bytes(*((blocks, dtype) for dtype in dtypes)) + scratch <= tpu.VMEM

    # Of few rows, less than would fit: while a block is computed with, others are read and written.
    most_rows = min(512, tpu.tile_up(pl.cdiv(count, 8)))
    whole = [Blocks(rows, tpu.tile_up(length)) for rows in range(most_rows, 0, -LANES)]
    parts = [Blocks(LANES, 2048)]
    return next(blocks for blocks in whole + parts if fit(blocks))


def project_bilinear(
    a: Array, b: Array, z: Array, *, increments: bool, residual: Array | None = None, blocks: Blocks | None = None
) -> tuple[Array, Array, Array]:
    """The new ``a`` (..., N), ``b`` (..., N) and ``z`` (...), or their changes."""
    if a.size == 0:  # no grid covers it
        return arguments.from_increments(xla.bilinear_increments)(a, b, z, increments=increments)
    count, length = z.size, a.shape[-1]
    known = z if residual is None else residual
    arrays = a.reshape(count, length), b.reshape(count, length), known.reshape(1, count)
    dtypes = [*(jnp.float32 if increments else array.dtype for array in (a, b)), jnp.float32]
    rows, columns = blocks or default_blocks(count, length, (a.dtype, b.dtype, *dtypes[:2]))
    column_blocks = pl.cdiv(length, columns)
    phases = 1 if column_blocks == 1 else 2

    def read(i: Array, phase: Array, j: Array) -> tuple[Array, Array]:
        return i, j

    def write(i: Array, phase: Array, j: Array) -> tuple[Array, Array]:
        # The first of two phases writes nothing: it stays at the block that the second one starts with.
        return i, j * phase if phases == 2 else j

    def row_vector(i: Array, phase: Array, j: Array) -> tuple[int, Array]:
        return 0, i

    z_block = pl.BlockSpec((1, rows), row_vector)
    new_blocks = pl.BlockSpec((rows, columns), write), pl.BlockSpec((rows, columns), write), z_block
    sums = _SUMS if residual is None else _SUMS - 1
    new_a, new_b, z_change = tpu.launch(
        functools.partial(_project, length=length, phases=phases, increments=increments),
        *arrays,
        name="project_bilinear",
        grid=(pl.cdiv(count, rows), phases, column_blocks),
        inputs=[pl.BlockSpec((rows, columns), read), pl.BlockSpec((rows, columns), read), z_block],
        outputs=[
            tpu.Output(array.shape, dtype, block)
            for array, dtype, block in zip(arrays, dtypes, new_blocks, strict=True)
        ],
        scratch=[
            pltpu.VMEM((sums, rows, LANES), jnp.float32),
            pltpu.VMEM((_COEFFICIENTS, rows, LANES), jnp.float32),
            pltpu.SMEM((rows // LANES,), jnp.int32),
        ],
    )
    (new_z,) = arguments.apply_increments([z], [z_change.reshape(z.shape)], increments)
    return new_a.reshape(a.shape), new_b.reshape(b.shape), new_z


class _Refs(NamedTuple):
    """What a program reads and writes: blocks of the arguments and the results, then scratch."""

    a: Any
    b: Any
    known: Any  # z, or the residual
    new_a: Any
    new_b: Any
    z_change: Any
    sums: Any
    coefficients: Any
    is_far: Any


def _project(*blocks_and_scratch: Any, length: int, phases: int, increments: bool) -> None:
    refs = _Refs(*blocks_and_scratch)
    phase, block, last_block = pl.program_id(1), pl.program_id(2), pl.num_programs(2) - 1
    rows = refs.a.shape[0]

    @pl.when((phase == 0) & (block == 0))
    def _start() -> None:
        refs.sums[...] = jnp.zeros_like(refs.sums)

    @pl.when(phase == 0)
    def _add() -> None:
        @tpu.repeat(rows // _PART)
        def _add_part(part: Array) -> None:
            here = tpu.rows_of(part, _PART)
            for i, partial in enumerate(_inner_products(refs, here, block, length)):
                refs.sums[i, here] += partial

    @pl.when((phase == 0) & (block == last_block))
    def _solve() -> None:
        tpu.repeat(rows // LANES)(functools.partial(_solve_group, refs, length))

    @pl.when(phase == phases - 1)
    def _change() -> None:
        tpu.repeat(rows // _PART)(functools.partial(_change_part, refs, increments))


def _solve_group(refs: _Refs, length: int, group: Array) -> None:
    """Writes what the ``z`` of 128 rows and their entries change by."""
    here = tpu.rows_of(group, LANES)
    known = refs.known[:, here].astype(jnp.float32)
    plus, minus, *products = (jnp.sum(refs.sums[i, here].T, axis=0, keepdims=True) for i in range(refs.sums.shape[0]))
    if products:
        (p,), z, residual = products, known, None
    else:
        p, residual = plus - minus, known
        z = p + residual
    scaled = root.scaled_residual(p, 2 * (plus + minus), z, residual)
    is_near = jnp.abs(scaled) <= root.NEAR
    t, beta, gamma, _ = root.near_coefficients(root.near_root(scaled, p, 2 * (plus + minus)))
    some_far = jnp.max(jnp.where(is_near, 0.0, 1.0)) > 0
    refs.is_far[group] = some_far.astype(jnp.int32)

    @pl.when(jnp.logical_not(some_far))
    def _near() -> None:
        refs.z_change[:, here] = -t
        for i, coefficient in enumerate((gamma, beta)):
            refs.coefficients[i, here] = _along_rows(coefficient)

    @pl.when(some_far)
    def _far() -> None:
        far_t, *far = _far_coefficients(plus, minus, z, length)
        refs.z_change[:, here] = -jnp.where(is_near, t, far_t)
        merged = [jnp.where(is_near, coefficient, 0) for coefficient in (gamma, beta)]
        merged += [jnp.where(is_near, 0, coefficient) for coefficient in far]
        for i, coefficient in enumerate(merged):
            refs.coefficients[i, here] = _along_rows(coefficient)


def _change_part(refs: _Refs, increments: bool, part: Array) -> None:
    """Writes the new entries of some rows."""
    here = tpu.rows_of(part, _PART)
    some_far = refs.is_far[lax.div(part, LANES // _PART)] > 0

    def write(changes: Callable[[Array, Array], tuple[Array, Array]]) -> None:
        for columns in _registers(refs.a):
            a, b = (ref[here, columns].astype(jnp.float32) for ref in (refs.a, refs.b))
            for ref, old, change in zip((refs.new_a, refs.new_b), (a, b), changes(a, b), strict=True):
                ref[here, columns] = (change if increments else old + change).astype(ref.dtype)

    @pl.when(jnp.logical_not(some_far))
    def _near() -> None:
        gamma, beta = refs.coefficients[0, here], refs.coefficients[1, here]
        write(lambda a, b: (gamma * a + beta * b, gamma * b + beta * a))

    @pl.when(some_far)
    def _far() -> None:
        write(functools.partial(_far_changes, *(refs.coefficients[i, here] for i in range(_COEFFICIENTS))))


def _registers(ref: Any) -> list[Any]:
    """The columns of a block, those of a register at a time."""
    return [pl.ds(first, LANES) for first in range(0, ref.shape[1], LANES)]


def _inner_products(refs: _Refs, rows: Any, block: Array, length: int) -> list[Array]:
    """The sums of every row, each still in 128 parts."""
    sums = [jnp.zeros((_PART, LANES), jnp.float32)] * refs.sums.shape[0]
    width = refs.a.shape[1]
    column = lax.broadcasted_iota(jnp.int32, (_PART, LANES), 1) + block * width
    for columns in _registers(refs.a):
        a, b = (ref[rows, columns].astype(jnp.float32) for ref in (refs.a, refs.b))
        # Where a single block holds whole rows, its last register alone may lie beyond them.
        if length % width and (length > width or columns.start + LANES > length):
            inside = column < length - columns.start
            a, b = jnp.where(inside, a, 0), jnp.where(inside, b, 0)
        half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
        products = half_sum * half_sum, half_difference * half_difference, a * b
        sums = [total + product for total, product in zip(sums, products, strict=False)]
    return sums


def _far_coefficients(plus: Array, minus: Array, z: Array, length: int) -> tuple[Array, ...]:
    """``t``, and by what the halves of the sum and of the difference change, and the free parts of ``a`` and ``b``."""
    exact = jnp.zeros_like(z)
    t, beta, gamma, radius = root.far_root(root.Square(plus, exact), root.Square(minus, exact), z)
    of_sum, of_difference = root.changes_of_halves(t, beta, gamma)
    free = radius * length**-0.5
    return t, of_sum, of_difference, free, t * free


def _far_changes(
    gamma: Array, beta: Array, of_sum: Array, of_difference: Array, free: Array, t_free: Array, a: Array, b: Array
) -> tuple[Array, Array]:
    """The changes of ``a`` and ``b`` of rows some of which are far: the coefficients of either kind are zero."""
    shared, opposed = of_sum * (0.5 * (a + b)), of_difference * (0.5 * (a - b))
    a_change = gamma * a + beta * b + ((shared + opposed) + free)
    b_change = gamma * b + beta * a + ((shared - opposed) + t_free)
    return a_change, b_change


def _along_rows(row: Array) -> Array:
    """A number for each of 128 rows, (1, 128), in all lanes of its row."""
    return jnp.broadcast_to(row, (LANES, LANES)).T
