"""Projections onto a maximum on a GPU: Newton's method of :mod:`pjax_kernels.maximum.xla` in registers, without a sort.

Over axes, entries are read once and written once.  Over windows, one kernel finds how far each window's maximum falls;
a second adds up, for each entry, what it loses in the windows that hold it.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import triton
import triton.language as tl
from jax import Array

from pjax_kernels import arguments, blocks, gpu
from pjax_kernels.bilinear.triton import Rows
from pjax_kernels.windows import Windows


class Along(NamedTuple):
    """Windows along an axis; see :class:`pjax_kernels.windows.Windows`."""

    LENGTH: int
    SIZE: int
    STRIDE: int
    LOW: int
    COUNT: int


class Images(NamedTuple):
    """How many images there are, their windows, what is returned, and what is known."""

    COUNT: int
    ROW: Along
    COLUMN: Along
    CHANNELS: int
    INCREMENTS: bool
    HAS_RESIDUAL: bool


def project_max(
    x: Array, z: Array, axes: tuple[int, ...], *, increments: bool, residual: Array | None = None
) -> tuple[Array, Array]:
    """The new ``x`` and ``z``, which has size 1 along ``axes``, or their changes."""
    last = tuple(range(-len(axes), 0))
    moved = jnp.moveaxis(x, axes, last)
    entries = math.prod(x.shape[i] for i in axes)
    compute, has_residual = arguments.compute_dtype([x, z]), residual is not None
    # Where the residual is known the kernels do without z, and give its change.
    new_z_dtype = compute if increments or has_residual else z.dtype

    def project(x: Array, known: Array) -> tuple[Array, ...]:
        count, length = x.shape
        sizes = dict(blocks.find("max", x.shape, jnp.dtype(compute).name))
        rows, block = sizes.pop("ROWS"), triton.next_power_of_2(length)
        return gpu.launch(
            _lower_rows,
            x,
            known,
            outputs=[(x.shape, compute if increments else x.dtype), (known.shape, new_z_dtype)],
            grid=(triton.cdiv(count, rows),),
            GIVEN=Rows(count, length, rows, block, compute == jnp.float64, increments, has_residual),
            **sizes,
        )

    known = z if residual is None else residual
    new_x, new_z = gpu.over_leading_axis(project)(moved.reshape(z.size, entries), known.reshape(z.size))
    new_z = new_z.reshape(z.shape)
    if has_residual:
        (new_z,) = arguments.apply_increments([z], [new_z], increments)
    return jnp.moveaxis(new_x.reshape(moved.shape), last, axes), new_z


def project_max_pool(
    x: Array, z: Array, rows: Windows, columns: Windows, *, increments: bool, residual: Array | None = None
) -> tuple[Array, Array]:
    """The new ``x`` (B, H, W, C), the mean over its copies, and ``z`` (B, H', W', C), or their changes."""
    compute, has_residual = arguments.compute_dtype([x, z]), residual is not None
    new_z_dtype = compute if increments or has_residual else z.dtype

    def project(x: Array, known: Array) -> tuple[Array, ...]:
        channels = x.shape[3]
        sizes = blocks.find("max pool", x.shape, jnp.dtype(compute).name)
        along = (Along(*(getattr(axis, name.lower()) for name in Along._fields)) for axis in (rows, columns))
        common = sizes | {"GIVEN": Images(len(x), *along, channels, increments, has_residual)}
        top, fall, first, new_z = gpu.launch(
            _lower_windows,
            x,
            known,
            outputs=[(known.shape, dtype) for dtype in (compute, compute, np.int32, new_z_dtype)],
            grid=(triton.cdiv(known.size, sizes["BLOCK"]),),
            **common,
        )
        (new_x,) = gpu.launch(
            _lower_entries,
            x,
            top,
            fall,
            first,
            outputs=[(x.shape, compute if increments else x.dtype)],
            grid=(triton.cdiv(x.size, sizes["BLOCK"]),),
            **common,
        )
        return new_x, new_z

    new_x, new_z = gpu.over_leading_axis(project)(x, z if residual is None else residual)
    if has_residual:
        (new_z,) = arguments.apply_increments([z], [new_z], increments)
    return new_x, new_z


@triton.jit
def _lower_rows(x_ptr, known_ptr, new_x_ptr, new_z_ptr, GIVEN: tl.constexpr):
    """``known`` is ``z``, or the residual."""
    compute: tl.constexpr = tl.float64 if GIVEN.DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64) * GIVEN.ROWS + tl.arange(0, GIVEN.ROWS)
    column = tl.arange(0, GIVEN.BLOCK)
    is_row, is_column = row < GIVEN.COUNT, (column < GIVEN.LENGTH)[None, :]
    inside = is_row[:, None] & is_column
    offset = row[:, None] * GIVEN.LENGTH + column[None, :]
    x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(compute)
    x = tl.where(is_column, x, float("-inf"))
    known = tl.load(known_ptr + row, mask=is_row, other=0.0).to(compute)

    is_nan = (tl.max((x != x).to(tl.int32), axis=1) > 0) | (known != known)
    top = tl.max(x, axis=1)
    excess = -known if GIVEN.HAS_RESIDUAL else top - known
    fall = 0.5 * excess  # the root for the largest entry alone; others only make it smaller
    count = tl.full((GIVEN.ROWS,), GIVEN.LENGTH + 1, tl.int32)
    previous = count + 1
    going = 1  # carried: Triton before 3.9 has no reduction in the condition of a loop
    while going > 0:
        losses = _loss(x, top[:, None], fall[:, None])
        previous = count
        count = tl.sum((losses > 0).to(tl.int32), axis=1)
        step = (tl.sum(losses, axis=1) - (excess - fall)) / (count + 1).to(compute)
        fall = tl.where(fall > 0, fall - step, fall)
        going = tl.max((count < previous).to(tl.int32), axis=0)

    fall = tl.where(is_nan, float("nan"), fall)
    first = tl.min(tl.where(x == top[:, None], column[None, :], GIVEN.BLOCK), axis=1)
    raised = (column[None, :] == first[:, None]) & (fall < 0)[:, None]
    new_x = tl.where(raised, -fall[:, None], -_loss(x, top[:, None], fall[:, None]))
    new_x = tl.where(is_nan[:, None], float("nan"), new_x)
    new_z = excess - fall
    if not GIVEN.INCREMENTS:
        new_x = x + new_x
        if not GIVEN.HAS_RESIDUAL:
            new_z = known + new_z

    tl.store(new_x_ptr + offset, new_x, mask=inside)
    tl.store(new_z_ptr + row, new_z, mask=is_row)


@triton.jit
def _lower_windows(x_ptr, known_ptr, top_ptr, fall_ptr, first_ptr, new_z_ptr, GIVEN: tl.constexpr, BLOCK: tl.constexpr):
    compute: tl.constexpr = top_ptr.dtype.element_ty
    window = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = window < GIVEN.COUNT * GIVEN.ROW.COUNT * GIVEN.COLUMN.COUNT * GIVEN.CHANNELS
    channel, place = window % GIVEN.CHANNELS, window // GIVEN.CHANNELS
    column = place % GIVEN.COLUMN.COUNT * GIVEN.COLUMN.STRIDE - GIVEN.COLUMN.LOW
    row = place // GIVEN.COLUMN.COUNT % GIVEN.ROW.COUNT * GIVEN.ROW.STRIDE - GIVEN.ROW.LOW
    image_ptr = (
        x_ptr
        + place // (GIVEN.ROW.COUNT * GIVEN.COLUMN.COUNT) * (GIVEN.ROW.LENGTH * GIVEN.COLUMN.LENGTH * GIVEN.CHANNELS)
        + channel
    )
    known = tl.load(known_ptr + window, mask=exists, other=0.0).to(compute)

    top, first = tl.full((BLOCK,), float("-inf"), compute), tl.zeros((BLOCK,), tl.int32)
    is_nan = known != known
    for k in range(GIVEN.ROW.SIZE * GIVEN.COLUMN.SIZE):
        entry = _entry(image_ptr, row, column, k, exists, GIVEN).to(compute)
        first = tl.where(entry > top, k, first)
        top = tl.where(entry > top, entry, top)
        is_nan = is_nan | (entry != entry)

    excess = -known if GIVEN.HAS_RESIDUAL else top - known
    fall = 0.5 * excess
    count = tl.full((BLOCK,), GIVEN.ROW.SIZE * GIVEN.COLUMN.SIZE + 1, tl.int32)
    previous = count + 1
    going = 1
    while going > 0:
        previous = count
        total, count = tl.zeros_like(fall), tl.zeros_like(count)
        for k in range(GIVEN.ROW.SIZE * GIVEN.COLUMN.SIZE):
            entry = _entry(image_ptr, row, column, k, exists, GIVEN)
            loss = _loss(entry.to(compute), top, fall)
            total += loss
            count += (loss > 0).to(tl.int32)
        fall = tl.where(fall > 0, fall - (total - (excess - fall)) / (count + 1).to(compute), fall)
        going = tl.max((count < previous).to(tl.int32), axis=0)

    fall = tl.where(is_nan, float("nan"), fall)
    tl.store(top_ptr + window, top, mask=exists)
    tl.store(fall_ptr + window, fall, mask=exists)
    tl.store(first_ptr + window, first, mask=exists)
    new_z = excess - fall
    if not GIVEN.INCREMENTS and not GIVEN.HAS_RESIDUAL:
        new_z = known + new_z
    tl.store(new_z_ptr + window, new_z, mask=exists)


@triton.jit
def _lower_entries(x_ptr, top_ptr, fall_ptr, first_ptr, new_x_ptr, GIVEN: tl.constexpr, BLOCK: tl.constexpr):
    compute: tl.constexpr = top_ptr.dtype.element_ty
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = index < GIVEN.COUNT * GIVEN.ROW.LENGTH * GIVEN.COLUMN.LENGTH * GIVEN.CHANNELS
    channel, place = index % GIVEN.CHANNELS, index // GIVEN.CHANNELS
    column = place % GIVEN.COLUMN.LENGTH + GIVEN.COLUMN.LOW
    row = place // GIVEN.COLUMN.LENGTH % GIVEN.ROW.LENGTH + GIVEN.ROW.LOW
    image = place // (GIVEN.ROW.LENGTH * GIVEN.COLUMN.LENGTH)
    x = tl.load(x_ptr + index, mask=exists, other=0.0).to(compute)

    total, copies = tl.zeros_like(x), tl.zeros_like(x)
    # The windows that hold the entry are the last to start no later than it, and some before that.
    for i in range((GIVEN.ROW.SIZE + GIVEN.ROW.STRIDE - 1) // GIVEN.ROW.STRIDE):
        for j in range((GIVEN.COLUMN.SIZE + GIVEN.COLUMN.STRIDE - 1) // GIVEN.COLUMN.STRIDE):
            window_row, window_column = row // GIVEN.ROW.STRIDE - i, column // GIVEN.COLUMN.STRIDE - j
            row_inside, column_inside = (
                row - window_row * GIVEN.ROW.STRIDE,
                column - window_column * GIVEN.COLUMN.STRIDE,
            )
            holds = exists & (row_inside < GIVEN.ROW.SIZE) & (window_row >= 0) & (window_row < GIVEN.ROW.COUNT)
            holds = (
                holds
                & (column_inside < GIVEN.COLUMN.SIZE)
                & (window_column >= 0)
                & (window_column < GIVEN.COLUMN.COUNT)
            )
            window = (
                (image * GIVEN.ROW.COUNT + window_row) * GIVEN.COLUMN.COUNT + window_column
            ) * GIVEN.CHANNELS + channel
            top = tl.load(top_ptr + window, mask=holds, other=0.0)
            fall = tl.load(fall_ptr + window, mask=holds, other=0.0)
            first = tl.load(first_ptr + window, mask=holds, other=0)
            raised = (fall < 0) & (first == row_inside * GIVEN.COLUMN.SIZE + column_inside)
            change = tl.where(raised, -fall, -_loss(x, top, fall))
            total += tl.where(holds, tl.where(fall != fall, fall, change), 0.0)
            copies += holds.to(compute)

    change = total / tl.maximum(copies, 1.0)
    tl.store(new_x_ptr + index, change if GIVEN.INCREMENTS else x + change, mask=exists)


@triton.jit
def _entry(image_ptr, row, column, k, exists, GIVEN: tl.constexpr):
    """Entry ``k`` of every window, in row-major order; -inf where it is padding."""
    row, column = row + k // GIVEN.COLUMN.SIZE, column + k % GIVEN.COLUMN.SIZE
    inside = exists & (row >= 0) & (row < GIVEN.ROW.LENGTH) & (column >= 0) & (column < GIVEN.COLUMN.LENGTH)
    return tl.load(image_ptr + (row * GIVEN.COLUMN.LENGTH + column) * GIVEN.CHANNELS, mask=inside, other=float("-inf"))


@triton.jit
def _loss(entry, top, fall):
    """What an entry loses when the maximum falls from ``top``."""
    return tl.maximum(fall - (top - entry), 0.0)
