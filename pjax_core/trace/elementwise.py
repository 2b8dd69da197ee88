"""Functions of each element of one value: equations are put together, and become one operation where others need it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.arrays.meshes import Shape, full
from pjax_core.graph.nodes import Slot
from pjax_core.trace import names
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import slot_of, stopped_view
from pjax_core.trace.values import Elementwise, Indices, Loss, Truth, Value, is_fixed, number_of

_LINEAR = frozenset({"add", "add_any", "sub", "mul", "div", "neg"})
_OF_SOME_NUMBERS = frozenset({"log", "sqrt", "rsqrt"})
"""Functions that not all numbers have: their projections move others among those that do, by themselves alone."""


def elementwise(equation: Equation, inputs: Sequence[Value]) -> Value | None:
    """The equation as a function of each element of one value; None where it is not one."""
    name = equation.name
    if any(isinstance(value, (Truth, Indices)) for value in inputs):
        return None
    if name == "convert_element_type":
        return _converted(equation, inputs[0])
    if name not in names.UNARY and name not in names.BINARY:
        return None
    numbers = [number_of(value) for value in inputs]
    moving = [value for value, number in zip(inputs, numbers, strict=True) if number is None]
    if any(map(is_fixed, moving)) or numbers[0] is not None and name == "select_n":
        return None
    if name in ("eq", "ne") and (inputs[0] is inputs[1] or math.inf in numbers or -math.inf in numbers):
        return None  # whether all are finite numbers
    if name == "max" and len(moving) == 1 and -math.inf in numbers:
        return moving[0]  # no number is smaller
    if name == "max" and len(moving) == 1 and 0.0 in numbers:
        return positive_part(moving[0], equation.shape)
    if name in _OF_SOME_NUMBERS and _affine(inputs[0]) is not None:
        inputs = [slot_of(inputs[0])]
    inputs = [_unfused(value, name, moving) for value in inputs]
    moving = [value for value, number in zip(inputs, numbers, strict=True) if number is None]
    base = _base(moving[0])
    if any(_base(value) is not base for value in moving) or base.shape.shape != equation.shape.shape:
        return None
    if name in _LINEAR and all(_affine(value) is not None for value in moving):
        if len(moving) == 1:
            return _linear(equation, base, moving[0], numbers)
        if name in ("add", "add_any", "sub"):
            return None
    compared = (equation, tuple(inputs)) if equation.shape.dtype == bool else None
    function = _composed(equation, inputs, numbers)
    freed = [_freed(value) for value in inputs]
    free = None if freed == list(inputs) else _composed(equation, freed, numbers)
    return Elementwise(base, function, equation.shape, "elementwise", free=free, compared=compared)


def positive_part(value: Value, shape: Shape) -> Elementwise:
    """``max(x, 0)``; of an affine function it is a function of what that is one of, as others are."""
    if not isinstance(value, Elementwise) or value.name != "affine":
        return Elementwise(slot_of(value), lambda x: jnp.maximum(x, 0), shape, "relu")
    inside = value.function
    return Elementwise(value.base, lambda x: jnp.maximum(inside(x), 0), shape, "relu", rectified=value)


def stopped(value: Value) -> Value:
    """A value through which directions ask nothing; algorithms move it as they do others."""
    if isinstance(value, (Truth, Indices, Loss)) or is_fixed(value):
        return value
    if not isinstance(value, Elementwise) or value.name in ("affine", "relu"):
        return stopped_view(slot_of(value))
    function = value.function
    return replace(value, function=lambda x: lax.stop_gradient(function(x)), slot=None, free=value.free or function)


def _freed(value: Value) -> Value:
    """A value with the slopes that values have."""
    return replace(value, function=value.free, free=None) if isinstance(value, Elementwise) and value.free else value


def with_own_slope(equation: Equation, value: Value, output: Value) -> Value:
    """What a function with a derivative of its own makes of a value: of each element, then with the slope given it."""
    if not isinstance(value, (Slot, Elementwise)) or is_fixed(value) or output.shape != value.shape:
        return output
    base = _base(value)
    if output is not value and not (isinstance(output, Elementwise) and output.base is base):
        return output
    inside = value.function if isinstance(value, Elementwise) else _itself
    function, free = (output.function, output.free) if isinstance(output, Elementwise) else (_itself, None)
    called = equation.bind()

    def with_slope(x: Array) -> Array:
        argument = inside(x)
        start = lax.stop_gradient(argument)
        (slope,) = jax.vjp(lambda a: called(a)[0], start)[1](jnp.ones_like(start))
        return lax.stop_gradient(function(x)) + slope * (argument - start)

    return Elementwise(base, with_slope, output.shape, "elementwise", free=free or function)


def _converted(equation: Equation, value: Value) -> Value | None:
    """A function of each element in another precision, or of truth values as numbers."""
    if not isinstance(value, Elementwise) or not jnp.issubdtype(equation.shape.dtype, jnp.floating):
        return None
    function, free = value.function, value.free
    if not jnp.issubdtype(value.shape.dtype, jnp.floating):
        function, free = functools.partial(_as_numbers, function), free and functools.partial(_as_numbers, free)
    return replace(value, function=function, free=free, shape=equation.shape, slot=None)


def _as_numbers(function: Callable[[Array], Array], x: Array) -> Array:
    return function(x).astype(x.dtype)


def _unfused(value: Value, name: str, moving: Sequence[Value]) -> Value:
    """A rectified value stays an operation of its own, unless it is a part of a function of what it rectifies."""
    if not isinstance(value, Elementwise) or value.name != "relu":
        return value
    is_part = name in ("max", "min", "select_n") or any(
        isinstance(other, Elementwise) and other.name == "elementwise" and other.base is value.base for other in moving
    )
    return value if is_part else slot_of(value)


def _base(value: Value) -> Slot:
    if isinstance(value, Elementwise):
        return value.base
    assert isinstance(value, Slot)
    return value


def _affine(value: Value) -> tuple[float, float] | None:
    """Scale and offset of an affine function of the base."""
    if isinstance(value, Slot):
        return 1.0, 0.0
    return (value.scale, value.offset) if isinstance(value, Elementwise) and value.name == "affine" else None


def _linear(equation: Equation, base: Slot, value: Value, numbers: Sequence[float | None]) -> Elementwise | None:
    """An affine function with a number added, or multiplied by one."""
    found = _affine(value)
    assert found is not None
    scale, offset = found
    number = next((n for n in numbers if n is not None), 0.0)
    first = numbers[0] is not None
    if equation.name == "div" and first:
        return None if number == 0 else _reciprocal(equation, base, scale, offset, number)
    if equation.name in ("add", "add_any"):
        offset += number
    elif equation.name == "sub":
        scale, offset = (-scale, number - offset) if first else (scale, offset - number)
    else:
        factor = {"neg": -1.0, "mul": number}.get(equation.name)
        factor = 1 / number if factor is None else factor
        scale, offset = factor * scale, factor * offset
    return affine(base, scale, offset, equation.shape)


def affine(base: Slot, scale: float, offset: float, shape: Shape) -> Elementwise:
    """``scale x + offset``."""
    return Elementwise(base, lambda x: scale * x + offset, shape, "affine", scale, offset)


def _reciprocal(equation: Equation, base: Slot, scale: float, offset: float, number: float) -> Elementwise:
    return Elementwise(base, lambda x: number / (scale * x + offset), equation.shape, "elementwise")


def _composed(equation: Equation, inputs: Sequence[Value], numbers: Sequence[float | None]) -> Callable[[Array], Array]:
    """The function of the base, in any precision."""
    function = equation.bind()
    parts: list[Callable[[Array], Any]] = []
    for value, number in zip(inputs, numbers, strict=True):
        if number is not None:
            parts.append(functools.partial(_filled, number, value.shape.dtype))
        else:
            parts.append(value.function if isinstance(value, Elementwise) else _itself)
    return lambda x: function(*(part(x) for part in parts))


def _filled(number: float, dtype: Any, x: Array) -> Array:
    """A number for each element, of the precision of these; truth values stay such."""
    return full(x, number) if jnp.issubdtype(dtype, jnp.floating) else full(x, number).astype(dtype)


def _itself(x: Array) -> Array:
    return x
