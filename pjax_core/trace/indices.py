"""Indices of the largest among values that depend on parameters, and what they choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.nodes import Computed, Slot, of_node, select
from pjax_core.operations import primitives
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import constant, operation, reshaped, slot_of, transposed
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
    if index.scores is None or not jnp.issubdtype(equation.shape.dtype, jnp.integer):
        return None
    if equation.name == "convert_element_type":
        return index
    shape = Shape((*equation.shape.shape, index.scores.shape.shape[-1]), index.scores.shape.dtype)
    function = jax.vmap(equation.bind(), -1, -1)
    return replace(index, scores=select("view", function, {}, shape, index.scores), shape=equation.shape)


def _added(equation: Equation, *inputs: Value) -> Value:
    """What jnp adds to negative indices, of which there are none."""
    return next(replace(v, scores=None, shape=equation.shape) for v in inputs if isinstance(v, Indices))


def _less(equation: Equation, index: Value, bound: Value) -> Value | None:
    """Whether an index counts from the end: none does."""
    if not isinstance(index, Indices) or number_of(bound) != 0:
        return None
    return constant(np.full(equation.shape.shape, False))


def _choice(equation: Equation, which: Value, *cases: Value) -> Value | None:
    number = number_of(which)
    return None if number is None else cases[int(number)]


def _equal(equation: Equation, a: Value, b: Value) -> Value | None:
    """Where an index is that of data, as ``jax.nn.one_hot`` compares it: what data say for each that it may be."""
    index, other = (a, b) if isinstance(a, Indices) else (b, a)
    assert isinstance(index, Indices)
    if index.scores is None or not isinstance(other, Slot) or not other.is_fixed:
        return None
    count, dtype = index.scores.shape.shape[-1], index.scores.shape.dtype
    inside = [axis for axis, size in enumerate(index.shape.shape) if size == 1]

    def table(data: Array) -> Array:
        holds = jnp.broadcast_to(data, equation.shape.shape) == jnp.arange(count).reshape(
            -1, *(1,) * len(index.shape.shape)
        )
        return holds.astype(dtype)

    shape = Shape((count, *equation.shape.shape), dtype)
    array = known(other)
    if array is None:
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
    count, source, gather = index.scores.shape.shape[-1], slot_of(operand), equation.bind()

    def of_each(array: Array) -> Array:
        each = jnp.arange(count, dtype=index.shape.dtype)
        return jax.vmap(lambda number: gather(array, jnp.full(index.shape.shape, number)))(each)

    shape = Shape((count, *equation.shape.shape), source.shape.dtype)
    inside = list(equation.params["dimension_numbers"].offset_dims)
    return _taken(index, select("gather", of_each, {}, shape, source), inside, equation.shape.shape)


def _sliced(equation: Equation, operand: Value, *starts: Value) -> Value | None:
    """The slice that one index chooses, where all others are known."""
    ((place, index),) = [(i, start) for i, start in enumerate(starts) if isinstance(start, Indices)]
    others = [None if i == place else number_of(start) for i, start in enumerate(starts)]
    if index.scores is None or isinstance(operand, (Indices, Truth)) or others.count(None) > 1:
        return None
    count, source, cut = index.scores.shape.shape[-1], slot_of(operand), equation.bind()

    def of_each(array: Array) -> Array:
        def of_one(number: Array) -> Array:
            return cut(array, *(number if other is None else jnp.full((), other, number.dtype) for other in others))

        return jax.vmap(of_one)(jnp.arange(count, dtype=index.shape.dtype))

    shape = Shape((count, *equation.shape.shape), source.shape.dtype)
    cases = select("dynamic_slice", of_each, {}, shape, source)
    return _taken(index, cases, range(len(equation.shape.shape)), equation.shape.shape)


def _taken(index: Indices, cases: Slot, inside: Sequence[int], shape: tuple[int, ...]) -> Slot:
    """The one of ``cases``, along their first axis, that has the largest score; ``inside`` are axes of each case."""
    assert index.scores is not None
    rows = [axis for axis in range(len(shape)) if axis not in inside]
    count = index.scores.shape.shape[-1]
    size = tuple(shape[axis] for axis in rows)
    scores = reshaped(index.scores, (*size, count))
    cases = transposed(cases, (*(axis + 1 for axis in rows), 0, *(axis + 1 for axis in inside)))
    cases = reshaped(cases, (*size, count, int(np.prod([shape[axis] for axis in inside], dtype=int))))
    taken = operation(primitives.at_largest, scores, cases)
    order = (*rows, *inside)
    taken = reshaped(taken, tuple(shape[axis] for axis in order))
    return transposed(taken, tuple(order.index(axis) for axis in range(len(shape))))


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "expand_dims", "transpose"), _viewed
    ),
    "add": _added,
    "lt": _less,
    "select_n": _choice,
    "eq": _equal,
    "gather": _gathered,
    "dynamic_slice": _sliced,
}
