"""Loops with any step as constraints of all their steps at once.

The step is traced twice.  As ``jax.vmap`` maps it over the steps, its operations are constraints, and read the states
before each step from those after it, which come later in the graph.  By itself it is a small graph, which computes the
states at the start, and hands what directions ask of them from each step to the one before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from pjax_core.arrays.meshes import Shape, varying, varying_axes, without_manual_axes
from pjax_core.copies.through_time import values_of_step
from pjax_core.graph.colour import uncoloured
from pjax_core.graph.graph import Loop, Step
from pjax_core.graph.loops import in_order, with_states
from pjax_core.graph.nodes import (
    Data,
    Feedback,
    Node,
    Operation,
    Parameter,
    Slot,
    Unrolled,
    of_node,
    ordered,
    reads,
    select,
)
from pjax_core.graph.rewrite import rewritten
from pjax_core.operations import primitives
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import operation_node, slot_of
from pjax_core.trace.values import Elementwise, Loss, Value, is_fixed, known

Run: TypeAlias = Callable[[Equation, Any, Sequence[Value]], list[Value]]
"""The outputs of a jaxpr in an equation."""


@dataclass(frozen=True)
class Scan:
    """What a loop goes through: ``consts`` are the same in all steps, ``sequences`` have an entry for each."""

    equation: Equation
    consts: Sequence[Value]
    carry: Sequence[Value]
    sequences: Sequence[Slot]

    @property
    def jaxpr(self) -> Jaxpr:
        """That of a step."""
        body = self.equation.params["jaxpr"]
        return body.jaxpr if isinstance(body, ClosedJaxpr) else body

    @property
    def length(self) -> int:
        """The number of steps."""
        return self.equation.params["length"]

    def body(self, run: Run, carry: Sequence[Value], entries: Sequence[Value]) -> list[Value]:
        """The outputs of one step."""
        return run(self.equation, self.equation.params["jaxpr"], [*self.consts, *carry, *entries])

    def all_bodies(self, run: Run, carry: Sequence[Value]) -> list[Value]:
        """The outputs of all steps along a first axis, from the values carried to each."""
        inputs = [*self.consts, *carry, *self.sequences]
        axes = (None,) * len(self.consts) + (0,) * (len(inputs) - len(self.consts))
        step = jax.vmap(jaxpr_as_fun(self.equation.params["jaxpr"]), axes, axis_size=self.length)
        shapes = (without_manual_axes(value.shape) for value in inputs)
        return run(self.equation, jax.make_jaxpr(step)(*shapes), inputs)


def reversed_steps(slot: Slot) -> Slot:
    """The slot from its last step to its first."""
    return select("rev", lambda array: array[::-1], {}, slot.shape, slot)


def all_steps(scan: Scan, run: Run) -> list[Value]:
    """The outputs of a loop whose steps are projected all at once; ``NotImplementedError`` where they cannot be."""
    values = [*scan.consts, *scan.carry, *scan.sequences]
    if not all(isinstance(value, (Slot, Elementwise)) for value in values):
        raise NotImplementedError("it carries what is no array of numbers")
    if not scan.equation.params["reverse"]:
        return _States(scan, run).outputs()
    outputs = _States(replace(scan, sequences=list(map(reversed_steps, scan.sequences))), run).outputs()
    n_carry = len(scan.carry)
    return [*outputs[:n_carry], *(reversed_steps(slot_of(output)) for output in outputs[n_carry:])]


def _moving(scan: Scan) -> list[bool]:
    """Which of the values carried depend on parameters."""
    n_consts, n_carry = len(scan.consts), len(scan.carry)
    moving = [not is_fixed(value) for value in scan.carry]
    others = [not is_fixed(value) for value in (*scan.consts, *scan.sequences)]
    while True:
        found = depending(scan.jaxpr, [*others[:n_consts], *moving, *others[n_consts:]])[:n_carry]
        if found == [one and other for one, other in zip(found, moving, strict=True)]:
            return moving
        moving = [one or other for one, other in zip(found, moving, strict=True)]


def depending(jaxpr: Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    """Which outputs of a jaxpr may depend on these of its inputs."""
    found = {var for var, is_one in zip(jaxpr.invars, inputs, strict=True) if is_one}

    def depends(var: Any) -> bool:
        return not isinstance(var, Literal) and var in found

    for equation in jaxpr.eqns:
        if any(map(depends, equation.invars)):
            found.update(equation.outvars)
    return list(map(depends, jaxpr.outvars))


class _States:
    """A loop whose ``moving`` values are states, with all else that it carries among its sequences."""

    def __init__(self, scan: Scan, run: Run) -> None:
        self.consts = list(map(slot_of, scan.consts))
        self.scan = replace(scan, consts=self.consts)
        self.run = run
        self.moving = _moving(scan)
        self.first = [slot_of(value) for value, moves in zip(scan.carry, self.moving, strict=True) if moves]
        if not all(jnp.issubdtype(slot.shape.dtype, jnp.floating) for slot in self.first):
            raise NotImplementedError("it carries integers that depend on parameters")

    def outputs(self) -> list[Value]:
        """Those of the loop."""
        last, fixed = self._fixed()
        shapes = [_over_steps(self.scan, slot.shape) for slot in self.first]
        later = tuple(Feedback("states", shape) for shape in shapes)
        step = self._step(fixed)
        slots = (*self.first, *self.consts, *fixed, *self.scan.sequences)
        counts = len(self.first), len(self.scan.consts)
        start = functools.partial(_states_before, step, *counts, self.scan.length)
        before = tuple(
            replace(
                operation_node(primitives.identity, _before(first, after), shape=after.shape),
                name="states before",
                unrolled=Unrolled(slots, start, place),
            )
            for place, (first, after) in enumerate(zip(self.first, later, strict=True))
        )
        loops: list[Loop] = []
        mapped = replace(self.scan, equation=replace(self.scan.equation, loops=loops))
        found = mapped.all_bodies(self.run, self._carried(list(map(of_node, before)), fixed))
        after, others, of_outputs = _chosen(self.scan, self.moving, found, before, loops)
        loop = Loop(before, later, after, others, len(self.consts), step)
        self.scan.equation.loops.extend([*loops, loop])
        ends = [_last(of_node(node)) for node in after]
        outputs = enumerate(found[len(self.moving) :])
        return [
            *self._carried(ends, last),
            *(_reading(value, of_outputs[place]) if place in of_outputs else value for place, value in outputs),
        ]

    def _carried(self, states: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
        """What is carried, in its order."""
        of_states, of_fixed = iter(states), iter(fixed)
        return [next(of_states) if moves else next(of_fixed) for moves in self.moving]

    def _fixed(self) -> tuple[list[Value], list[Slot]]:
        """What is carried of data alone: after the last step, and before each."""
        first = [value for value, moves in zip(self.scan.carry, self.moving, strict=True) if not moves]
        if not first:
            return [], []
        inputs = [*self.scan.consts, *first, *self.scan.sequences]
        given = [value for value in inputs if is_fixed(value)]
        body = jaxpr_as_fun(self.scan.equation.params["jaxpr"])
        n_carry = len(self.scan.carry)

        def through(*arrays: Array) -> Any:
            remaining = iter(varying(arrays, varying_axes(arrays)))
            all_inputs = [next(remaining) if is_fixed(v) else jnp.zeros(v.shape.shape, v.shape.dtype) for v in inputs]
            consts, entries = all_inputs[: len(self.scan.consts)], all_inputs[len(self.scan.consts) + len(first) :]
            states = [jnp.zeros(slot.shape.shape, slot.shape.dtype) for slot in self.first]

            def advance(carry: Any, at_step: Any) -> Any:
                new = body(*consts, *self._carried(states, carry), *at_step)[:n_carry]
                return [array for array, moves in zip(new, self.moving, strict=True) if not moves], carry

            start = all_inputs[len(self.scan.consts) : len(self.scan.consts) + len(first)]
            return lax.scan(advance, start, entries, length=self.scan.length)

        shapes = [without_manual_axes(value.shape) for value in given]
        found = self.run(self.scan.equation, jax.make_jaxpr(lambda *a: jax.tree.leaves(through(*a)))(*shapes), given)
        return found[: len(first)], list(map(slot_of, found[len(first) :]))

    def _step(self, fixed: Sequence[Slot]) -> Step:
        """One step as a graph of its own."""
        places = iter(range(len(self.first) + len(self.scan.consts) + len(fixed) + len(self.scan.sequences)))
        states = [Parameter("state", slot.shape, next(places)) for slot in self.first]
        before = tuple(operation_node(primitives.identity, of_node(state), shape=state.shape) for state in states)
        consts = [_given(next(places), slot, slot.shape) for slot in self.consts]
        entries = [_given(next(places), slot, _of_step(slot.shape)) for slot in (*fixed, *self.scan.sequences)]
        carried = self._carried(list(map(of_node, before)), entries[: len(fixed)])
        loops: list[Loop] = []
        single = replace(self.scan, consts=consts, equation=replace(self.scan.equation, loops=loops))
        found = single.body(self.run, carried, entries[len(fixed) :])
        after, others, _ = _chosen(self.scan, self.moving, found, before, loops)
        outputs, loops = with_states([*after, *others], loops)
        nodes = in_order(ordered(rewritten([*outputs, *before], loops)), loops)
        count = len(states) + len(consts) + len(entries)
        return Step(uncoloured(nodes, count, loops), before, (*after, *others))


def _given(place: int, slot: Slot, shape: Shape) -> Slot:
    """What a step is given in the place of a slot: a constant as it is, else an array."""
    if known(slot) is not None and shape == slot.shape:
        return slot
    kind = Parameter if all(isinstance(source, Parameter) for source in slot.sources) else Data
    return of_node(kind(" and ".join(source.name for source in slot.sources), shape, place))


def _of_step(shape: Shape) -> Shape:
    return jax.eval_shape(lambda array: array[0], shape)


def _over_steps(scan: Scan, shape: Shape) -> Shape:
    return jax.eval_shape(lambda array: jnp.broadcast_to(array, (scan.length, *array.shape)), shape)


def _before(first: Slot, after: Feedback) -> Slot:
    """The states before each step, from the first and those after each."""

    def shifted(first: Array, after: Array) -> Array:
        return jnp.concatenate([first[None], after[:-1]])

    return select("concatenate", shifted, {}, after.shape, first, of_node(after))


def _last(after: Slot) -> Slot:
    return select("slice", lambda array: array[-1], {}, _of_step(after.shape), after)


def _chosen(
    scan: Scan, moving: Sequence[bool], found: Sequence[Value], before: Sequence[Operation], loops: Sequence[Loop]
) -> tuple[tuple[Operation, ...], tuple[Operation, ...], dict[int, tuple[Operation, ...]]]:
    """The operations with new states, those with other outputs that depend on states, and which each output is.

    An output constraint is given by what it is of.  None of these is a state of ``loops`` inside.
    """
    n_carry, n_consts = len(moving), len(scan.consts)
    carried = [False] * n_consts + list(moving) + [False] * len(scan.sequences)
    depends = depending(scan.jaxpr, carried)[n_carry:]
    of_outputs = scan.jaxpr.outvars[n_carry:]
    states = [var for var, moves in zip(scan.jaxpr.outvars, moving, strict=False) if moves]
    same = {place: states.index(var) for place, var in enumerate(of_outputs) if var in states}
    read = [place for place in range(len(of_outputs)) if depends[place] and place not in same]
    new = [slot_of(value) for value, moves in zip(found, moving, strict=False) if moves]
    others = [_slots(found[n_carry + place]) for place in read]
    slots = [*new, *(slot for own in others for slot in own)]
    of_states = _made_of([source for slot in slots for source in slot.sources], before)
    taken: set[Node] = {node.feedback for node in of_states if isinstance(node, Operation) and node.feedback}
    taken |= {node for loop in loops for node in loop.after}
    nodes: list[Operation] = []
    for slot in slots:
        source = slot.sources[0]
        whole = isinstance(source, Operation) and not slot.steps and source in of_states and source not in before
        if not whole or source in taken:
            source = operation_node(primitives.identity, slot, shape=slot.shape)
        assert isinstance(source, Operation)
        taken.add(source)
        nodes.append(source)
    after, rest = tuple(nodes[: len(new)]), tuple(nodes[len(new) :])
    remaining = iter(rest)
    by_place = {place: tuple(next(remaining) for _ in own) for place, own in zip(read, others, strict=True)}
    return after, rest, by_place | {place: (after[state],) for place, state in same.items()}


def _slots(value: Value) -> tuple[Slot, ...]:
    """The array that a value is, or those that output constraints are of."""
    if not isinstance(value, Loss):
        return (slot_of(value),)
    return tuple(slot for node in value.nodes for slot in node.slots[: node.primitive.moving_inputs(len(node.slots))])


def _reading(value: Value, nodes: Sequence[Operation]) -> Value:
    """The value as the output of an operation, or output constraints of such outputs."""
    if not isinstance(value, Loss):
        return of_node(*nodes)
    remaining = iter(nodes)
    constraints = []
    for node in value.nodes:
        moving = node.primitive.moving_inputs(len(node.slots))
        slots = (*(of_node(next(remaining)) for _ in range(moving)), *node.slots[moving:])
        constraints.append(replace(node, slots=slots))
    return replace(value, nodes=tuple(constraints))


def _made_of(nodes: Sequence[Node], before: Sequence[Operation]) -> set[Node]:
    """Of all that nodes are made of what depends on states."""
    found: set[Node] = set(before)
    for node in ordered([node for node in nodes if isinstance(node, Operation)]):
        if not found.isdisjoint(reads(node)):
            found.add(node)
    return found


def _states_before(step: Step, n_states: int, n_consts: int, length: int, *arrays: Array) -> tuple[Array, ...]:
    """The states before each step, one step after the other."""
    arrays = varying(arrays, varying_axes(arrays))
    first, consts, sequences = arrays[:n_states], arrays[n_states : n_states + n_consts], arrays[n_states + n_consts :]

    def advance(states: tuple[Array, ...], entries: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        value = values_of_step(step, [*states, *consts, *entries])
        new = tuple(value(node).astype(state.dtype) for node, state in zip(step.after, states, strict=False))
        return varying(new, varying_axes(states)), states

    return lax.scan(advance, first, sequences, length=length)[1]
