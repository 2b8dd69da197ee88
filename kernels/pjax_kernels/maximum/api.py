"""The public projections onto a maximum, over axes and over windows of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.export import is_symbolic_dim
from jax.typing import ArrayLike

from pjax_kernels import arguments, gpu
from pjax_kernels.kernel import Kernel, deferred, of_increments
from pjax_kernels.maximum import derivative, reference, xla
from pjax_kernels.windows import Windows, place_windows

_LONGEST_ON_GPU = 8192
"""Entries over ``axis`` that still fit the registers."""


_MOST_ENTRIES = 2**31 - 1
"""Over ``axis``: they are counted in 32 bits."""


def _too_many_on_gpu(x: Array, z: Array, *, axes: tuple[int, ...]) -> str | None:
    return gpu.unsupported({}, length=math.prod(x.shape[i] for i in axes), longest=_LONGEST_ON_GPU)


def _too_large_for_tpu(x: Array, z: Array, *, rows: Windows, columns: Windows) -> str | None:
    from pjax_kernels.maximum import tpu

    return tpu.unsupported(x.shape, rows, columns)


_MAX = of_increments(
    "project_max",
    {"reference": reference.max_increments, "xla": xla.max_increments},
    formula=derivative.max_formula,
    others={"triton": deferred("maximum.triton", "project_max")},
    limits={"triton": _too_many_on_gpu},
)
_MIN = replace(_MAX, name="project_min")
_POOL = of_increments(
    "project_max_pool",
    {"reference": reference.max_pool_increments, "xla": xla.max_pool_increments},
    formula=derivative.max_pool_formula,
    others={
        "triton": deferred("maximum.triton", "project_max_pool"),
        "tpu": arguments.from_increments(deferred("maximum.tpu", "max_pool_increments")),
    },
    limits={"tpu": _too_large_for_tpu},
)


def project_max(
    x: ArrayLike,
    z: ArrayLike,
    *,
    axis: int | Sequence[int] | None = -1,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project onto the set ``{z = max(x over axis)}``.

    With ``z`` below the maximum, the ``k`` largest entries and ``z`` go to their common mean, for the ``k`` that
    makes this the nearest point; the point is unique.  With ``z`` above the maximum, one largest entry and ``z`` meet
    halfway: where several are largest, the first of them, as in ``jnp.argmax`` over the flattened ``axis``.

    Args:
        x: floating-point.  Differences, and sums of them over ``axis``, must be finite in float32 or the wider dtype.
            Entries may be -inf where others are not: they are never the maximum, and stay.  A NaN turns all it is
            compared with into NaN.
        z: the estimates of the maxima, of the shape of ``x`` without ``axis``.
        axis: the axes to take the maximum over, as in ``jnp.max``; None for all.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", "triton" (GPUs), or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit, or ``axis`` is not of ``x``, is empty or has more than 2^31 - 1 entries.

    Source: paper, section 3.2.
    """
    arrays = arguments.floating_arrays(_MAX.name, x=x, z=z)
    return _project_max(
        _MAX,
        arrays["x"],
        arrays["z"],
        axis=axis,
        residual=residual,
        increments=increments,
        implementation=implementation,
    )


def _project_max(
    kernel: Kernel,
    x: Array,
    z: Array,
    *,
    axis: int | Sequence[int] | None,
    residual: ArrayLike | None,
    increments: bool,
    implementation: str | None,
) -> tuple[Array, Array]:
    """Project onto a maximum, and name the ``kernel`` where it cannot be done."""
    axes = arguments.reduced_axes(kernel.name, x, z, axis)
    if 0 in (x.shape[i] for i in axes):
        raise ValueError(f"{kernel.name}: x has shape {x.shape}, which has no entries over axis {axis} to choose from")
    entries = math.prod(x.shape[i] for i in axes)
    if not is_symbolic_dim(entries) and entries > _MOST_ENTRIES:
        raise ValueError(
            f"{kernel.name}: x has shape {x.shape}, so {entries} entries over axis {axis}; pass at most {_MOST_ENTRIES}"
        )
    known = arguments.known_residual(kernel.name, residual, z)
    new_x, new_z = kernel.run(
        implementation,
        (x, jnp.expand_dims(z, axes)),
        arrays={"x": x, "z": z},
        increments=increments,
        known={name: jnp.expand_dims(array, axes) for name, array in known.items()},
        axes=axes,
    )
    return new_x, jnp.squeeze(new_z, axes)


def project_min(
    x: ArrayLike,
    z: ArrayLike,
    *,
    axis: int | Sequence[int] | None = -1,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project onto the set ``{z = min(x over axis)}``: the mirror image of :func:`project_max`, with its rules.

    Args:
        x: floating-point, as for :func:`project_max`; entries may be inf where others are not.
        z: the estimates of the minima, of the shape of ``x`` without ``axis``.
        axis: the axes to take the minimum over, as in ``jnp.min``; None for all.
        residual: as for :func:`project_max`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", "triton" (GPUs), or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit, or ``axis`` is not of ``x``, is empty or has more than 2^31 - 1 entries.

    Source: paper, section 3.2, for the maximum.
    """
    arrays = arguments.floating_arrays(_MIN.name, x=x, z=z)
    options: dict[str, Any] = {"axis": axis, "increments": increments, "implementation": implementation}
    new_x, new_z = _project_max(
        _MIN, -arrays["x"], -arrays["z"], residual=None if residual is None else -jnp.asarray(residual), **options
    )
    return -new_x, -new_z


def project_max_pool(
    x: ArrayLike,
    z: ArrayLike,
    *,
    window: int | tuple[int, int],
    strides: int | tuple[int, int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project every window of images onto the set ``{z = max(entries of the window)}``.

    Each window holds its own copies of its entries and is projected as by :func:`project_max`, ties in row-major
    order.  The mean over the windows that hold an entry is returned; an entry in no window stays.

    Args:
        x: ``(B, H, W, C)``, floating-point; finite as for :func:`project_max`.
        z: ``(B, H', W', C)``, the estimates of the maxima, with as many windows as ``lax.reduce_window`` has.
        window: rows and columns of a window, or one number for both.
        strides: rows and columns from a window to the next; by default those of the window, without overlap.
        padding: "VALID", "SAME", or pairs ``((top, bottom), (left, right))``.  Padding is never the maximum.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", "triton" (GPUs), "tpu", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit; ``window``, ``strides`` or ``padding`` are none of the above; or no window
            fits into ``x``, or one holds nothing but padding.

    Source: paper, section 3.2; for overlapping windows, each is one consumer of its entries.
    """
    arrays = arguments.floating_arrays(_POOL.name, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    arguments.require_rank(_POOL.name, {"x": (x, 4)})
    rows, columns = _window_axes(x, window, strides, padding)
    batch, _, _, channels = x.shape
    expected = batch, rows.count, columns.count, channels
    arguments.require_shape(_POOL.name, "z", z, expected, f"x of shape {x.shape} in windows of {window}")
    known = arguments.known_residual(_POOL.name, residual, z)
    found: tuple[Array, Array] = _POOL.run(
        implementation, (x, z), arrays=arrays, increments=increments, known=known, rows=rows, columns=columns
    )
    return found


def _window_axes(
    x: Array,
    window: int | tuple[int, int],
    strides: int | tuple[int, int] | None,
    padding: str | Sequence[tuple[int, int]],
) -> tuple[Windows, Windows]:
    """Where the windows lie along the rows and the columns of ``x``."""
    window = arguments.positive_pair(_POOL.name, "window", window)
    strides = window if strides is None else arguments.positive_pair(_POOL.name, "strides", strides)
    pads = arguments.padding_pairs(_POOL.name, padding, x.shape[1:3], window, strides)
    both = place_windows(x.shape[1:3], window, strides, pads)
    if any(axis.count == 0 for axis in both):
        raise ValueError(
            f"{_POOL.name}: window {window} is larger than x of shape {x.shape} with padding {padding!r}; "
            f"pass a smaller window or more padding"
        )
    if any(axis.some_are_padding for axis in both):
        raise ValueError(
            f"{_POOL.name}: some windows of {window} with strides {strides} hold nothing but the padding {padding!r} "
            f"of x of shape {x.shape}, so have no maximum; pass less padding"
        )
    return both
