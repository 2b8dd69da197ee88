"""Functions of whole arrays without a rule of their own: complex numbers, transforms, decompositions of matrices.

Equations are put together up to the next real value that an operation needs, which is then one smooth function of the
values that they began with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.nodes import Node, Slot
from pjax_core.operations.call import call_p
from pjax_core.operations.smooth import reverse_function, smooth_function
from pjax_core.trace import names
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import joined, operation, slot_of
from pjax_core.trace.values import Application, Arraywise, Elementwise, Indices, Loss, Truth, Value, is_fixed

_STARTS_ANEW = frozenset({"max", "min"})
"""Functions of elements whose own projections are better than those of smooth functions."""


_CONVERTED = "convert_element_type"


def goes_on(equation: Equation, inputs: Sequence[Value]) -> bool:
    """Whether an equation has complex numbers, or goes on with a function of arrays that has nothing else to take."""
    if equation.name == call_p.name or all(map(is_fixed, inputs)):
        return False
    found = [value for value in inputs if isinstance(value, Arraywise)]
    if any(jnp.issubdtype(shape.dtype, jnp.complexfloating) for shape in equation.shapes):
        return True
    if equation.name == _CONVERTED and jnp.issubdtype(equation.shape.dtype, jnp.integer):
        return _moves(inputs[0])
    if not all(_is_real(value.shape) for value in found):
        return True
    if equation.name in names.LOOPS:  # searches for places
        return not any(map(_is_real, equation.shapes)) and any(map(_moves, inputs))
    if not found or equation.name not in names.UNARY | names.BINARY - _STARTS_ANEW:
        return False
    return {_told(base) for value in inputs for base in _moving(value)} == set(map(_told, _moving(found[0])))


def arraywise(equation: Equation, inputs: Sequence[Value]) -> list[Value] | None:
    """The outputs of an equation as functions of whole arrays; None where these would not be of real numbers."""
    if any(isinstance(value, (Truth, Indices, Loss)) for value in inputs):
        return None
    if not all(_is_real(base.shape) for value in inputs for base in _moving(value)):
        return None
    function = equation.bind()
    several = function if equation.of.primitive.multiple_results else lambda *arrays: [function(*arrays)]
    applied = Application(several, tuple(inputs))
    names_before = [value.name for value in inputs if isinstance(value, Arraywise) and value.name != _CONVERTED]
    name = names_before[0] if names_before else str(equation.params.get("name") or equation.name)
    bases = tuple({_told(base): base for value in inputs for base in _bases(value)}.values())
    make = functools.partial(_operation, equation)
    return [Arraywise(name, bases, applied, place, shape, make) for place, shape in enumerate(equation.shapes)]


def as_a_whole(equation: Equation, inputs: Sequence[Value]) -> list[Value] | None:
    """The outputs of a call as functions of arrays; None where they are none that could be projected."""
    found = arraywise(equation, inputs) if any(map(_moves, inputs)) else None
    try:
        for value in found or ():
            if _is_real(value.shape):
                slot_of(value)
    except NotImplementedError:
        return None
    return found


def _is_real(shape: Shape) -> bool:
    return jnp.issubdtype(shape.dtype, jnp.floating)


def _moves(value: Value) -> bool:
    """Whether real numbers that depend on parameters are in the value."""
    return not is_fixed(value) and _is_real(value.shape)


def _told(slot: Slot) -> Slot | Node:
    """What tells a slot from others."""
    return slot if slot.steps else slot.sources[0]


def _bases(value: Value) -> tuple[Slot, ...]:
    """What a value is a function of."""
    if isinstance(value, Arraywise):
        return value.bases
    return (value.base,) if _is_comparison(value) else (slot_of(value),)


def _is_comparison(value: Value) -> TypeGuard[Elementwise]:
    return isinstance(value, Elementwise) and value.shape.dtype == bool


def _moving(value: Value) -> list[Slot]:
    return [base for base in _bases(value) if not base.is_fixed]


def _operation(equation: Equation, value: Arraywise) -> Slot:
    """The output of the operation that a real function of arrays is."""
    if not _is_real(value.shape):
        raise NotImplementedError(
            f"{equation.where()}: {np.dtype(value.shape.dtype).name} that depends on parameters, of {value.name}, is "
            "used by what is projected; go on with real numbers, such as .real, .imag or jnp.abs of it"
        )
    fixed = [base for base in value.bases if base.is_fixed]
    moving = _moving(value)
    slot, parts = joined(moving)

    def forward(x: Array, *data: Array) -> Array:
        given = zip((*moving, *fixed), (*parts(x), *data), strict=True)
        return _computed(value, {_told(base): array.astype(base.shape.dtype) for base, array in given}).astype(x.dtype)

    shapes = [slot.shape, *(base.shape for base in fixed)]
    _require_derivative(equation, value, forward, shapes)
    make = smooth_function if _has_both_derivatives(forward, shapes) else reverse_function
    return operation(make(value.name, forward), slot, *fixed, shape=value.shape)


def _require_derivative(
    equation: Equation, value: Arraywise, function: Callable[..., Array], shapes: Sequence[Shape]
) -> None:
    """Raise ``NotImplementedError`` unless the function has a derivative in reverse."""
    try:
        jax.eval_shape(lambda x, *data: jax.vjp(lambda x: function(x, *data), x)[0], *shapes)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise NotImplementedError(
            f"{equation.where()}: {value.name} of values that depend on parameters has no projection, and no "
            "derivative in reverse to make one of; write it with other functions, or give it one by pj.primitive"
        ) from error


def _has_both_derivatives(function: Callable[..., Array], shapes: Sequence[Shape]) -> bool:
    """Whether a function has a derivative forwards, too: through ``custom_vjp`` there is none."""
    forwards = jax.make_jaxpr(lambda x, *data: jax.jvp(lambda x: function(x, *data), (x,), (x,)))
    return not names.occurs(frozenset({names.IN_REVERSE_ALONE}), forwards(*shapes))


def _computed(value: Value, arrays: dict[Any, Any]) -> Any:
    """A value from arrays of what it is a function of; what is computed on the way is kept among these."""
    if isinstance(value, Arraywise):
        if value.applied not in arrays:
            arrays[value.applied] = value.applied.function(*(_computed(v, arrays) for v in value.applied.inputs))
        return arrays[value.applied][value.place]
    if _is_comparison(value):
        return value.function(arrays[_told(value.base)])
    return arrays[_told(slot_of(value))]
