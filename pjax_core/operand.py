"""What operations take: traced values, of which they build the graph, or plain arrays, with which they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.lib.array_utils import normalize_axis_tuple

from pjax_core import graph
from pjax_core.graph import Value
from pjax_core.primitive import Primitive

Operand: TypeAlias = Value | Array | np.ndarray | float
"""A traced value, or an array."""

Result: TypeAlias = Any
"""A :class:`Value` if any operand is one, else an array."""


def any_traced(operands: Sequence[Operand]) -> bool:
    """Whether an operand stands for an array that is not known."""
    return any(isinstance(operand, Value) for operand in operands)


def shape_of(operand: Operand) -> tuple[int, ...]:
    """The lengths of the operand's axes."""
    return operand.shape if isinstance(operand, Value) else np.shape(operand)


def apply(operation: Primitive, *operands: Operand, **settings: Any) -> Result:
    """The operation's output, traced or computed; on traced values an output constraint gives itself."""
    if not any_traced(operands):
        return operation.forward(*(jnp.asarray(operand) for operand in operands), **settings)
    return graph.apply(operation, *_values(operands), **settings)


def _values(operands: Sequence[Operand]) -> list[Value]:
    """The operands as values; arrays of integers beside floating-point values take their dtype."""
    dtypes = [operand.dtype for operand in operands if isinstance(operand, Value)]
    dtype = jnp.result_type(*dtypes)

    def value(operand: Operand) -> Value:
        if isinstance(operand, Value) or jnp.issubdtype(jnp.result_type(operand), jnp.floating):
            return graph.as_value(operand)
        return graph.as_value(jnp.asarray(operand, dtype))

    return [value(operand) for operand in operands]


def restructure(function: Callable[..., Array], *operands: Operand) -> Result:
    """The selection of elements, traced or computed."""
    if not any_traced(operands):
        return function(*(jnp.asarray(operand) for operand in operands))
    return graph.restructure(function, *(graph.as_value(operand) for operand in operands))


def axes_of(axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The axes that ``axis`` names, all for None, counted from the first one."""
    return tuple(range(rank)) if axis is None else normalize_axis_tuple(axis, rank, argname="axis")


def is_known(operand: Any) -> bool:
    """Whether the operand is an array of known content."""
    return not isinstance(operand, (Value, jax.core.Tracer))
