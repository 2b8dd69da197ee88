"""Truth values that depend on parameters: comparisons, what is made of them, and what they choose.

A comparison is the sign of a difference. What it chooses is a union of two pieces, one for either sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays.meshes import Shape, is_open
from pjax_core.graph.nodes import Computed, Node, Slot, fixed_value, is_fixed, of_node, select
from pjax_core.operations import primitives
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import (
    broadcast_by_operation,
    broadcast_to,
    constant,
    filled,
    number,
    operation,
    reshaped,
    slot_of,
)
from pjax_core.trace.values import Elementwise, Indices, Truth, Value, known, number_of

Condition: TypeAlias = Truth | Slot
"""Truth values that depend on parameters, or data that are such."""


def is_condition(value: Value) -> bool:
    """Whether the value is truth values that depend on parameters."""
    return isinstance(value, Truth) or isinstance(value, Elementwise) and value.shape.dtype == bool


def condition(value: Value) -> Condition:
    """Truth values as the signs that they follow from."""
    if isinstance(value, Truth) and value.name == "along":
        raise NotImplementedError(
            "conditions that depend on parameters, put side by side, choose by jnp.select alone; join them by & and |"
        )
    if isinstance(value, (Truth, Slot)):
        return value
    assert isinstance(value, Elementwise)
    assert value.compared is not None
    equation, inputs = value.compared
    if equation.name not in RULES:
        raise NotImplementedError(f"{equation.where()}: {equation.words} of conditions; write it by &, | and ~")
    return RULES[equation.name](equation, *inputs)


def compared(equation: Equation, a: Value, b: Value) -> Condition:
    """``a > b`` and the like, as the sign of ``a - b``."""
    name, negated = _SIGNS[equation.name]
    dtype = next(value.shape.dtype for value in (a, b) if number_of(value) is None)
    if number_of(b) == 0:
        score = slot_of(a)
    elif number_of(a) == 0:
        score, name = slot_of(b), _OPPOSITE[name]
    else:
        slots = broadcast_by_operation(slot_of(a), slot_of(b))
        shape = Shape(equation.shape.shape, dtype)
        score = operation(primitives.signed_sum, *slots, shape=shape, coefficients=(1.0, -1.0))
    found = Truth(name, (broadcast_to(score, equation.shape.shape),), equation.shape)
    return Truth("not", (found,), equation.shape) if negated else found


_SIGNS = {"gt": ("positive", False), "lt": ("negative", False), "ge": ("negative", True), "le": ("positive", True)}
"""Of which sign ``a - b`` is where a comparison holds, or where it does not."""

_OPPOSITE = {"positive": "negative", "negative": "positive"}


def _equal(equation: Equation, a: Value, b: Value) -> Condition:
    """Whether values are numbers, and finite, or neither larger nor smaller than others."""
    if a is b:
        return filled(equation.name == "eq", equation.shape)
    if math.inf in (number_of(a), number_of(b)) or -math.inf in (number_of(a), number_of(b)):
        return _of_infinite(equation, a, b)
    larger = compared(replace(equation, name="gt"), a, b)
    assert isinstance(larger, Truth)
    unequal = Truth("or", (larger, replace(larger, name=_OPPOSITE[larger.name])), equation.shape)
    return unequal if equation.name == "ne" else Truth("not", (unequal,), equation.shape)


def _of_infinite(equation: Equation, *inputs: Value) -> Slot:
    """Which are infinite: none that moves, as nothing else is projected onto, but constants that stand among them."""
    return _of_fixed(equation.name, equation.bind(), equation.shape, *map(_with_zeros, inputs))


def _of_fixed(name: str, function: Callable[..., Array], shape: Shape, *slots: Slot) -> Slot:
    """A function of slots that hold nothing but data and constants: of known ones a constant."""
    if any(known(of_node(source)) is None for slot in slots for source in slot.sources):
        return of_node(Computed(f"{name} of data", shape, -1, function, slots))
    with jax.ensure_compile_time_eval():
        return constant(np.asarray(function(*(jnp.asarray(slot.read(fixed_value)) for slot in slots))))


def _with_zeros(value: Value) -> Slot:
    """The value with zeros for what moves, and of functions for what is finite."""
    if isinstance(value, Elementwise):
        function, base = value.function, _with_zeros(value.base)
        return _of_fixed(value.name, lambda x: jnp.where(jnp.isinf(x), function(x), 0), value.shape, base)
    if not isinstance(value, Slot):
        return filled(0, value.shape)
    return value.reading(lambda source: source if is_fixed(source) else _zeros(source.shape))


def _zeros(shape: Shape) -> Node:
    """Zeros as a node, of any size."""
    if is_open(shape):
        return Computed("zeros", shape, -1, lambda: jnp.zeros(shape.shape, shape.dtype), ())
    return constant(np.zeros(shape.shape, shape.dtype)).sources[0]


def _connected(equation: Equation, *inputs: Value) -> Condition:
    return Truth(equation.name, tuple(map(condition, inputs)), equation.shape)


def _either(equation: Equation, *inputs: Value) -> Condition:
    """One of two, and not the other."""
    a, b = map(condition, inputs)
    ways = (Truth("and", (x, Truth("not", (y,), equation.shape)), equation.shape) for x, y in ((a, b), (b, a)))
    return Truth("or", tuple(ways), equation.shape)


def _any(equation: Equation, x: Value) -> Condition:
    """Of signs by the largest or smallest of what they are the signs of."""
    return _reduced(equation, condition(x), equation.name == "reduce_or")


def _reduced(equation: Equation, found: Condition, any_holds: bool) -> Condition:
    axes = tuple(equation.params["axes"])
    if isinstance(found, Slot):
        array, reduce = known(found), np.any if any_holds else np.all
        if array is not None:
            return constant(reduce(array, axes))
        return of_node(Computed(f"{equation.name} of data", equation.shape, -1, equation.bind(), (found,)))
    if found.name == "not":
        return Truth("not", (_reduced(equation, found.of[0], not any_holds),), equation.shape)
    if found.name == ("or" if any_holds else "and"):
        return Truth(found.name, tuple(_reduced(equation, part, any_holds) for part in found.of), equation.shape)
    if found.name not in _OPPOSITE:
        raise NotImplementedError(
            f"{equation.where()}: {equation.words} of conditions joined by & or |; reduce each condition "
            "by itself, or compare their values by jnp.minimum or jnp.maximum"
        )
    extreme = primitives.maximum if any_holds == (found.name == "positive") else primitives.minimum
    (score,) = found.of
    shape = Shape(equation.shape.shape, score.shape.dtype)
    return Truth(found.name, (operation(extreme, score, shape=shape, axis=axes),), equation.shape)


def _converted(equation: Equation, x: Value) -> Value:
    """Truth values as numbers; of numbers a view."""
    shape = equation.shape
    if not is_condition(x):
        return _view(equation, x)
    found = condition(x)
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        made = f"a condition that depends on parameters as an integer, {equation.where()}"
        truth = found if isinstance(found, Truth) else None
        return Indices(made, "count by astype(float), and choose between branches by jnp.where", shape, truth=truth)
    if isinstance(found, Truth) and found.name == "one":
        return found.of[0]
    return chosen(found, filled(1, shape), filled(0, shape), shape)


def _select(equation: Equation, which: Value, *cases: Value) -> Value:
    if is_condition(which):
        otherwise, case = map(slot_of, cases)
        if otherwise is case:  # as lax.cond under vmap chooses what its branches stop the gradient of
            return case
        found = condition(which)
        if isinstance(found, Truth) and not jnp.issubdtype(equation.shape.dtype, jnp.floating):
            raise NotImplementedError(
                f"{equation.where()}: a condition that depends on parameters chooses between integers; let it choose "
                "between floating-point numbers, such as 1.0 and -1.0"
            )
        return chosen(found, case, otherwise, equation.shape)
    known_case = number_of(which)
    if known_case is not None:
        return cases[int(known_case)]
    return _view(equation, which, *cases)


def _view(equation: Equation, *inputs: Value) -> Slot:
    return select(equation.name, equation.bind(), equation.params, equation.shape, *map(slot_of, inputs))


def chosen(which: Condition, a: Slot, b: Slot, shape: Shape) -> Slot:
    """``a`` where the condition holds, else ``b``."""
    if isinstance(which, Slot):
        holds = number_of(which)
        if holds is not None:
            return a if holds else b
        return select("select_n", lambda which, a, b: jnp.where(which, a, b), {}, shape, which, a, b)
    if which.name == "not":
        return chosen(which.of[0], b, a, shape)
    if which.name in ("and", "or"):
        inside = chosen(which.of[1], a, b, shape)
        return chosen(which.of[0], inside, b, shape) if which.name == "and" else chosen(which.of[0], a, inside, shape)
    (score,) = which.of
    if which.name == "one":
        half = number(0.5, score.shape)
        score = operation(primitives.signed_sum, score, half, shape=score.shape, coefficients=(1.0, -1.0))
    sign = -1 if which.name == "negative" else 1
    return operation(primitives.choice, broadcast_to(score, shape.shape), a, b, shape=shape, sign=sign)


def viewed(equation: Equation, inputs: Sequence[Value]) -> Condition:
    """A selection of truth values: the same one of what they are the signs of."""
    if equation.name in _SIDE_BY_SIDE:
        return _side_by_side(equation, inputs)
    ((place, value),) = [(i, value) for i, value in enumerate(inputs) if is_condition(value)]

    def view(slot: Slot) -> Slot:
        shape = Shape(equation.shape.shape, slot.shape.dtype)
        slots = [slot if i == place else slot_of(other) for i, other in enumerate(inputs)]
        return select(equation.name, equation.bind(), equation.params, shape, *slots)

    return view_of(condition(value), view)


def view_of(found: Condition, view: Callable[[Slot], Slot]) -> Condition:
    """Truth values with a view of the slots that they are of."""
    if isinstance(found, Slot):
        return view(found)
    of = tuple(view_of(part, view) for part in found.of)
    return replace(found, of=of, shape=Shape(of[0].shape.shape, found.shape.dtype))


_SIDE_BY_SIDE = {"stack": "axis", "concatenate": "dimension"}
"""Equations that put arrays side by side, and what they call the axis."""


def _side_by_side(equation: Equation, inputs: Sequence[Value]) -> Truth:
    """Conditions for each place along an axis."""
    axis = equation.params[_SIDE_BY_SIDE[equation.name]]
    parts = [condition(value) if is_condition(value) else slot_of(value) for value in inputs]
    if equation.name == "concatenate":
        if any(value.shape.shape[axis] != 1 for value in inputs):
            raise NotImplementedError(
                f"{equation.where()}: {equation.words} of conditions; concatenate what they choose"
            )
        size = tuple(length for place, length in enumerate(equation.shape.shape) if place != axis)
        parts = [view_of(part, lambda slot: reshaped(slot, size)) for part in parts]
    return Truth("along", (axis, *parts), equation.shape)


RULES: dict[str, Callable[..., Condition]] = {
    "gt": compared,
    "lt": compared,
    "ge": compared,
    "le": compared,
    "eq": _equal,
    "ne": _equal,
    "is_finite": _of_infinite,
    "and": _connected,
    "or": _connected,
    "not": _connected,
    "xor": _either,
    "reduce_or": _any,
    "reduce_and": _any,
}
"""Rules of equations with truth values as output."""

CHOICES: dict[str, Callable[..., Value]] = {"select_n": _select, "convert_element_type": _converted}
"""Rules of equations that take truth values, or data that are such, and give others."""
