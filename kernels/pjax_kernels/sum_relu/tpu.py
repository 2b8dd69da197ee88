"""Projection onto a rectified sum on a TPU, in one pass: inputs and ``z`` are read once and written once.

A residual that is known is read beside them.

An input that is one row for all, such as a bias, is read once, and the mean of its changes is added up in the same
pass.  Other inputs that broadcast are stretched before, and their means taken after.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from pjax_kernels import arguments, tpu
from pjax_kernels.sum.reference import mean_of_copies
from pjax_kernels.sum_relu import xla

_PART = 16
"""Rows of a block that are computed at a time."""


class Blocks(NamedTuple):
    """Rows, a multiple of 16, and columns, a multiple of 128, of ``z`` that are in VMEM at a time."""

    rows: int
    columns: int


def default_blocks(shape: tuple[int, int], dtypes: Sequence[DTypeLike]) -> Blocks:
    """As much as fits into VMEM of blocks of ``dtypes``, those that are read and written."""
    count, length = shape
    columns = min(tpu.tile_up(length), 1024)
    rows = min(512, tpu.tile_up(count, _PART))
    while tpu.block_bytes(*(((rows, columns), dtype) for dtype in dtypes)) > tpu.VMEM:
        rows = tpu.tile_up(rows // 2, _PART)
    return Blocks(rows, columns)


def project_sum_relu(
    inputs: Sequence[Array],
    z: Array,
    *,
    increments: bool,
    residual: Array | None = None,
    blocks: Blocks | None = None,
) -> tuple[tuple[Array, ...], Array]:
    """The new inputs and ``z``, or their changes."""
    if z.size == 0:  # no grid covers it
        return arguments.from_increments(xla.sum_relu_increments)(inputs, z, increments=increments, residual=residual)
    length = z.shape[-1] if z.ndim else 1
    shape = z.size // length, length
    kinds = [_kind(x, z) for x in inputs]
    given = [array.reshape(shape) for array in ([z] if residual is None else [z, residual])]
    operands = [
        x.reshape(1, length) if kind == "row" else jnp.broadcast_to(x, z.shape).reshape(shape)
        for x, kind in zip(inputs, kinds, strict=True)
    ]
    # All inputs change by the same, which is written once, or not at all where every input's new value is.
    of_inputs = [x.dtype for x, kind in zip(inputs, kinds, strict=True) if kind == "full" and not increments]
    writes_change = "stretched" in kinds or (increments and "full" in kinds)
    dtypes = [*of_inputs, jnp.float32 if increments else z.dtype, *[jnp.dtype(jnp.float32)] * writes_change]
    rows, columns = blocks or default_blocks(shape, [*(x.dtype for x in operands + given), *dtypes])

    block = pl.BlockSpec((rows, columns), lambda j, i: (i, j))
    row_block = pl.BlockSpec((1, columns), lambda j, i: (0, j))
    written = [tpu.Output(shape, dtype, block) for dtype in dtypes]
    written += [tpu.Output((1, length), jnp.float32, row_block)] * ("row" in kinds)
    results = tpu.launch(
        functools.partial(
            _project,
            kinds=kinds,
            given=len(given),
            count=shape[0],
            increments=increments,
            writes_change=writes_change,
        ),
        *operands,
        *given,
        name="project_sum_relu",
        grid=(pl.cdiv(length, columns), pl.cdiv(shape[0], rows)),
        inputs=[*(row_block if kind == "row" else block for kind in kinds), *[block] * len(given)],
        outputs=written,
        scratch=[pltpu.VMEM((_PART, columns), jnp.float32)] * ("row" in kinds),
    )
    new_full, rest = list(results[: len(of_inputs)]), list(results[len(of_inputs) :])
    new_z, change = rest[0].reshape(z.shape), rest[1].reshape(z.shape) if writes_change else rest[0]

    def new_input(x: Array, kind: str) -> Array:
        if kind == "full" and not increments:
            return new_full.pop(0).reshape(x.shape)
        mean = (rest[-1] * (1 / shape[0])).reshape(x.shape) if kind == "row" else mean_of_copies(x, change)
        return mean if increments else (x + mean).astype(x.dtype)

    return tuple(new_input(x, kind) for x, kind in zip(inputs, kinds, strict=True)), new_z


def _kind(x: Array, z: Array) -> str:
    """Of an input: "full" of the shape of ``z``, "row" if it is one row for all of its rows, otherwise "stretched"."""
    if x.shape == z.shape:
        return "full"
    return "row" if x.ndim and x.size == x.shape[-1] == z.shape[-1] else "stretched"


def _project(*refs: Any, kinds: Sequence[str], given: int, count: int, increments: bool, writes_change: bool) -> None:
    inputs, remaining = refs[: len(kinds)], list(refs[len(kinds) :])
    given_refs = [remaining.pop(0) for _ in range(given)]  # z, and the residual if it is known
    moved = [ref for ref, kind in zip(inputs, kinds, strict=True) if kind == "full" and not increments]
    new_refs = [remaining.pop(0) for _ in moved]
    new_z_ref = remaining.pop(0)
    change_refs = [remaining.pop(0) for _ in range(writes_change)]
    sums = [remaining] * bool(remaining)  # of the changes: the row that is written, and partial sums
    rows, columns = new_z_ref.shape
    block, last_block = pl.program_id(1), pl.num_programs(1) - 1
    rows_left = count - block * rows

    @pl.when(block == 0)
    def _start() -> None:
        for _, parts_ref in sums:
            parts_ref[...] = jnp.zeros_like(parts_ref)

    @tpu.repeat(rows // _PART)
    def _project_part(part: Array) -> None:
        here = tpu.rows_of(part, _PART)

        def read(ref: Any) -> Array:
            return ref[slice(None) if ref.shape[0] == 1 else here].astype(jnp.float32)

        z, *known = map(read, given_refs)
        change, z_change = xla.changes(tuple(map(read, inputs)), z, *known)
        for new_ref, ref in zip(new_refs, moved, strict=True):
            new_ref[here] = (read(ref) + change).astype(new_ref.dtype)
        new_z_ref[here] = (z_change if increments else z + z_change).astype(new_z_ref.dtype)
        for change_ref in change_refs:
            change_ref[here] = change
        for _, parts_ref in sums:
            row = lax.broadcasted_iota(jnp.int32, (_PART, columns), 0) + part * _PART
            parts_ref[...] += jnp.where(row < rows_left, change, 0)

    @pl.when(block == last_block)
    def _end() -> None:
        for sums_ref, parts_ref in sums:
            sums_ref[...] = jnp.sum(parts_ref[...], axis=0, keepdims=True)
