"""The public proximal operators of the errors of regression, and the projection onto a box."""

from __future__ import annotations

import math

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.kernel import Kernel, of_increments
from pjax_kernels.regression import reference, xla

_SQUARED = of_increments(
    "prox_squared_error", {"reference": reference.squared_error_increment, "xla": xla.squared_error_increment}
)
_ABSOLUTE = of_increments(
    "prox_absolute_error", {"reference": reference.absolute_error_increment, "xla": xla.absolute_error_increment}
)
_BOX = of_increments("project_box", {"reference": reference.box_increment, "xla": xla.box_increment})


def prox_squared_error(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    strength: ArrayLike = 1.0,
    weights: ArrayLike = 1.0,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """The proximal operator of squared error, ``argmin_x |x - prediction|^2 / (2 strength) + weights (x - target)^2``.

    Args:
        prediction: floating-point, any shape.
        target: the shape of ``prediction``.
        strength: how far the loss pulls; a positive number.
        weights: of a shape that broadcasts to that of ``prediction``, not negative; an element of weight 0 stays.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: ``prediction`` or ``target`` is not floating-point.
        ValueError: the shapes do not fit.

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.1.1.
    """
    return _prox(_SQUARED, prediction, target, strength, weights, increments, implementation)


def prox_absolute_error(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    strength: ArrayLike = 1.0,
    weights: ArrayLike = 1.0,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """The proximal operator of absolute error, ``argmin_x |x - prediction|^2 / (2 strength) + weights |x - target|``.

    A step of ``strength weights`` towards the target, no farther than it (soft thresholding).

    Args:
        prediction: as for :func:`prox_squared_error`.
        target: likewise.
        strength: likewise.
        weights: likewise.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: ``prediction`` or ``target`` is not floating-point.
        ValueError: the shapes do not fit.

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.5.2.
    """
    return _prox(_ABSOLUTE, prediction, target, strength, weights, increments, implementation)


def project_box(
    value: ArrayLike,
    low: ArrayLike = -math.inf,
    high: ArrayLike = math.inf,
    *,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """Project each element onto the set ``{low <= value <= high}``.

    Args:
        value: floating-point, any shape.
        low: of a shape that broadcasts to that of ``value``, at most ``high``; -inf for no limit.
        high: likewise; inf for no limit.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: the shapes do not fit, or ``low`` is known to be above ``high``.

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.2.4.
    """
    value = arguments.floating_arrays(_BOX.name, value=value)["value"]
    dtype = arguments.compute_dtype([value])
    limits = [
        arguments.broadcast_constant(_BOX.name, name, limit, value.shape, dtype)
        for name, limit in (("low", low), ("high", high))
    ]
    arguments.require_box(_BOX.name, low, high)
    found: Array = _BOX.run(implementation, (value, *limits), increments=increments)
    return found


def _prox(
    kernel: Kernel,
    prediction: ArrayLike,
    target: ArrayLike,
    strength: ArrayLike,
    weights: ArrayLike,
    increments: bool,
    implementation: str | None,
) -> Array:
    """The proximal operator of an error, of checked arrays and the product of strength and weights."""
    arrays = arguments.floating_arrays(kernel.name, prediction=prediction, target=target)
    prediction, target = arrays["prediction"], arrays["target"]
    arguments.require_shape(kernel.name, "target", target, prediction.shape, f"prediction of shape {prediction.shape}")
    dtype = arguments.compute_dtype([prediction, target])
    pull = arguments.broadcast_constant(kernel.name, "weights", weights, prediction.shape, dtype) * (
        arguments.broadcast_constant(kernel.name, "strength", strength, prediction.shape, dtype)
    )
    found: Array = kernel.run(implementation, (prediction, target, pull), increments=increments)
    return found
