"""One pass over the graph before it is coloured: operations that can be one become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax

from pjax_core.arrays.meshes import says_more_than_shape
from pjax_core.graph.blocks import with_blocks
from pjax_core.graph.graph import Loop
from pjax_core.graph.nodes import Data, Feedback, Node, Operation, Parameter, Slot, fixed_value, ordered, read_counts
from pjax_core.operations import primitives


def rewritten(outputs: Sequence[Operation], loops: Sequence[Loop] = ()) -> list[Operation]:
    """The same constraints in fewer operations: sums of sums, rectified sums, and blocks, become one each.

    What is read outside of loops stays.
    """
    kept = [node for loop in loops for node in loop.outputs]
    nodes = with_blocks(ordered(outputs), kept)
    uses = read_counts(nodes) + Counter(kept)
    new: dict[Node, Node] = {}
    typed = any(says_more_than_shape(node.shape) for node in nodes if isinstance(node, (Parameter, Data)))

    def moved(slot: Slot) -> Slot:
        slot = slot.reading(lambda source: source if isinstance(source, Feedback) else new[source])
        slot = _in_order_of(slot) if uses[slot.sources[0]] == 1 else slot
        return replace(slot, shape=jax.eval_shape(slot.apply, *(s.shape for s in slot.sources))) if typed else slot

    for node in nodes:
        if not isinstance(node, Operation):
            new[node] = node
            continue
        rebuilt = node.reading(moved, moved)
        if node.primitive in _SUMS:
            rebuilt = _with_terms(rebuilt, [_sum_inside(node, slot, uses, new) for slot in node.slots])
        elif node.primitive is primitives.affine:
            rebuilt = _scaled_sum(node, uses, new) or rebuilt
        if typed:  # with all that the type of its output says
            slots, function = rebuilt.computation
            rebuilt = replace(rebuilt, shape=jax.eval_shape(function, *(slot.shape for slot in slots)))
        new[node] = rebuilt
    return [node for output in outputs if isinstance(node := new[output], Operation)]


def _in_order_of(slot: Slot) -> Slot:
    """The transposed output of a product that nothing else reads as that of one with its axes in this order."""
    product = slot.sources[0]
    if not isinstance(product, Operation) or product.primitive is not primitives.einsum or len(slot.sources) > 1:
        return slot
    if not slot.steps or slot.steps[0].name != "transpose":
        return slot
    first, *others = slot.steps
    inputs, output = product.settings["equation"].split("->")
    equation = f"{inputs}->{''.join(output[axis] for axis in first.settings['permutation'])}"
    product = replace(product, shape=first.shape, settings={"equation": equation})
    steps = tuple(replace(step, places=tuple(place - 1 for place in step.places)) for step in others)
    return Slot((product,), steps, slot.shape)


def in_stored_layout(node: Node) -> Node:
    """A product with transposed weights as one that takes them as they are stored; other nodes unchanged."""
    if not isinstance(node, Operation) or node.primitive is not primitives.matmul:
        return node
    x, w = node.slots
    if w.last is None or w.last.name != "transpose":
        return node
    return replace(node, primitive=primitives.matmul_transposed, slots=(x, w.before_last()))


_SUMS = (primitives.add, primitives.signed_sum, primitives.sum_relu)


def _sum_inside(node: Operation, slot: Slot, uses: Counter[Node], new: Mapping[Node, Node]) -> Operation | None:
    """The sum that the slot of a sum is, if nothing else reads it."""
    source = _read_once(slot, uses, new)
    kinds = (primitives.add,) if node.primitive is primitives.sum_relu else (primitives.add, primitives.signed_sum)
    return source if source is not None and source.primitive in kinds and slot.shape == node.shape else None


def _read_once(slot: Slot, uses: Counter[Node], new: Mapping[Node, Node]) -> Operation | None:
    """What the operation has become whose output the slot is, if nothing else reads it."""
    source = new.get(slot.sources[0]) if not slot.steps and uses[slot.sources[0]] == 1 else None
    return source if isinstance(source, Operation) else None


def _with_terms(node: Operation, inside: Sequence[Operation | None]) -> Operation:
    """The sum with the summands of other sums in their places."""
    if not any(inside):
        return node
    slots: list[Slot] = []
    coefficients: list[float] = []
    for slot, own, total in zip(node.slots, _coefficients(node), inside, strict=True):
        slots += (slot,) if total is None else total.slots
        coefficients += [own] if total is None else [own * c for c in _coefficients(total)]
    if node.primitive is primitives.sum_relu:
        return replace(node, slots=tuple(slots))
    plain = set(coefficients) == {1.0}
    primitive = primitives.add if plain else primitives.signed_sum
    settings = {} if plain else {"coefficients": tuple(coefficients)}
    return replace(node, name=primitive.name, primitive=primitive, slots=tuple(slots), settings=settings)


def _coefficients(node: Operation) -> tuple[float, ...]:
    """The coefficient of each slot."""
    return node.settings.get("coefficients", (1.0,) * len(node.slots))


def _scaled_sum(node: Operation, uses: Counter[Node], new: Mapping[Node, Node]) -> Operation | None:
    """A multiple of a sum over axes or windows as one operation, such as a mean."""
    total = _read_once(node.slots[0], uses, new)
    if total is None or total.primitive not in (primitives.sum_over, primitives.average_pool):
        return None
    scale, offset = (float(slot.read(fixed_value)) for slot in node.slots[1:])
    if offset != 0:
        return None
    return replace(total, settings=total.settings | {"factor": scale * total.settings.get("factor", 1.0)})
