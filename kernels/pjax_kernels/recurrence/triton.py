"""Projection of a recurrence in consensus form on a GPU: all time steps in one launch, as one layer.

Rows are the time steps of all sequences.  The product of the inputs and that of the hidden states are added up where
the roots are found, in the kernels of :mod:`pjax_kernels.dense.triton`; nothing is joined in memory.
"""

from jax import Array, lax

from pjax_kernels import gpu
from pjax_kernels.dense.triton import layers_increments


def recurrence_increments(
    x: Array, h: Array, w_x: Array, w_h: Array, z: Array, *, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array, Array, Array]:
    """The mean changes of ``x``, ``h``, ``w_x`` and ``w_h``, and the change of ``z``."""
    batch, steps, _ = z.shape

    def project(x: Array, h: Array, w_x: Array, w_h: Array, z: Array, *known: Array) -> tuple[Array, ...]:
        return layers_increments((x, h), (w_x, w_h), z, *known, precision=precision)

    known = [] if residual is None else [residual]
    flat_x, flat_h, *flat = (array.reshape(1, batch * steps, array.shape[2]) for array in (x, h, z, *known))
    changes = gpu.over_leading_axis(project)(flat_x, flat_h, w_x[None], w_h[None], *flat)
    return tuple(change.reshape(array.shape) for change, array in zip(changes, (x, h, w_x, w_h, z), strict=True))
