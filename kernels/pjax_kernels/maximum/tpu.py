"""Projection onto the maxima of windows on a TPU: Newton's method of :mod:`pjax_kernels.maximum.xla` in VMEM, no sort.

A program holds an image of up to 128 channels.  With strides, the entries of neighbouring windows lie apart; XLA moves
those that are a stride apart side by side before (an axis of ``stride`` phases), so that each entry of a row of windows
is a slice.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from pjax_kernels import tpu
from pjax_kernels.maximum.xla import MAX_UNROLLED
from pjax_kernels.windows import Windows, copies_of_each_entry


def unsupported(shape: tuple[int, ...], rows: Windows, columns: Windows) -> str | None:
    """Why the kernel does not take images of this shape, or None."""
    channels = min(shape[3], tpu.LANES)
    phases = (rows.stride * columns.stride, _slots(rows), _slots(columns), channels)
    outputs = rows.count, columns.count, channels
    if tpu.block_bytes(*[(phases, jnp.float32)] * 2, *[(outputs, jnp.float32)] * 2) > tpu.VMEM:
        return f"an image of shape {shape[1:]} does not fit into VMEM"
    if rows.size * columns.size > MAX_UNROLLED:
        return f"windows have {rows.size * columns.size} entries, and the kernel takes up to {MAX_UNROLLED}"
    return None


def max_pool_increments(
    x: Array, z: Array, rows: Windows, columns: Windows, residual: Array | None = None
) -> tuple[Array, Array]:
    """The mean changes of ``x`` over its copies, and the changes of ``z``, in float32."""
    if x.size == 0:  # no grid covers it
        return x, z
    batch, _, _, channels = x.shape
    phases = _split(x, rows, columns)
    lanes = min(channels, tpu.LANES)
    image = pl.BlockSpec((None, *phases.shape[1:4], lanes), lambda b, c: (b, 0, 0, 0, c))
    outputs = pl.BlockSpec((None, *z.shape[1:3], lanes), lambda b, c: (b, 0, 0, c))
    totals, z_change = tpu.launch(
        functools.partial(_project, rows=rows, columns=columns, has_residual=residual is not None),
        phases,
        z if residual is None else residual,
        name="project_max_pool",
        grid=(batch, pl.cdiv(channels, lanes)),
        inputs=[image, outputs],
        outputs=[tpu.Output(phases.shape, x.dtype, image), tpu.Output(z.shape, z.dtype, outputs)],
    )
    copies = copies_of_each_entry(rows, columns).astype(x.dtype)
    return _join(totals, x, rows, columns) / copies, z_change


def _slots(windows: Windows) -> int:
    """Entries of a phase along an axis, up to the last one of the last window."""
    return windows.count + (windows.size - 1) // windows.stride


def _split(x: Array, rows: Windows, columns: Windows) -> Array:
    """Padded images, (B, phases, rows / stride, columns / stride, C), as far as there are windows."""
    pads = [(axis.low, axis.stride * _slots(axis) - axis.low - axis.length, 0) for axis in (rows, columns)]
    padded = lax.pad(x, jnp.asarray(-math.inf, x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    parts = padded.reshape(len(x), _slots(rows), rows.stride, _slots(columns), columns.stride, x.shape[3])
    return parts.transpose(0, 2, 4, 1, 3, 5).reshape(len(x), -1, _slots(rows), _slots(columns), x.shape[3])


def _join(phases: Array, x: Array, rows: Windows, columns: Windows) -> Array:
    """The opposite: images like ``x``, zero where there are no windows."""
    parts = phases.reshape(len(x), rows.stride, columns.stride, _slots(rows), _slots(columns), x.shape[3])
    padded = parts.transpose(0, 3, 1, 4, 2, 5).reshape(
        len(x), rows.stride * _slots(rows), columns.stride * _slots(columns), x.shape[3]
    )
    crops = [(-axis.low, axis.low + axis.length - axis.stride * _slots(axis), 0) for axis in (rows, columns)]
    return lax.pad(padded, jnp.zeros((), x.dtype), ((0, 0, 0), *crops, (0, 0, 0)))


def _project(
    x_ref: Any,
    known_ref: Any,  # z, or the residual
    totals_ref: Any,
    z_change_ref: Any,
    *,
    rows: Windows,
    columns: Windows,
    has_residual: bool,
) -> None:
    totals_ref[...] = jnp.zeros_like(totals_ref)

    @tpu.repeat(rows.count)
    def _project_row_of_windows(row: Array) -> None:
        places = [
            (
                i % rows.stride * columns.stride + j % columns.stride,
                row + i // rows.stride,
                pl.ds(j // columns.stride, columns.count),
            )
            for i in range(rows.size)
            for j in range(columns.size)
        ]
        top = functools.reduce(jnp.maximum, (x_ref[place] for place in places))
        excess = -known_ref[row] if has_residual else top - known_ref[row]
        fall = _fall_of_maximum(lambda: (x_ref[place] for place in places), top, excess)
        z_change_ref[row] = excess - fall
        not_raised = fall < 0
        for place in places:
            entry = x_ref[place]
            raised = not_raised & (entry == top)
            totals_ref[place] += jnp.where(raised, -fall, -_loss(entry, top, fall))
            not_raised = not_raised & ~raised


def _fall_of_maximum(entries: Any, top: Array, excess: Array) -> Array:
    """How far the maxima of a row of windows fall; see :mod:`pjax_kernels.maximum.xla`."""

    def newton(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fall, previous, _ = state
        losses = [_loss(entry, top, fall) for entry in entries()]
        count = functools.reduce(jnp.add, (jnp.where(loss > 0, 1.0, 0.0) for loss in losses))
        step = (functools.reduce(jnp.add, losses) - (excess - fall)) / (count + 1)
        some_drop_out = jnp.max(jnp.where(count < previous, 1.0, 0.0)) > 0
        return jnp.where(fall > 0, fall - step, fall), count, some_drop_out

    start = 0.5 * excess, jnp.full_like(excess, math.inf), jnp.bool_(True)
    return lax.while_loop(lambda state: state[2], newton, start)[0]


def _loss(entry: Array, top: Array, fall: Array) -> Array:
    """What an entry loses when the maximum falls from ``top``."""
    return jnp.maximum(fall - (top - entry), 0)
