"""The public proximal operators of the errors of regression, and the projection onto a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.implementation import choose
from pjax_kernels.regression import reference, xla

_SQUARED = {"reference": reference.squared_error_increment, "xla": xla.squared_error_increment}
_ABSOLUTE = {"reference": reference.absolute_error_increment, "xla": xla.absolute_error_increment}
_BOX = "project_box"
_BOX_IMPLEMENTATIONS = {"reference": reference.box_increment, "xla": xla.box_increment}


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
        increments: return the change instead of the new value, in float32 or wider.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new prediction, in the shape and dtype given.

    Raises:
        TypeError: ``prediction`` or ``target`` is not floating-point.
        ValueError: the shapes do not fit, or the implementation is unknown.

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.1.1.
    """
    return _prox("prox_squared_error", _SQUARED, prediction, target, strength, weights, increments, implementation)


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
        prediction: floating-point, any shape.
        target: the shape of ``prediction``.
        strength: how far the loss pulls; a positive number.
        weights: of a shape that broadcasts to that of ``prediction``, not negative; an element of weight 0 stays.
        increments: return the change instead of the new value, in float32 or wider.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new prediction, in the shape and dtype given.

    Raises:
        TypeError: ``prediction`` or ``target`` is not floating-point.
        ValueError: the shapes do not fit, or the implementation is unknown.

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.5.2.
    """
    return _prox("prox_absolute_error", _ABSOLUTE, prediction, target, strength, weights, increments, implementation)


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
        increments: return the change instead of the new value, in float32 or wider.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new value, in the shape and dtype given.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: the shapes do not fit, or the implementation is unknown.

    Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.2.4.
    """
    value = arguments.floating_arrays(_BOX, value=value)["value"]
    dtype = arguments.compute_dtype([value])
    limits = [
        arguments.broadcast_constant(_BOX, name, limit, value.shape, dtype)
        for name, limit in (("low", low), ("high", high))
    ]
    project = choose(_BOX, implementation, _BOX_IMPLEMENTATIONS)
    return arguments.apply_increments([value], [project(value.astype(dtype), *limits)], increments)[0]


def _prox(
    kernel: str,
    available: Mapping[str, Callable[..., Array]],
    prediction: ArrayLike,
    target: ArrayLike,
    strength: ArrayLike,
    weights: ArrayLike,
    increments: bool,
    implementation: str | None,
) -> Array:
    arrays = arguments.floating_arrays(kernel, prediction=prediction, target=target)
    prediction, target = arrays["prediction"], arrays["target"]
    arguments.require_shape(kernel, "target", target, prediction.shape, f"prediction of shape {prediction.shape}")
    dtype = arguments.compute_dtype([prediction, target])
    pull = arguments.broadcast_constant(kernel, "weights", weights, prediction.shape, dtype) * (
        arguments.broadcast_constant(kernel, "strength", strength, prediction.shape, dtype)
    )
    change = choose(kernel, implementation, available)(prediction.astype(dtype), target.astype(dtype), pull)
    return arguments.apply_increments([prediction], [change], increments)[0]
