"""What a variable of a jaxpr stands for while the graph is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.nodes import Constant, Operation, Slot, of_node
from pjax_core.trace import names
from pjax_core.trace.equation import Equation


@dataclass(eq=False)
class Elementwise:
    """A function of each element of ``base`` that no operation computes yet, since more may be added to it.

    Attributes:
        base: what it is a function of.
        function: of an array, elementwise.
        name: "affine" for ``scale x + offset``, "relu", a name that has a projection of its own, or "elementwise".
        scale, offset: of an affine function.
        slot: the output of the operation, once there is one.
        free: the same with the slopes that its values have, where ``stop_gradient`` or ``custom_vjp`` give it others.
        rectified: of "relu" what it is the positive part of, where that is an affine function of ``base``.
        compared: of truth values the rule that makes them of other values, and these.
    """

    base: Slot
    function: Callable[[Array], Array]
    shape: Shape
    name: str
    scale: float = 1.0
    offset: float = 0.0
    slot: Slot | None = field(default=None, repr=False)
    free: Callable[[Array], Array] | None = None
    rectified: Elementwise | None = field(default=None, repr=False)
    compared: tuple[Equation, tuple[Value, ...]] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Application:
    """A function of arrays, which returns several, and the values that it takes."""

    function: Callable[..., Any]
    inputs: tuple[Value, ...]


@dataclass(eq=False)
class Arraywise:
    """One output of equations without rules that no operation computes yet, since it may be a step to others.

    Attributes:
        name: of the first of these equations.
        bases: what it is a function of.
        applied: the last of these equations.
        place: of the output among all of that.
        make: the output of the operation, made where it is real, kept in ``slot``.
    """

    name: str
    bases: tuple[Slot, ...]
    applied: Application
    place: int
    shape: Shape
    make: Callable[[Arraywise], Slot] = field(repr=False)
    slot: Slot | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Truth:
    """Truth values that depend on parameters.

    Attributes:
        name: "positive" or "negative", of a slot, or "one", of a slot of 0 and 1; "not", "and" or "or", of truth
            values, which data may know; "along", of an axis and of such for each place along it.
        of: what it is of.
    """

    name: str
    of: tuple[Any, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Indices:
    """Integers that depend on parameters.

    Attributes:
        made: by what, and where.
        advice: what to do without them.
        scores: of all that an index may be, along the last axis; None where nothing can use them.
        ranks: which of the scores has the index, 0 for the largest.
        beside: known parts of what an element is chosen by, None in the place of the index; empty if it alone does.
        truth: of truth values as 0 and 1, these.
        most: what larger indices became; None if all are as they were.
        first: the truth values of which an index is that of the first that holds, 0 for none.
    """

    made: str
    advice: str
    shape: Shape
    scores: Slot | None = None
    ranks: Slot | None = None
    beside: tuple[Any, ...] = ()
    truth: Truth | None = None
    most: int | None = None
    first: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Loss:
    """Output constraints, as what they compute: a number, or ``count`` that are yet to be averaged."""

    nodes: tuple[Operation, ...]
    shape: Shape
    count: int = 1


Value: TypeAlias = "Slot | Elementwise | Arraywise | Truth | Indices | Loss"


def is_fixed(value: Value) -> bool:
    """Whether it is computed of data and constants alone."""
    return isinstance(value, Slot) and value.is_fixed


def known(value: Any) -> Any:
    """The content of a constant, where it is known while tracing."""
    if isinstance(value, Slot) and not value.steps and isinstance(value.sources[0], Constant):
        array = value.sources[0].value
        return None if isinstance(array, jax.core.Tracer) else array
    return None


def number_of(value: Any) -> float | None:
    """The number that all elements of a constant are, or of a view of one that leaves nothing else in."""
    if isinstance(value, Slot) and len(value.sources) == 1 and all(step.name in names.RESHAPED for step in value.steps):
        value = of_node(*value.sources)
    array = known(value)
    if array is None or not array.size or not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        return None
    numbers = np.asarray(array).ravel()
    return float(numbers[0]) if (numbers == numbers[0]).all() else None
