"""Combinations of vectors whose coefficients are arrays or plain numbers, of which 0 and 1 cost nothing."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_kernels import arguments

Coefficient: TypeAlias = Array | float
"""Of the shape of ``z``, or one number for all dot products."""


class Combination(NamedTuple):
    """The coefficients that every dot product has for the operands ``x[k]`` and ``w[k]``."""

    x: tuple[Coefficient, ...]
    w: tuple[Coefficient, ...]


class Copies(NamedTuple):
    """The copies ``u`` and ``v`` that dot products hold, combinations of a few operands."""

    x: Sequence[Any]
    w: Sequence[Any]
    u: Combination
    v: Combination


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


def changes_like(x: Any, w: Any, z: Array) -> Any:
    """What the changes are sharded like, as a prefix of their tree."""
    return FactoredChanges(z, z, x, w, z, None, None)  # type: ignore[arg-type]


def times(*factors: Coefficient) -> Coefficient:
    """The product."""
    if any(_is(factor, 0) for factor in factors):
        return 0.0
    return functools.reduce(operator.mul, (factor for factor in factors if not _is(factor, 1)), 1.0)


def plus(terms: Iterable[Coefficient]) -> Coefficient:
    """The sum."""
    remaining = [term for term in terms if not _is(term, 0)]
    return functools.reduce(operator.add, remaining) if remaining else 0.0


def with_first_operands(u: Combination, v: Combination) -> tuple[Combination, Combination]:
    """``x[0] + u`` and ``w[0] + v``."""
    return (
        Combination((plus((1.0, u.x[0])), *u.x[1:]), u.w),
        Combination(v.x, (plus((1.0, v.w[0])), *v.w[1:])),
    )


def mixed(of_own: Coefficient, own: Combination, of_other: Coefficient, other: Combination) -> Combination:
    """``of_own * own + of_other * other``."""
    pairs_x, pairs_w = (zip(a, b, strict=True) for a, b in ((own.x, other.x), (own.w, other.w)))
    return Combination(
        tuple(plus((times(of_own, a), times(of_other, b))) for a, b in pairs_x),
        tuple(plus((times(of_own, a), times(of_other, b))) for a, b in pairs_w),
    )


def require_operands(kernel: str, x: Any, w: Any, u: Any, v: Any) -> None:
    """Raise an error unless all are lists or tuples, and there are operands."""
    arguments.require_several(kernel, x=x, w=w, u=u, v=v)
    if not x or not w:
        raise ValueError(f"{kernel}: x holds {len(x)} operands and w {len(w)}, but each needs at least one")


def copies(kernel: str, x: Sequence[Any], w: Sequence[Any], u: Any, v: Any, z: Array) -> Copies:
    """The copies, from operands that are arrays and from coefficients as they are given."""
    counts = (len(x), len(w))
    return Copies(x, w, *(_checked(kernel, name, value, counts, z) for name, value in (("u", u), ("v", v))))


def _checked(kernel: str, name: str, value: Sequence[Sequence[Any]], counts: tuple[int, int], z: Array) -> Combination:
    """The argument ``name`` with its coefficients as arrays or floats, one for each of ``counts`` operands."""
    arguments.require_several(kernel, **{f"{name}[{side}]": several for side, several in enumerate(value)})
    if tuple(map(len, value)) != counts:
        raise ValueError(
            f"{kernel}: {name} holds {tuple(map(len, value))} coefficients, but x and w hold {counts} arrays"
        )

    def coefficient(label: str, given: Any) -> Coefficient:
        if np.ndim(given) > 0:
            array = arguments.floating_arrays(kernel, **{label: given})[label]
            arguments.require_shape(kernel, label, array, z.shape, f"z of shape {z.shape}")
            return array
        advice = f"a number, or an array of shape {z.shape} as z has"
        number = arguments.scalar(kernel, label, given, arguments.compute_dtype([z]), lambda _: True, advice)
        return jnp.broadcast_to(number, z.shape) if isinstance(given, Array) else float(given)

    of_x, of_w = (
        tuple(coefficient(f"{name}[{side}][{k}]", given) for k, given in enumerate(several))
        for side, several in enumerate(value)
    )
    return Combination(of_x, of_w)


@dataclass(frozen=True)
class Layout:
    """Where the arrays and the numbers stand in what is given.

    Attributes:
        structure: of all.
        numbers: in the place of every array, None.
        adds: whether coefficients are what the copies have beside the first operands, as where a residual is known.
    """

    structure: Any
    numbers: tuple[float | None, ...]
    adds: bool

    def together(self, arrays: Sequence[Array]) -> Any:
        """All that was given, for these arrays."""
        remaining = iter(arrays)
        leaves = (next(remaining) if number is None else number for number in self.numbers)
        return jax.tree.unflatten(self.structure, leaves)


def arrays_apart(tree: Any, *, adds: bool) -> tuple[list[Array], Layout]:
    """The arrays of a tree that has numbers as well, and how they were among these."""
    leaves, structure = jax.tree.flatten(tree)
    numbers = tuple(leaf if isinstance(leaf, float) else None for leaf in leaves)
    return [leaf for leaf in leaves if not isinstance(leaf, float)], Layout(structure, numbers, adds)


def of_arrays(increments_of: Callable[..., FactoredChanges]) -> Callable[..., FactoredChanges]:
    """The same as a function of the arrays alone, with None for the number 0: arrays are all that it returns too."""

    def project(*arrays: Array, layout: Layout, **settings: Any) -> FactoredChanges:
        copies, z = layout.together(arguments.widened(arrays))
        found = increments_of(copies, z, **settings)
        return jax.tree.map(lambda change: None if isinstance(change, float) else change, found)

    return project


def formula_of_arrays(formula: Callable[..., FactoredChanges]) -> Callable[..., FactoredChanges]:
    """The same for what the derivative follows from, which gets the change of ``z`` first; see :func:`of_arrays`."""

    def by_formula(changes: FactoredChanges, *arrays: Array, layout: Layout, **settings: Any) -> FactoredChanges:
        copies, z = layout.together(arrays)
        if layout.adds:
            copies = Copies(copies.x, copies.w, *with_first_operands(copies.u, copies.v))
        found = formula(changes.z_change, copies, z, **settings)
        return jax.tree.map(lambda change, new: jnp.broadcast_to(new, change.shape), changes, found)

    return by_formula


def with_zeros(changes: FactoredChanges) -> FactoredChanges:
    """What is None as the number 0."""
    full: FactoredChanges = jax.tree.map(
        lambda change: 0.0 if change is None else change, changes, is_leaf=lambda change: change is None
    )
    return full


def _is(coefficient: Coefficient, number: int) -> bool:
    return isinstance(coefficient, (int, float)) and coefficient == number
