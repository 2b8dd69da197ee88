"""The public projection onto a two-dimensional convolution in consensus form."""

from __future__ import annotations

from collections.abc import Sequence

from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.conv import reference, xla
from pjax_kernels.derivatives import consensus_formula
from pjax_kernels.kernel import of_increments
from pjax_kernels.windows import OfImage, place_windows


def _formula(
    changes: tuple[Array, ...], x: Array, w: Array, z: Array, *, windows: OfImage, precision: lax.PrecisionLike
) -> tuple[Array, Array, Array]:
    dots = xla.dot_products(x, w, z, windows=windows, precision=precision)
    return consensus_formula(dots, changes[-1], x, w, z)


_KERNEL = of_increments(
    "project_conv2d",
    {"reference": reference.conv2d_increments, "xla": xla.conv2d_increments},
    formula=_formula,
)


def project_conv2d(
    x: ArrayLike,
    w: ArrayLike,
    z: ArrayLike,
    *,
    strides: int | Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "VALID",
    residual: ArrayLike | None = None,
    increments: bool = False,
    precision: lax.PrecisionLike = "highest",
    implementation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Project onto the dot products of a convolution, and average the copies.

    ``z[b, p, q, k]`` is the dot product of ``w[:, :, :, k]`` with the window of ``x[b]`` that starts at row
    ``p strides[0] - padding[0][0]`` and at the column likewise: what :func:`jax.lax.conv_general_dilated` computes and
    machine learning calls a convolution.  Each dot product holds its own copies of the entries that its window
    covers; padding is constant, and not copied.  The copies all start from the given values, are projected as by
    :func:`project_bilinear`, and their means are returned; entries of ``x`` that no window covers stay.

    No copy is stored, nor any window: the cost is that of three convolutions, as of the gradients in both operands.
    On CPU, where a window has no more entries than there are output channels, one of them is a matrix product, whose
    result, no larger than ``z``, is added up.

    With the batch sharded in equal parts, the mean over shards of each shard's ``w`` is the mean over the batch.

    Args:
        x: ``(B, H, W, C)``, floating-point.
        w: ``(window height, window width, C, K)``.
        z: ``(B, H', W', K)``, the estimates of the outputs.
        strides: two positive integers, for rows and columns, or one for both.
        padding: "VALID" (none), "SAME", or the rows and columns before and after, ``((top, bottom), (left, right))``.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        precision: of the convolutions, as in :func:`jax.lax.conv_general_dilated`.
        implementation: "reference" (stores all copies), "xla", or None for the best that runs here.

    Returns:
        ``(x, w, z)``: the means of the projected copies, and the projected outputs, in the shapes and dtypes given.

    Raises:
        TypeError: an array is not floating-point.
        ValueError: the shapes do not fit, or ``strides`` or ``padding`` is not of the kind above.

    Source: paper, section 3.2, with all copies of a value equal, so that they need not be stored.
    """
    arrays = list(arguments.floating_arrays(_KERNEL.name, x=x, w=w, z=z).values())
    x, w, z = arrays
    found: tuple[Array, Array, Array] = _KERNEL.run(
        implementation,
        arrays,
        increments=increments,
        windows=_windows(x, w, z, strides, padding),
        precision=precision,
        known=arguments.known_residual(_KERNEL.name, residual, z),
    )
    return found


def _windows(
    x: Array, w: Array, z: Array, strides: int | Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> OfImage:
    """Where windows lie; a ``ValueError`` says where the arguments do not fit."""
    arguments.require_rank(_KERNEL.name, {"x": (x, 4), "w": (w, 4), "z": (z, 4)})
    arguments.require_shape(_KERNEL.name, "w", w, (*w.shape[:2], x.shape[3], w.shape[3]), f"x of shape {x.shape}")
    steps = arguments.positive_pair(_KERNEL.name, "strides", strides)
    pads = arguments.padding_pairs(_KERNEL.name, padding, x.shape[1:3], w.shape[:2], steps)
    rows, columns = place_windows(x.shape[1:3], w.shape[:2], steps, pads)
    expected = (x.shape[0], rows.count, columns.count, w.shape[3])
    because = f"x of shape {x.shape} with w of shape {w.shape}, strides {steps} and padding {pads}"
    arguments.require_shape(_KERNEL.name, "z", z, expected, because)
    return rows, columns
