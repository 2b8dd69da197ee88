"""Sets that :func:`pjax_core.within` holds values, parameters and free inputs in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import pjax_kernels as pk
from pjax_core.arrays.messages import is_known
from pjax_core.graph.nodes import Constant, Operation, Parameter, fixed_value, ordered
from pjax_core.operations import costs, primitives
from pjax_core.operations.primitive import Primitive
from pjax_kernels.compose import add_to_pair, require_box


class Box(NamedTuple):
    """The set ``{low <= value <= high}``: numbers, or data that broadcast to the value's shape.

    ``Box(0)`` is that of values that are not negative.
    """

    low: Any = -math.inf
    high: Any = math.inf


class _KernelSet:
    """A set whose projection is a ``kernel``, which takes the set's attributes as keywords."""

    kernel: ClassVar[Callable[..., Array]]

    def project(self, value: ArrayLike, *, increments: bool = False) -> Array:
        """The nearest point of the set, or the change to it."""
        return self.kernel(value, **vars(self), increments=increments)


@dataclass(frozen=True)
class Sphere(_KernelSet):
    """Vectors of a norm, along an axis, several, or None for all: see :func:`pjax_kernels.project_sphere`."""

    norm: float = 1.0
    axis: int | tuple[int, ...] | None = -1

    kernel = staticmethod(pk.project_sphere)


@dataclass(frozen=True)
class Levels(_KernelSet):
    """Elements each of which is one of a few numbers: see :func:`pjax_kernels.project_levels`."""

    levels: Sequence[float] = (-1.0, 1.0)

    kernel = staticmethod(pk.project_levels)


@dataclass(frozen=True)
class Sparse(_KernelSet):
    """Vectors with at most ``count`` entries other than 0, along an axis or, for None, all of them as one.

    See :func:`pjax_kernels.project_sparse`.
    """

    count: int
    axis: int | None = -1

    kernel = staticmethod(pk.project_sparse)


@dataclass(frozen=True)
class OneHot(_KernelSet):
    """Vectors with one entry ``high``, all others ``low``: see :func:`pjax_kernels.project_one_hot`."""

    low: float = 0.0
    high: float = 1.0
    axis: int = -1

    kernel = staticmethod(pk.project_one_hot)


@dataclass(frozen=True)
class Simplex(_KernelSet):
    """Vectors that are not negative, with the sum ``total``: see :func:`pjax_kernels.project_simplex`."""

    total: float = 1.0
    axis: int = -1

    kernel = staticmethod(pk.project_simplex)


@dataclass(frozen=True)
class Orthonormal(_KernelSet):
    """Matrices with orthonormal columns: see :func:`pjax_kernels.project_orthonormal`."""

    kernel = staticmethod(pk.project_orthonormal)


Region: TypeAlias = Box | Sphere | Levels | Sparse | OneHot | Simplex | Orthonormal | Callable[[Array], Array]
"""A set, or a function that gives the point of one that is nearest to a value."""


@dataclass(frozen=True)
class _Limits:
    """Boxes, whose limits are operands."""

    def project(self, value: ArrayLike, low: ArrayLike, high: ArrayLike, *, increments: bool = False) -> Array:
        return pk.project_box(value, low, high, increments=increments)


@dataclass(frozen=True)
class _OwnSet:
    """A set given by its projection."""

    nearest: Callable[[Array], Array]

    def project(self, value: Array, *, increments: bool = False) -> Array:
        new = jnp.asarray(self.nearest(value))
        if new.shape != value.shape:
            raise ValueError(
                f"within: the projection returned an array of shape {new.shape} for a value of shape {value.shape}; "
                "it must return the nearest point, in the same shape"
            )
        return new - value if increments else new


def setting_and_operands(region: Any) -> tuple[Any, dict[str, ArrayLike]]:
    """What projects onto a set, and the operands that it takes beside the value; ``TypeError`` for no set."""
    if isinstance(region, Box):
        require_box("within", region.low, region.high)
        return _Limits(), {"low": region.low, "high": region.high}
    if isinstance(region, Levels):
        return Levels(tuple(region.levels)), {}  # compared, as settings are
    if isinstance(region, _KernelSet):
        return region, {}
    if callable(region):
        return _OwnSet(region), {}
    raise TypeError(
        f"within: the set is of type {type(region).__name__}; pass one, such as pj.Box(low, high) or pj.Sphere(norm), "
        "or a function that gives the nearest point of one"
    )


def _mean_squared_distance(value: Array, *limits: Array, region: Any) -> Array:
    change = region.project(value, *limits, increments=True)
    return jnp.mean(change * change)


def _project(inputs: tuple[Array, ...], output: None, residual: None, *, region: Any) -> tuple[tuple[Array, ...], None]:
    return (region.project(*inputs, increments=True),), None


within = Primitive(
    "within",
    _mean_squared_distance,
    _project,
    constrains_output=True,
    project_with_costs=costs.of_set(_project),
    shares=lambda value, *_, region: primitives.pull_of_losses(value.shape, None, 0.5),
)
"""A value in a set; what follows the value are limits, data of shapes that broadcast to that of the value."""


def of_parameters(outputs: Sequence[Operation]) -> tuple[list[Operation], dict[Parameter, Operation]]:
    """Output constraints without those that put a whole parameter into a set, and the latter by parameter.

    Such a set becomes part of the constraint that the copies of the parameter agree: so the parameter is always in it.
    """
    of: dict[Parameter, Operation] = {}
    for node in outputs:
        value, *limits = node.slots
        source = value.sources[0]
        known = all(isinstance(s, Constant) and is_known(s.value) for slot in limits for s in slot.sources)
        if node.primitive is within and isinstance(source, Parameter) and not value.steps and known:
            of.setdefault(source, node)
    others = [node for node in outputs if node not in of.values()]
    used = set(ordered(others))
    held = {parameter: node for parameter, node in of.items() if parameter in used}
    return [node for node in outputs if node not in held.values()], held


def placed(constraint: Operation, pair: tuple[Array, Array]) -> tuple[Array, Array]:
    """The nearest point of a parameter's set, as a pair of the value and what rounding took from it."""
    high, low = pair
    region = constraint.settings["region"]
    limits = [slot.read(fixed_value) for slot in constraint.slots[1:]]
    value = high.astype(low.dtype) + low
    if isinstance(region, (Sphere, Orthonormal)):  # curved: nothing is exact, and small changes must not be lost
        return add_to_pair(high, low, region.project(value, *limits, increments=True))
    new = region.project(value, *limits)
    moved = new != value
    new_high = jnp.where(moved, new, high).astype(high.dtype)
    return new_high, jnp.where(moved, new - new_high.astype(new.dtype), low)
