"""Which entries of an array a function takes together: the rows that it treats each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Places = tuple[int | None, ...]
"""For each axis of the argument the axis of an array with the same entries; None where they are taken together."""

_MOVE = frozenset(
    {"cond", "conv_general_dilated", "dot_general", "dynamic_update_slice", "gather", "pad", "rev", "scan", "sort",
     "top_k", "while"}
)  # fmt: skip
"""What may leave the length of an axis as it is, but not its entries in their places; and what begins with these:"""

_MOVE_IN_KINDS = "approx_top_k", "cum", "ragged_dot", "reduce_window", "scatter", "select_and"

_OPAQUE = frozenset({"ffi_call", "io_callback", "pallas_call", "pure_callback", "shard_map"})
"""What says nothing of where its entries come from."""

_OF_MATRICES = frozenset(
    {"cholesky", "custom_linear_solve", "eig", "eigh", "fft", "householder_product", "lu", "qr", "schur", "svd",
     "triangular_solve", "tridiagonal_solve"}
)  # fmt: skip
"""What takes the entries along the last axes of matrices together, or of transforms along as many as they say."""


@dataclass(frozen=True)
class Rows:
    """The rows of an argument ``x`` and of the output ``z``, one for each index along axes that are in both.

    Attributes:
        of_x: those axes of x, ascending.
        of_z: the same ones of z, ascending.
    """

    of_x: tuple[int, ...]
    of_z: tuple[int, ...]

    def sum_x(self, x: Array) -> Array:
        """The sum over each row."""
        return jnp.sum(x, tuple(axis for axis in range(x.ndim) if axis not in self.of_x))

    def sum_z(self, z: Array) -> Array:
        """The sum over each row."""
        return jnp.sum(z, tuple(axis for axis in range(z.ndim) if axis not in self.of_z))

    def largest_z(self, z: Array) -> Array:
        """The largest size in each row."""
        return jnp.max(jnp.abs(z), tuple(axis for axis in range(z.ndim) if axis not in self.of_z), initial=0)

    def like_x(self, row: Array, x: Array) -> Array:
        """A number for each row, in a shape that broadcasts to that of x."""
        return jnp.expand_dims(row, tuple(axis for axis in range(x.ndim) if axis not in self.of_x))

    def like_z(self, row: Array, z: Array) -> Array:
        """A number for each row, in a shape that broadcasts to that of z."""
        return jnp.expand_dims(row, tuple(axis for axis in range(z.ndim) if axis not in self.of_z))


def rows_of(function: Callable[[Array], Array], x: Array) -> Rows:
    """The rows of a function's argument and output, as its equations tell them."""
    closed = jax.make_jaxpr(function)(x)
    places = _places(closed.jaxpr, {closed.jaxpr.invars[0]: tuple(range(x.ndim))})[0]
    of_x: list[int] = []
    of_z: list[int] = []
    for axis, place in enumerate(places or ()):
        if place is not None and place > max(of_z, default=-1):
            of_x.append(axis)
            of_z.append(place)
    return Rows(tuple(of_x), tuple(of_z))


def _places(jaxpr: Jaxpr, known: Mapping[Any, Places]) -> list[Places | None]:
    """Of each output of a jaxpr; None where it does not depend on the argument."""
    places = dict(known)

    def of(var: Any) -> Places | None:
        return None if isinstance(var, Literal) else places.get(var)

    for eqn in jaxpr.eqns:
        inputs = [of(var) for var in eqn.invars]
        dependent = [(_shape(var), place) for var, place in zip(eqn.invars, inputs, strict=True) if place]
        if not dependent:
            continue
        calls = () if _moves(eqn.primitive.name) else ("jaxpr", "call_jaxpr", "fun_jaxpr")
        inner = next((eqn.params[name] for name in calls if name in eqn.params), None)
        if inner is not None:
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            found = _places(inner, {v: p for v, p in zip(inner.invars, inputs, strict=True) if p})
        else:
            found = [
                _common([_moved(eqn, shape, place, _shape(var)) for shape, place in dependent]) for var in eqn.outvars
            ]
        places |= {var: place for var, place in zip(eqn.outvars, found, strict=True) if place}
    return [of(var) for var in jaxpr.outvars]


def _moves(name: str) -> bool:
    """Whether entries may leave their places, or nothing says where they come from."""
    return name in _MOVE | _OPAQUE or name.startswith(_MOVE_IN_KINDS)


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)


def _common(all_places: Sequence[Places]) -> Places:
    """Where all agree."""
    return tuple(of_axis[0] if len(set(of_axis)) == 1 else None for of_axis in zip(*all_places, strict=True))


def _moved(eqn: Any, before: tuple[int, ...], places: Places, after: tuple[int, ...]) -> Places:
    """The places in an output of an equation, from those in one of its inputs."""
    name, params = eqn.primitive.name, eqn.params

    def new(place: int) -> int | None:
        if name == "broadcast_in_dim":
            return params["broadcast_dimensions"][place]
        if name == "transpose":
            return params["permutation"].index(place)
        if name.startswith("reduce_") and "axes" in params:
            axes = params["axes"]
            return None if place in axes else place - sum(axis < place for axis in axes)
        if name in ("reshape", "squeeze", "expand_dims"):
            return _same_entries(before, place, after)
        if name in _OF_MATRICES:
            rank = max(len(_shape(var)) for var in eqn.invars)
            return place if place < rank - len(params.get("fft_lengths", ("rows", "columns"))) else None
        kept = len(before) == len(after) and before[place] == after[place] and not _moves(name)
        return place if kept else None

    return tuple(None if place is None else new(place) for place in places)


def _same_entries(before: tuple[int, ...], place: int, after: tuple[int, ...]) -> int | None:
    """The axis of a reshaped array with the entries of an axis before."""
    for axis, size in enumerate(after):
        if size == before[place] and math.prod(after[:axis]) == math.prod(before[:place]):
            return axis
    return None
