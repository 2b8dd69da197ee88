"""The public projection onto the graph of a scalar function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.elementwise import derivative, reference, xla
from pjax_kernels.elementwise.curves import Curve
from pjax_kernels.elementwise.functions import KERNEL, elementwise_function
from pjax_kernels.elementwise.pieces import Pieces, piecewise_increments
from pjax_kernels.kernel import of_increments


def _xla_increments(
    x: Array, z: Array, residual: Array | None, constants: Sequence[Array], limits: Any, *, f: Any, fixed: Any
) -> tuple[Array, Array]:
    function, gap = _function_and_gap(x, z, residual, constants, limits, f=f, fixed=fixed)
    if isinstance(function, Pieces):
        return piecewise_increments(x, z, gap, function)

    def curve_of(*constants: Array) -> Any:
        return elementwise_function(f, constants, dict(fixed))

    of_any_shape = partial(_is_of_any_shape, f, x, constants)
    return xla.smooth_increments(x, z, gap, curve_of, constants, of_any_shape=of_any_shape)


def _reference_increments(
    x: Array, z: Array, residual: Array | None, constants: Sequence[Array], limits: Any, *, f: Any, fixed: Any
) -> tuple[Array, Array]:
    function, gap = _function_and_gap(x, z, residual, constants, limits, f=f, fixed=fixed)
    return reference.increments(x, z, gap, function)


def _function_and_gap(
    x: Array, z: Array, residual: Array | None, constants: Sequence[Array], limits: Any, *, f: Any, fixed: Any
) -> tuple[Curve | Pieces, Array]:
    """The function, and what ``z`` has beyond its values, known or not."""
    _require_elementwise(f, x, constants)
    function = elementwise_function(f, constants, {**dict(fixed), **limits})
    return function, z - function.value(x) if residual is None else residual


def _is_of_any_shape(f: Any, x: Array, constants: Sequence[Array]) -> bool:
    """Whether it is seen that a function takes some elements alone: it may hold an array in the shape of all."""
    if not callable(f):
        return True
    for length in (3, 5):  # of which an array that it holds has one at most
        some = [jax.ShapeDtypeStruct((length,), array.dtype) for array in (x, *constants)]
        try:
            if jax.eval_shape(f, *some).shape != (length,):
                return False
        except (TypeError, ValueError):
            return False
    return True


def _require_elementwise(f: Any, x: Array, constants: Sequence[Array]) -> None:
    """Raise ``ValueError`` where a function gives another number of elements than it is given."""
    if callable(f) and (shape := jax.eval_shape(f, x, *constants).shape) != x.shape:
        raise ValueError(f"{KERNEL}: f(x) has shape {shape} for x of shape {x.shape}; pass a function of each element")


_KERNEL = of_increments(
    KERNEL,
    {"reference": _reference_increments, "xla": _xla_increments},
    formula=derivative.elementwise_formula,
)


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
    "log", "sqrt", "rsqrt" and powers take any ``x``, and move those outside of their domains into it.  Squares of
    residuals should be finite, or a point that is not the nearest may be taken, and whole powers of ``x`` must be.

    Args:
        f: one of :data:`pjax_kernels.ELEMENTWISE`, or a smooth function of an array, and of ``constants``, element by
            element.
        x: floating-point, any shape.
        z: the shape of ``x``, the estimates of ``f(x)``.
        constants: with a function, its further arguments, of shapes that broadcast to that of ``x``.
        residual: ``z - f(x)`` where the caller knows it better than the rounding of ``z`` tells.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.
        settings: of a named function: ``approximate`` of "gelu", ``exponent`` of "power", and those above.

    Raises:
        TypeError: ``x`` or ``z`` is not floating-point, or the settings are not those of the function.
        ValueError: the shapes do not fit, or there is no function of that name.

    Source: Newton's method on the distance to a curve.
    """
    arrays = arguments.floating_arrays(KERNEL, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    arguments.require_shape(KERNEL, "z", z, x.shape, f"x of shape {x.shape}")
    dtype = arguments.compute_dtype([x, z])

    def stretched(name: str, value: ArrayLike) -> Array:
        return arguments.broadcast_constant(KERNEL, name, value, x.shape, dtype)

    arrays_of_f = [stretched(f"constants[{i}]", constant) for i, constant in enumerate(constants)]
    of_clip = [name for name in ("low", "high") if f == "clip" and settings.get(name) is not None]
    limits = {name: stretched(name, settings.pop(name)) for name in of_clip}
    elementwise_function(f, arrays_of_f, {**settings, **limits})  # for its errors
    found: tuple[Array, Array] = _KERNEL.run(
        implementation,
        (x, z, None if residual is None else stretched("residual", residual), arrays_of_f, limits),
        increments=increments,
        f=f,
        fixed=tuple(settings.items()),
    )
    return found
