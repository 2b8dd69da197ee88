"""Loops, a recurrence where their step is one, else all steps at once or one after the other; and branches."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.nodes import Node, Operation, Parameter, Slot, of_node, ordered, select
from pjax_core.graph.rewrite import rewritten
from pjax_core.operations import primitives
from pjax_core.trace.all_steps import Run, Scan, all_steps, reversed_steps
from pjax_core.trace.elementwise import positive_part
from pjax_core.trace.equation import Equation
from pjax_core.trace.indices import case_of
from pjax_core.trace.named.recurrence import tied
from pjax_core.trace.operations import operation, reshaped, slot_of, stacked, transposed
from pjax_core.trace.values import Elementwise, Indices, Loss, Value, is_fixed, known


def scan(equation: Equation, inputs: Sequence[Value], run: Run) -> list[Value]:
    """The outputs of a loop; ``run`` traces its step."""
    body = equation.params["jaxpr"]
    inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
    # What is carried has the same axes inside and outside; sequences have one more outside.
    n_carry = sum(map(_same_rank, inner.outvars, equation.of.outvars))
    first = sum(map(_same_rank, inner.invars, equation.of.invars))
    consts, carry, sequences = inputs[: first - n_carry], inputs[first - n_carry : first], inputs[first:]
    loop = Scan(equation, list(consts), list(carry), [slot_of(sequence) for sequence in sequences])
    steps = equation.params["length"]
    if steps == 0:
        raise NotImplementedError(f"{equation.where()}: a scan without steps; give it a sequence that has some")
    if not loop.carry:
        return loop.all_bodies(run, [])
    of_data = all(map(is_fixed, inputs))
    found = None if of_data else _as_recurrence(loop, run)
    if found is not None:
        return found
    if of_data:
        _warn_of_steps(
            equation, "scan", steps, "it is of data alone: compute it outside shard_map, and pass the result"
        )
    elif equation.params["unroll"] < steps:  # which a user asks for by unroll=True
        try:
            return all_steps(loop, run)
        except (NotImplementedError, TypeError, ValueError) as error:
            reason = str(error).removeprefix(f"{equation.where()}: ")
            _warn_of_steps(equation, "scan", steps, f"its steps are not projected all at once: {reason}")
    return _unrolled(loop, run)


def while_loop(equation: Equation, inputs: Sequence[Value], run: Run) -> list[Value]:
    """The outputs of a loop that ends when known values say so, step by step."""
    params = equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carry, steps = list(inputs[second:]), 0
    while True:
        (goes_on,) = run(equation, params["cond_jaxpr"], [*inputs[:first], *carry])
        found = known(goes_on)
        if found is None:
            raise NotImplementedError(
                f"{equation.where()}: how often lax.while_loop goes round depends on data or parameters; loop a number "
                "of times that is known, by lax.scan or lax.fori_loop"
            )
        if not found:
            break
        carry, steps = run(equation, params["body_jaxpr"], [*inputs[first:second], *carry]), steps + 1
    if steps > 1:
        _warn_of_steps(equation, "loop", steps, "lax.scan is compiled once for all")
    return carry


def _warn_of_steps(equation: Equation, what: str, steps: int, advice: str) -> None:
    warnings.warn(
        f"{equation.where()}: this {what} is unrolled into {steps} steps, and takes longer to compile for each; "
        f"{advice}",
        UserWarning,
        stacklevel=3,
    )


_MANY = 8
"""Products with one parameter that are hardly written one by one."""


def warn_of_python_loops(nodes: Sequence[Node]) -> None:
    """Say which weights look as if a loop of Python used them: each of its steps is compiled by itself."""
    products = [node for node in nodes if isinstance(node, Operation) and node.primitive.name == primitives.matmul.name]
    uses = Counter(source for node in products for source in node.slots[1].sources if isinstance(source, Parameter))
    for parameter, count in uses.most_common(1):
        if count >= _MANY:
            warnings.warn(
                f"{parameter.name} is used in {count} products with constraints of their own, which take longer to "
                "compile for each; if they are steps of a loop of Python, write lax.scan(step, h, xs), which is "
                "compiled once for all steps",
                stacklevel=2,
            )


def _same_rank(inside: Any, outside: Any) -> bool:
    return inside.aval.ndim == outside.aval.ndim


def _unrolled(loop: Scan, run: Run) -> list[Value]:
    """The outputs of a loop by its steps, one after the other."""
    params, carry = loop.equation.params, list(loop.carry)
    columns: list[list[Value]] = [[] for _ in loop.equation.shapes[len(carry) :]]
    steps = range(params["length"])
    for step in reversed(steps) if params["reverse"] else steps:
        outputs = loop.body(run, carry, [_entry(sequence, step) for sequence in loop.sequences])
        carry = outputs[: len(carry)]
        for column, output in zip(columns, outputs[len(carry) :], strict=True):
            column.append(output)
    return [
        *carry,
        *(
            _column(column[::-1] if params["reverse"] else column, shape)
            for column, shape in zip(columns, loop.equation.shapes[len(carry) :], strict=True)
        ),
    ]


def _column(values: Sequence[Value], shape: Shape) -> Value:
    """The outputs of all steps as one, or their output constraints."""
    losses = [value for value in values if isinstance(value, Loss)]
    if losses:
        return Loss(tuple(node for loss in losses for node in loss.nodes), shape, sum(loss.count for loss in losses))
    return stacked(list(map(slot_of, values)), shape)


def _entry(sequence: Slot, step: int) -> Slot:
    """What a sequence has for a step."""
    shape = Shape(sequence.shape.shape[1:], sequence.shape.dtype)
    return select("slice", lambda array: array[step], {}, shape, sequence)


def _as_recurrence(loop: Scan, run: Run) -> list[Value] | None:
    """The outputs of a loop over rows of samples with the step ``h = activation(x U + h W + b)``; None for others."""
    if (
        len(loop.carry) != 1
        or len(loop.sequences) != 1
        or any(isinstance(v, Loss) for v in (*loop.consts, *loop.carry))
    ):
        return None
    first, sequence = slot_of(loop.carry[0]), loop.sequences[0]
    if len(first.shape.shape) != 2 or len(sequence.shape.shape) != 3:
        return None
    state = Parameter("state", first.shape, 0)
    entry = Parameter("entry", Shape(sequence.shape.shape[1:], sequence.shape.dtype), 1)
    # Copies of functions that are no operations yet, since this step may be for nothing.
    trial = replace(loop, consts=[replace(v) if isinstance(v, Elementwise) else v for v in loop.consts])
    new, *outputs = trial.body(run, [of_node(state)], [of_node(entry)])
    terms = None if any(output is not new for output in outputs) else _terms(slot_of(new))
    split = None if terms is None else _weights(terms, state, entry)
    if split is None:
        return None
    w_x, w_h, biases = split
    if isinstance(new, Elementwise) and new.rectified is not None:  # what it adds is among the biases
        new = positive_part(slot_of(new.rectified), new.shape)
    backwards = loop.equation.params["reverse"]
    x = transposed(reversed_steps(sequence) if backwards else sequence, (1, 0, 2))
    activation = new.function if isinstance(new, Elementwise) else lambda total: total
    biases = [_for_each_step(bias) for bias in biases]
    states = tied(x, w_x, w_h, first, biases, lambda product: _closed(product, biases, new), activation)
    last = select("slice", lambda array: array[:, -1], {}, first.shape, states)
    by_step = transposed(states, (1, 0, 2))
    return [last, *[reversed_steps(by_step) if backwards else by_step for _ in outputs]]


def _terms(state: Slot) -> tuple[Slot, ...] | None:
    """The summands in a new state that is a sum, or a function of each element of one."""
    node = _whole(state)
    if node is None:
        return None
    (node,) = rewritten([node])
    if node.primitive not in _SUMS and node.primitive is not primitives.matmul and node.primitive.moving == 1:
        inside = _whole(node.slots[0])
        if inside is None:
            return None
        node = inside
    if node.primitive is primitives.matmul:
        return (of_node(node),)
    return node.slots if node.primitive in _SUMS else None


_SUMS = (primitives.add, primitives.sum_relu)


def _whole(slot: Slot) -> Operation | None:
    """The operation whose output the slot is."""
    source = slot.sources[0]
    return source if not slot.steps and isinstance(source, Operation) else None


def _weights(terms: Sequence[Slot], state: Node, entry: Node) -> tuple[Slot, Slot, list[Slot]] | None:
    """The weights of entries, those of states, and biases."""
    own: dict[Node, Slot] = {}
    biases = []
    for term in terms:
        node = _whole(term)
        if not _reads(term, (state, entry)):
            biases.append(term)
        elif node is not None and node.primitive is primitives.matmul and not _reads(node.slots[1], (state, entry)):
            parts = _rows(*node.slots)
            if parts is None or parts.keys() & own.keys():
                return None
            own |= parts
        else:
            return None
    return (own[entry], own[state], biases) if own.keys() == {state, entry} else None


def _reads(slot: Slot, nodes: Sequence[Node]) -> bool:
    """Whether the slot depends on any of the nodes."""
    return any(node in nodes for node in ordered([s for s in slot.sources if isinstance(s, Operation)])) or any(
        source in nodes for source in slot.sources
    )


def _rows(rows: Slot, weights: Slot) -> dict[Node, Slot] | None:
    """The weights of each node whose outputs, one after the other, are the rows."""
    if not rows.steps:
        return {rows.sources[0]: weights}
    if len(rows.steps) != 1 or rows.steps[0].name != "concatenate" or len(set(rows.sources)) < len(rows.sources):
        return None
    found, start = {}, 0
    for source in rows.sources:
        found[source] = _part(weights, start, source.shape.shape[-1])
        start += source.shape.shape[-1]
    return found if start == weights.shape.shape[0] else None


def _part(weights: Slot, start: int, length: int) -> Slot:
    """Some of the rows of weights, which may be all of one source."""
    if len(weights.steps) == 1 and weights.steps[0].settings.get("dimension") == 0:
        first = 0
        for source in weights.sources:
            if (first, source.shape.shape[0]) == (start, length):
                return of_node(source)
            first += source.shape.shape[0]
    shape = Shape((length, weights.shape.shape[1]), weights.shape.dtype)
    return select("slice", lambda array: array[start : start + length], {}, shape, weights)


def _for_each_step(bias: Slot) -> Slot:
    """A bias of a step as one of all steps."""
    shape = bias.shape.shape
    return reshaped(bias, (shape[0], 1, shape[1])) if len(shape) == 2 and shape[0] > 1 else bias


def _closed(product: Slot, biases: Sequence[Slot], like: Value) -> Operation:
    """The operation with the new states, from the products: an even number with these, as colours in a loop need."""
    if isinstance(like, Elementwise):
        rectified = _whole(slot_of(replace(like, base=product, shape=product.shape, slot=None)))
        if rectified is not None and rectified.primitive is primitives.sum_relu:
            return replace(rectified, slots=(*rectified.slots, *biases))
    new = operation(primitives.add, product, *biases, shape=product.shape) if biases else product
    if isinstance(like, Elementwise):
        new = slot_of(replace(like, base=new, shape=product.shape, slot=None))
    if bool(biases) == isinstance(like, Elementwise):
        new = operation(primitives.identity, new, shape=product.shape)
    last = _whole(new)
    assert last is not None
    return last


def cond(equation: Equation, inputs: Sequence[Value], run: Run) -> list[Value]:
    """The outputs of the branch that is known to be taken, or of all, chosen by data or by an index of values."""
    which, *operands = inputs
    branches = equation.params["branches"]
    number = known(which)
    if number is not None:
        return run(equation, branches[int(np.clip(number, 0, len(branches) - 1))], operands)
    outcomes = [map(slot_of, run(equation, branch, operands)) for branch in branches]
    chosen: list[Value] = []
    for shape, cases in zip(equation.shapes, zip(*outcomes, strict=True), strict=True):
        if is_fixed(which):
            chosen.append(select("select_n", _choose, {}, shape, slot_of(which), *cases))
            continue
        case = case_of(which, cases, shape) if isinstance(which, Indices) else None
        if case is None:
            raise NotImplementedError(f"{equation.where()}: a branch is chosen by values that depend on parameters")
        chosen.append(case)
    return chosen


def _choose(which: Any, *cases: Any) -> Any:
    return jax.lax.select_n(jnp.clip(which, 0, len(cases) - 1) if len(cases) > 2 else which.astype(bool), *cases)


CONTROL: dict[str, Callable[[Equation, Sequence[Value], Run], list[Value]]] = {
    "scan": scan,
    "while": while_loop,
    "cond": cond,
}
"""Rules of equations that have jaxprs of their own, by which they go on."""
