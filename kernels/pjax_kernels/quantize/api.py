"""The public projection onto a rounding to levels."""

from __future__ import annotations

import operator

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.kernel import of_increments
from pjax_kernels.quantize import reference, xla

_KERNEL = of_increments(
    "project_quantize", {"reference": reference.quantize_increments, "xla": xla.quantize_increments}
)


def project_quantize(
    x: ArrayLike,
    z: ArrayLike,
    *,
    levels: int,
    scale: ArrayLike,
    relaxed: bool = False,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project each element onto the set ``{z = the level nearest to x}``, for equally spaced levels in [-scale, scale].

    The levels are ``scale (2 j - levels + 1)/(levels - 1)`` for ``j = 0, ..., levels - 1``.  Level ``j`` belongs to the
    ``x`` in an interval between the midpoints of neighbouring levels, the outermost two to half-lines.  The nearest
    pair of an interval and its level is taken, of equally near ones that of the lowest level.  Intervals hold both
    their ends, or there would be no nearest point: an ``x`` that moves goes to a midpoint, which rounds to either
    of two levels.

    A small change never crosses a midpoint, so that an exact rounding hands none down.  The ``relaxed`` set is the
    exact one between levels turned into a line: through ``x`` and its level with slope 1 where ``x`` is within
    ``[-scale, scale]``, and level outside, as the straight-through estimator has it for gradients.

    Args:
        x: floating-point, any shape.
        z: the shape of ``x``, the estimates of the rounded values.
        levels: how many; an integer, at least 2.
        scale: the highest level, a positive number, which may be traced.
        relaxed: whether changes pass between levels.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes differ, or ``levels`` or ``scale`` are none of the above.

    Source: paper, section 3.2; Bengio, Leonard, Courville (2013) for what is relaxed.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    arguments.require_shape(_KERNEL.name, "z", z, x.shape, f"x of shape {x.shape}")
    positive = arguments.positive_number(_KERNEL.name, "scale", scale, arguments.compute_dtype([x, z]))
    found: tuple[Array, Array] = _KERNEL.run(
        implementation,
        (x, z, positive),
        increments=increments,
        known=arguments.known_residual(_KERNEL.name, residual, z),
        levels=_levels(levels),
        relaxed=bool(relaxed),
    )
    return found


def _levels(levels: int) -> int:
    try:
        count = operator.index(levels)
    except TypeError:
        count = 0
    if count < 2:
        raise ValueError(f"{_KERNEL.name}: levels is {levels!r}; pass an integer of at least 2")
    return count
