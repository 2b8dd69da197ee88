"""The public projection onto the graph of a scalar function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.elementwise import curves, pieces, reference, xla
from pjax_kernels.elementwise.curves import Curve
from pjax_kernels.elementwise.pieces import Pieces
from pjax_kernels.implementation import choose

_KERNEL = "project_elementwise"
ELEMENTWISE = tuple(sorted((*curves.NAMED, *pieces.NAMED)))
"""The functions that have names."""


def project_elementwise(
    f: str | Callable[..., Array],
    x: ArrayLike,
    z: ArrayLike,
    *,
    constants: Sequence[ArrayLike] = (),
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
    **settings: Any,
) -> tuple[Array, Array]:
    """Project each element onto the set ``{z = f(x)}``, for a scalar function ``f``.

    "abs", "clip" (``low``, ``high``: numbers or arrays), "leaky_relu" (``negative_slope``) and "hard_sigmoid" are
    exact.  Smooth functions are exact to rounding where the residual ``z - f(x)`` is small, such as 0.6 for "tanh".
    Elsewhere there may be several valleys, and the nearest point of the best one that is found is taken, never one
    farther than ``x`` with ``f(x)``: for named functions and normal ``x`` and ``z`` of standard deviations
    up to 5 it is the nearest in 99 % of all cases or more.  Of a function that is given as such nothing is known but
    its values and derivatives, and its valleys are told apart where they are wider than a sixteenth of the residual.
    "log", "sqrt", "rsqrt" and powers take any ``x``, and move those outside of their domains into it.

    Args:
        f: one of :data:`ELEMENTWISE`, or a smooth function of an array, and of ``constants``, element by element.
        x: floating-point, any shape.
        z: the shape of ``x``, the estimates of ``f(x)``.
        constants: with a function, its further arguments, of shapes that broadcast to that of ``x``.
        residual: ``z - f(x)`` where the caller knows it better than the rounding of ``z`` tells.
        increments: return the changes instead of the new values, in float32 or wider.
        implementation: "reference", "xla", or None for the best that runs here.
        settings: of a named function: ``approximate`` of "gelu", ``exponent`` of "power", and those above.

    Returns:
        ``(x, z)`` after the projection, in the shapes and dtypes given.

    Raises:
        TypeError: ``x`` or ``z`` is not floating-point, or the settings are not those of the function.
        ValueError: the shapes do not fit, or there is no function or no implementation of that name.

    Source: Newton's method on the distance to a curve.
    """
    arrays = arguments.floating_arrays(_KERNEL, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    arguments.require_shape(_KERNEL, "z", z, x.shape, f"x of shape {x.shape}")
    dtype = arguments.compute_dtype([x, z])
    extra = [
        arguments.broadcast_constant(_KERNEL, f"constants[{i}]", constant, x.shape, dtype)
        for i, constant in enumerate(constants)
    ]
    function = elementwise_function(f, extra, settings)
    implementations = {
        "reference": reference.increments,
        "xla": pieces.piecewise_increments if isinstance(function, Pieces) else xla.smooth_increments,
    }
    project = choose(_KERNEL, implementation, implementations)
    wide_x, wide_z = x.astype(dtype), z.astype(dtype)
    if residual is None:
        gap = wide_z - function.value(wide_x)
    else:
        gap = arguments.broadcast_constant(_KERNEL, "residual", residual, x.shape, dtype)
    new_x, new_z = arguments.apply_increments([x, z], project(wide_x, wide_z, gap, function), increments)
    return new_x, new_z


def elementwise_function(
    f: str | Callable[..., Array], constants: Sequence[Array], settings: dict[str, Any]
) -> Curve | Pieces:
    """The graph of a function, by its name or as it is."""
    if callable(f):
        if settings:
            raise TypeError(f"{_KERNEL}: {', '.join(settings)} given with a function; settings belong to a name")
        return curves.of_function(lambda x: f(x, *constants))
    named: dict[str, Callable[..., Curve | Pieces]] = {**curves.NAMED, **pieces.NAMED}
    make = named.get(f)
    if make is None:
        raise ValueError(f"{_KERNEL}: there is no function {f!r}; pass one of {', '.join(ELEMENTWISE)}, or a function")
    if constants:
        raise TypeError(f"{_KERNEL}: {f!r} takes no constants, but settings")
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        raise TypeError(f"{_KERNEL}: {f!r} does not take these settings: {error}") from None
    return make(**settings)
