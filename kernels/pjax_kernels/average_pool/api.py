"""The public projection onto means, or multiples of sums, of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.average_pool import reference, windows, xla
from pjax_kernels.kernel import of_increments

_KERNEL = of_increments(
    "project_average_pool", {"reference": reference.average_pool_increments, "xla": xla.average_pool_increments}
)


def project_average_pool(
    x: ArrayLike,
    z: ArrayLike,
    *,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    factor: float | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project every window of an array onto the set ``{z = factor (sum of its entries)}``, by default their mean.

    Each window holds its own copies of its entries; the mean over the windows that hold an entry is returned, and an
    entry in no window stays.

    Args:
        x: floating-point, any shape.
        z: the estimates of the means, as many along each axis as ``lax.reduce_window`` has windows.
        window: the extent of a window along each axis of ``x``, 1 where none is taken together, as in
            ``lax.reduce_window``; that of ``x`` for global pooling.
        strides: from a window to the next along each axis; by default ``window``, without overlap.
        padding: "VALID", "SAME", or a pair of numbers of places before and after for each axis.
        factor: what the sum is multiplied by.  None divides by the number of entries, padding left out;
            ``1/math.prod(window)`` counts padding as zeros, and 1 gives sums.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit; ``window``, ``strides``, ``padding`` or ``factor`` are none of the above;
            or no window fits into ``x``.

    Source: paper, section 3.2, for a sum; the projection onto a hyperplane.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    placed = _placed(x, window, strides, padding, factor)
    arguments.require_shape(_KERNEL.name, "z", z, placed.shape, f"x of shape {x.shape} in windows of {placed.size}")
    found: tuple[Array, Array] = _KERNEL.run(implementation, (x, z), increments=increments, windows=placed)
    return found


def _placed(x: Array, window: Any, strides: Any, padding: Any, factor: float | None) -> windows.WindowsOfArray:
    """Where the windows lie; a ``ValueError`` says what does not fit."""
    sizes = _one_for_each_axis(x, "window", window)
    steps = sizes if strides is None else _one_for_each_axis(x, "strides", strides)
    if isinstance(padding, str) and padding.upper() in ("VALID", "SAME"):
        padding = lax.padtype_to_pads(x.shape, sizes, steps, padding.upper())
    pads = np.array(padding, dtype=object)
    if pads.shape != (x.ndim, 2) and not (x.ndim == 0 and pads.size == 0) or any(pad < 0 for pad in pads.flat):
        raise ValueError(
            f"{_KERNEL.name}: padding is {padding!r} for x of shape {x.shape}; pass 'VALID', 'SAME', or a pair of "
            "integers >= 0 for each axis"
        )
    factor = None if factor is None else arguments.finite_number(_KERNEL.name, "factor", factor)
    placed = windows.place(x.shape, sizes, steps, [(int(low), int(high)) for low, high in pads], factor)
    if 0 in placed.shape and 0 not in x.shape:
        raise ValueError(f"{_KERNEL.name}: window {sizes} is larger than x of shape {x.shape} with padding {padding!r}")
    return placed


def _one_for_each_axis(x: Array, name: str, value: Any) -> tuple[int, ...]:
    numbers = np.array(value, dtype=object)
    if numbers.shape != (x.ndim,) or not all(isinstance(n, (int, np.integer)) and n > 0 for n in numbers):
        raise ValueError(
            f"{_KERNEL.name}: {name} is {value!r}; pass a positive integer for each of the {x.ndim} axes of x, of "
            f"shape {x.shape}"
        )
    return tuple(map(int, numbers))
