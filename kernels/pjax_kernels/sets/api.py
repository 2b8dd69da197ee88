"""The public projections onto sets."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from jax import Array
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_tuple

from pjax_kernels import arguments
from pjax_kernels.derivatives import of_formula
from pjax_kernels.kernel import Kernel
from pjax_kernels.sets import reference, xla


def _from_values(values_of: Callable[..., Array]) -> Callable[..., Any]:
    """An implementation from the new values, which are in the set exactly: old values plus changes need not be."""

    def project(value: Array, *operands: Array, increments: bool, **settings: Any) -> Array:
        wide, *operands = arguments.widened((value, *operands))
        new = values_of(wide, *operands, **settings)
        return new - wide if increments else new.astype(value.dtype)

    return project


def _kernel(of_set: str) -> Kernel:
    """Of the functions of this name, which give new values."""
    values_of: Callable[..., Array] = getattr(xla, of_set)
    return Kernel(
        f"project_{of_set}",
        {"reference": _from_values(getattr(reference, of_set)), "xla": _from_values(values_of)},
        formula=of_formula(lambda value, *operands, **settings: values_of(value, *operands, **settings) - value),
    )


_SPHERE, _LEVELS, _SPARSE = _kernel("sphere"), _kernel("levels"), _kernel("sparse")
_ONE_HOT, _SIMPLEX, _ORTHONORMAL = _kernel("one_hot"), _kernel("simplex"), _kernel("orthonormal")


def project_sphere(
    value: ArrayLike,
    *,
    norm: ArrayLike = 1.0,
    axis: int | Sequence[int] | None = -1,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """Project vectors onto the sphere ``{|value| = norm}``.

    Args:
        value: floating-point, any shape.  Every point is as near to 0, which becomes that of equal entries.
        norm: a positive number, which may be traced.
        axis: along which a vector lies; several, or None for all.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: the norm or the axis does not fit, or vectors have no entry.

    Source: Elser, Lal, arXiv 2602.17493, section III.
    """
    value, axes = _vectors(_SPHERE, value, axis)
    radius = arguments.positive_number(_SPHERE.name, "norm", norm, arguments.compute_dtype([value]))
    return _run(_SPHERE, implementation, increments, value, radius, axis=axes)


def project_levels(
    value: ArrayLike, *, levels: Sequence[float], increments: bool = False, implementation: str | None = None
) -> Array:
    """Project each element onto a finite set of numbers.

    Args:
        value: floating-point, any shape.
        levels: different finite numbers, in any order.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new value, in the shape and dtype given: the nearest level, the lower one of two that are as near.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: there is no level, or levels are equal or not finite numbers.

    Source: Elser, Lal, arXiv 2602.17493, section III, for 1 and -1.
    """
    kernel = _LEVELS.name
    value = arguments.floating_arrays(kernel, value=value)["value"]
    numbers = sorted(arguments.finite_number(kernel, "a level", level) for level in levels)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{kernel}: levels are {tuple(levels)!r}; pass one or more different numbers")
    return _run(_LEVELS, implementation, increments, value, levels=tuple(numbers))


def project_sparse(
    value: ArrayLike, *, count: int, axis: int | None = -1, increments: bool = False, implementation: str | None = None
) -> Array:
    """Project vectors onto those with at most ``count`` entries other than 0.

    Args:
        value: floating-point, any shape.
        count: not negative.
        axis: along which a vector lies; None for all of them.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new value, in the shape and dtype given: the entries of largest size, of equal ones the first.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: the count or the axis does not fit, or vectors have no entry.

    Source: Blumensath and Davies, Iterative hard thresholding for compressed sensing (2009).
    """
    kernel = _SPARSE.name
    value = arguments.floating_arrays(kernel, value=value)["value"]
    (place,) = (0,) if axis is None else _axes(kernel, value, axis)
    shape = value.shape if axis is not None else (value.size,)
    try:
        wanted = operator.index(count)
    except TypeError:
        wanted = -1
    if wanted < 0 or isinstance(count, bool):
        raise ValueError(f"{kernel}: count is {arguments.shown(count)}; pass an integer of at least 0")
    count = min(wanted, shape[place])
    found = _run(_SPARSE, implementation, increments, value.reshape(shape), count=count, axis=place)
    return found.reshape(value.shape)


def project_one_hot(
    value: ArrayLike,
    *,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
    axis: int = -1,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """Project vectors onto the set of those that are ``high`` at one entry and ``low`` at all others.

    Args:
        value: floating-point, any shape.
        low: a finite number, which may be traced.
        high: likewise, another one.
        axis: along which a vector lies.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new value, in the shape and dtype given: ``high`` at the largest entry (the smallest, where ``high < low``),
        of equal ones the first.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: a number or the axis does not fit, or vectors have no entry.

    Source: Elser, Lal, arXiv 2602.17493, section IV.
    """
    value, (place,) = _vectors(_ONE_HOT, value, axis)
    dtype = arguments.compute_dtype([value])
    numbers = [
        arguments.scalar(_ONE_HOT.name, name, number, dtype, math.isfinite, "a finite number")
        for name, number in (("low", low), ("high", high))
    ]
    return _run(_ONE_HOT, implementation, increments, value, *numbers, axis=place)


def project_simplex(
    value: ArrayLike,
    *,
    total: ArrayLike = 1.0,
    axis: int = -1,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """Project vectors onto the simplex ``{value >= 0, sum(value) = total}``.

    Args:
        value: floating-point, any shape; probabilities, where the total is 1.
        total: a positive number, which may be traced.
        axis: along which a vector lies.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: the total or the axis does not fit, or vectors have no entry.

    Source: Held, Wolfe, Crowder, Validation of subgradient optimization (1974); Duchi et al. (2008).
    """
    value, (place,) = _vectors(_SIMPLEX, value, axis)
    number = arguments.positive_number(_SIMPLEX.name, "total", total, arguments.compute_dtype([value]))
    return _run(_SIMPLEX, implementation, increments, value, number, axis=place)


def project_orthonormal(value: ArrayLike, *, increments: bool = False, implementation: str | None = None) -> Array:
    """Project matrices onto those with orthonormal columns, ``value^T value = 1``.

    Args:
        value: floating-point, ``(..., N, M)``, ``N >= M``.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        The new value, in the shape and dtype given: the orthogonal factor of the polar decomposition.  Where columns
        depend on each other several are as near, and it is one of them.

    Raises:
        TypeError: ``value`` is not floating-point.
        ValueError: the shape does not fit.

    Source: Higham, Computing the polar decomposition (1986).
    """
    kernel = _ORTHONORMAL.name
    value = arguments.floating_arrays(kernel, value=value)["value"]
    if value.ndim < 2 or value.shape[-2] < value.shape[-1]:
        raise ValueError(
            f"{kernel}: value has shape {value.shape}, but columns are orthonormal only in (..., N, M) with N >= M"
        )
    return _run(_ORTHONORMAL, implementation, increments, value)


def _run(kernel: Kernel, implementation: str | None, increments: bool, *operands: Any, **settings: Any) -> Array:
    found: Array = kernel.run(implementation, operands, increments=increments, **settings)
    return found


def _vectors(kernel: Kernel, value: ArrayLike, axis: int | Sequence[int] | None) -> tuple[Array, tuple[int, ...]]:
    """The value as an array, and the axes along which its vectors lie."""
    array = arguments.floating_arrays(kernel.name, value=value)["value"]
    return array, _axes(kernel.name, array, axis)


def _axes(kernel: str, value: Array, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """``axis`` as numbers that are not negative, all axes for None; there must be entries along them."""
    try:
        axes = tuple(range(value.ndim)) if axis is None else tuple(normalize_axis_tuple(axis, value.ndim))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kernel}: axis is {axis!r} for value of shape {value.shape}; pass an axis of it") from error
    if 0 in [value.shape[place] for place in axes]:
        raise ValueError(f"{kernel}: value has shape {value.shape}, so that vectors along axis {axis} have no entries")
    return axes
