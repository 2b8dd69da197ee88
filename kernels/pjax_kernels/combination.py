"""Combinations of vectors whose coefficients are arrays or plain numbers, of which 0 and 1 cost nothing."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from jax import Array

from pjax_kernels import arguments

Coefficient: TypeAlias = Array | float
"""Of the shape of ``z``, or one number for all dot products."""


class Combination(NamedTuple):
    """The coefficients that every dot product has for the operands ``x[k]`` and ``w[k]``."""

    x: tuple[Coefficient, ...]
    w: tuple[Coefficient, ...]


class FactoredChanges(NamedTuple):
    """What :func:`pjax_kernels.project_bilinear_map_factored` changes.

    Attributes:
        u: the changes of the coefficients of ``u``, as a pair of tuples like ``u`` itself: arrays of the shape of
            ``z``, or the number 0 where both ``u`` and ``v`` have it.
        v: those of ``v``.
        x_mean: of the shape of ``x[0]``, the mean changes of the copies in ``u`` of each of its entries.
        w_mean: of the shape of ``w[0]``, the mean changes of the copies in ``v`` of each of its entries.
        z_change: of the shape of ``z``.
        squared_change: scalar, the sum of squares of all changes of ``u`` and ``v``.
        squared_free: scalar, the part of it that the coefficients and the means leave out.
    """

    u: Combination
    v: Combination
    x_mean: Any
    w_mean: Any
    z_change: Array
    squared_change: Array
    squared_free: Array


def changes_like(x: Sequence[Any], w: Sequence[Any], z: Array) -> Any:
    """What the changes are sharded like, as a prefix of their tree."""
    return FactoredChanges(z, z, x[0], w[0], z, None, None)  # type: ignore[arg-type]


def times(*factors: Coefficient) -> Coefficient:
    """The product."""
    if any(_is(factor, 0) for factor in factors):
        return 0.0
    return functools.reduce(operator.mul, (factor for factor in factors if not _is(factor, 1)), 1.0)


def plus(terms: Iterable[Coefficient]) -> Coefficient:
    """The sum."""
    remaining = [term for term in terms if not _is(term, 0)]
    return functools.reduce(operator.add, remaining) if remaining else 0.0


def mixed(of_own: Coefficient, own: Combination, of_other: Coefficient, other: Combination) -> Combination:
    """``of_own * own + of_other * other``."""
    pairs_x, pairs_w = (zip(a, b, strict=True) for a, b in ((own.x, other.x), (own.w, other.w)))
    return Combination(
        tuple(plus((times(of_own, a), times(of_other, b))) for a, b in pairs_x),
        tuple(plus((times(of_own, a), times(of_other, b))) for a, b in pairs_w),
    )


def checked(kernel: str, name: str, value: Sequence[Sequence[Any]], counts: tuple[int, int], z: Array) -> Combination:
    """The argument ``name`` with its coefficients as arrays or floats, one for each of ``counts`` operands."""
    if tuple(map(len, value)) != counts:
        raise ValueError(
            f"{kernel}: {name} holds {tuple(map(len, value))} coefficients, but x and w hold {counts} arrays"
        )

    def coefficient(label: str, given: Any) -> Coefficient:
        if isinstance(given, (int, float)):
            return float(given)
        array = arguments.floating_arrays(kernel, **{label: given})[label]
        arguments.require_shape(kernel, label, array, z.shape, f"z of shape {z.shape}")
        return array

    of_x, of_w = (
        tuple(coefficient(f"{name}[{side}][{k}]", given) for k, given in enumerate(several))
        for side, several in enumerate(value)
    )
    return Combination(of_x, of_w)


def _is(coefficient: Coefficient, number: int) -> bool:
    return isinstance(coefficient, (int, float)) and coefficient == number
