"""Projection of a recurrence in consensus form on a TPU: the kernel of a dense layer, with two pairs of operands.

All time steps are one launch, as rows of a batch: none waits for another.
"""

from __future__ import annotations

from jax import Array, lax

from pjax_kernels import arguments
from pjax_kernels.dense import tpu
from pjax_kernels.recurrence import xla


def project_recurrence(
    x: Array,
    h: Array,
    w_x: Array,
    w_h: Array,
    z: Array,
    *,
    increments: bool,
    precision: lax.PrecisionLike,
    residual: Array | None = None,
    blocks: tpu.Blocks | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """The new means ``x``, ``h``, ``w_x`` and ``w_h``, and ``z``, or their changes."""
    if 0 in (array.size for array in (x, h, w_x, w_h)):  # no grid covers it
        project = arguments.from_increments(xla.recurrence_increments)
        return project(x, h, w_x, w_h, z, increments=increments, precision=precision, residual=residual)
    flat_x, flat_h, *outputs = (
        array.reshape(-1, array.shape[2]) for array in (x, h, z, *([] if residual is None else [residual]))
    )
    (new_x, new_h), (new_w_x, new_w_h), new_z = tpu.project_products(
        (flat_x, flat_h), (w_x, w_h), *outputs, increments=increments, precision=precision, blocks=blocks
    )
    return new_x.reshape(x.shape), new_h.reshape(h.shape), new_w_x, new_w_h, new_z.reshape(z.shape)
