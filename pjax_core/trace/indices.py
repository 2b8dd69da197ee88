"""Indices of values that depend on parameters by their order, or truth values as such, and what they choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays.meshes import Shape, is_open
from pjax_core.graph.nodes import Computed, Slot, of_node, select
from pjax_core.operations import primitives
from pjax_core.trace.conditions import chosen, view_of, viewed
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import constant, filled, operation, reshaped, slot_of, stacked, transposed
from pjax_core.trace.values import Indices, Truth, Value, known, number_of


def with_indices(equation: Equation, inputs: Sequence[Value]) -> Value:
    """What becomes of an equation some of whose inputs are indices."""
    rule = _RULES.get(equation.name)
    found = None if rule is None else rule(equation, *inputs)
    if found is None:
        made = next(value for value in inputs if isinstance(value, Indices))
        raise NotImplementedError(f"{equation.where()}: uses {made.made}; {made.advice}")
    return found


def _viewed(equation: Equation, *inputs: Value) -> Value | None:
    """The same selection of the scores of all that an index may be."""
    (index,) = inputs
    assert isinstance(index, Indices)
    if not jnp.issubdtype(equation.shape.dtype, jnp.integer):
        return None
    if equation.name == "convert_element_type":
        return index
    if index.truth is not None:
        truth = viewed(equation, [index.truth])
        return replace(index, truth=truth, shape=equation.shape) if isinstance(truth, Truth) else None
    if index.first:

        def view(slot: Slot) -> Slot:
            shape = Shape(equation.shape.shape, slot.shape.dtype)
            return select(equation.name, equation.bind(), equation.params, shape, slot)

        return replace(index, first=tuple(view_of(part, view) for part in index.first), shape=equation.shape)
    if index.scores is None or index.ranks is None:
        return None
    shape = Shape((*equation.shape.shape, index.scores.shape.shape[-1]), index.scores.shape.dtype)
    scores = select("view", jax.vmap(equation.bind(), -1, -1), {}, shape, index.scores)
    ranks = select(equation.name, equation.bind(), equation.params, equation.shape, index.ranks)
    return replace(index, scores=scores, ranks=ranks, shape=equation.shape)


def _beside(equation: Equation, *inputs: Value) -> Value | None:
    """An index for one axis, with known ones for others, as ``h[jnp.arange(n), jnp.argmax(h, 1)]`` has them."""
    arrays = [None if isinstance(value, Indices) else known(value) for value in inputs]
    unknown = [value for value, array in zip(inputs, arrays, strict=True) if array is None]
    if len(unknown) != 1 or equation.params["dimension"] != len(equation.shape.shape) - 1:
        return None
    (index,) = unknown
    return replace(index, beside=tuple(arrays)) if isinstance(index, Indices) and index.scores is not None else None


def _added(equation: Equation, *inputs: Value) -> Value:
    """What jnp adds to negative indices, of which there are none."""
    return next(replace(v, scores=None, shape=equation.shape) for v in inputs if isinstance(v, Indices))


def _less(equation: Equation, index: Value, bound: Value) -> Value | None:
    """Whether an index counts from the end: none does."""
    if not isinstance(index, Indices) or number_of(bound) != 0:
        return None
    return filled(False, equation.shape)


def _choice(equation: Equation, which: Value, *cases: Value) -> Value | None:
    if isinstance(which, Indices):
        return case_of(which, [slot_of(case) for case in cases], equation.shape)
    number = number_of(which)
    return None if number is None else cases[int(number)]


def case_of(index: Indices, cases: Sequence[Slot], shape: Shape) -> Slot | None:
    """The case that one index, or one for each element, chooses."""
    if index.truth is not None:
        return chosen(index.truth, cases[1], cases[0], shape)
    if index.first:
        found = cases[0]
        for holds, case in reversed(list(zip(index.first, cases, strict=True))):
            found = chosen(holds, case, found, shape)
        return found
    if index.scores is None:
        return None
    numbers = _numbers(index)
    of_each = stacked([cases[number] for number in numbers], Shape((len(numbers), *shape.shape), shape.dtype))
    return _taken(index, of_each, () if index.shape.shape == shape.shape else range(len(shape.shape)), shape.shape)


def _clamped(equation: Equation, low: Value, index: Value, high: Value) -> Value | None:
    """As ``lax.switch`` keeps an index among its branches."""
    most = number_of(high)
    if not isinstance(index, Indices) or number_of(low) != 0 or most is None or most < 1:
        return None
    return replace(index, most=int(most) if index.most is None else min(int(most), index.most))


def _numbers(index: Indices) -> np.ndarray:
    """What an index is for the largest of each of its scores."""
    assert index.scores is not None
    numbers = np.arange(index.scores.shape.shape[-1], dtype=index.shape.dtype)
    return numbers if index.most is None else np.minimum(numbers, index.most)


def _equal(equation: Equation, a: Value, b: Value) -> Value | None:
    """Where an index is that of data, as ``jax.nn.one_hot`` compares it: what data say for each that it may be."""
    index, other = (a, b) if isinstance(a, Indices) else (b, a)
    assert isinstance(index, Indices)
    if index.truth is not None:
        number = number_of(other)
        return index.truth if number == 1 else Truth("not", (index.truth,), equation.shape) if number == 0 else None
    if index.scores is None or not isinstance(other, Slot) or not other.is_fixed:
        return None
    numbers, dtype = _numbers(index), index.scores.shape.dtype
    inside = [axis for axis, size in enumerate(index.shape.shape) if size == 1]

    def table(data: Array) -> Array:
        each = numbers.reshape(-1, *(1,) * len(index.shape.shape))
        return (jnp.broadcast_to(data, equation.shape.shape) == each).astype(dtype)

    shape = Shape((len(numbers), *equation.shape.shape), dtype)
    array = known(other)
    if array is None or is_open(shape):
        cases = of_node(Computed("== of data", shape, -1, table, (other,)))
    else:
        with jax.ensure_compile_time_eval():
            cases = constant(table(jnp.asarray(array)))
    return Truth("one", (_taken(index, cases, inside, equation.shape.shape),), equation.shape)


def _gathered(equation: Equation, operand: Value, index: Value) -> Value | None:
    """An element, or a slice, that one index chooses: of all, that of the largest."""
    if not isinstance(index, Indices) or index.scores is None or isinstance(operand, (Indices, Truth)):
        return None
    if index.shape.shape[-1] != 1:
        return None
    numbers, source, gather = _numbers(index), slot_of(operand), equation.bind()

    def of_each(array: Array) -> Array:
        def of_one(number: Array) -> Array:
            parts = [number if part is None else part for part in index.beside or (None,)]
            return gather(array, jnp.concatenate([jnp.broadcast_to(part, index.shape.shape) for part in parts], -1))

        return jax.vmap(of_one)(jnp.asarray(numbers))

    shape = Shape((len(numbers), *equation.shape.shape), source.shape.dtype)
    inside = list(equation.params["dimension_numbers"].offset_dims)
    return _taken(index, select("gather", of_each, {}, shape, source), inside, equation.shape.shape)


def _sliced(equation: Equation, operand: Value, *starts: Value) -> Value | None:
    """The slice that one index chooses, where all others are known."""
    ((place, index),) = [(i, start) for i, start in enumerate(starts) if isinstance(start, Indices)]
    others = [None if i == place else number_of(start) for i, start in enumerate(starts)]
    if index.scores is None or isinstance(operand, (Indices, Truth)) or others.count(None) > 1:
        return None
    numbers, source, cut = _numbers(index), slot_of(operand), equation.bind()

    def of_each(array: Array) -> Array:
        def of_one(number: Array) -> Array:
            return cut(array, *(number if other is None else jnp.full((), other, number.dtype) for other in others))

        return jax.vmap(of_one)(jnp.asarray(numbers))

    shape = Shape((len(numbers), *equation.shape.shape), source.shape.dtype)
    cases = select("dynamic_slice", of_each, {}, shape, source)
    return _taken(index, cases, range(len(equation.shape.shape)), equation.shape.shape)


def _taken(index: Indices, cases: Slot, inside: Sequence[int], shape: tuple[int, ...]) -> Slot:
    """The one of ``cases``, along their first axis, that an index says; ``inside`` are axes of each case."""
    assert index.scores is not None
    assert index.ranks is not None
    rows = [axis for axis in range(len(shape)) if axis not in inside]
    count = index.scores.shape.shape[-1]
    size = tuple(shape[axis] for axis in rows)
    scores = reshaped(index.scores, (*size, count))
    cases = transposed(cases, (*(axis + 1 for axis in rows), 0, *(axis + 1 for axis in inside)))
    cases = reshaped(cases, (*size, count, math.prod(shape[axis] for axis in inside)))
    taken = operation(primitives.at_rank, scores, cases, reshaped(index.ranks, size))
    order = (*rows, *inside)
    taken = reshaped(taken, tuple(shape[axis] for axis in order))
    return transposed(taken, tuple(order.index(axis) for axis in range(len(shape))))


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ("broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "rev", "slice", "squeeze", "transpose"),
        _viewed,
    ),
    "concatenate": _beside,
    "clamp": _clamped,
    "add": _added,
    "lt": _less,
    "select_n": _choice,
    "eq": _equal,
    "gather": _gathered,
    "dynamic_slice": _sliced,
}
