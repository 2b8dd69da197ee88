"""One pass over the graph before it is coloured: operations that can be one become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pjax_core import primitives
from pjax_core.graph import Node, Operation, Slot, complete, ordered

def rewritten(outputs: Sequence[Operation]) -> list[Operation]:
    """The same constraints in fewer operations: sums of sums, and rectified sums, become one each."""
    nodes = ordered(outputs)
    uses = _uses(nodes)
    new: dict[Node, Node] = {}

    def moved(slot: Slot) -> Slot:
        sources = tuple(new[source] for source in slot.sources)
        return slot if sources == slot.sources else replace(slot, sources=sources)

    for node in nodes:
        if not isinstance(node, Operation):
            new[node] = node
            continue
        feedback = None
        if node.feedback is not None:
            feedback = new[node.feedback] = replace(node.feedback)
        unrolled = node.unrolled and (tuple(map(moved, node.unrolled[0])), node.unrolled[1])
        inner = [_sum_inside(node, slot, uses) for slot in node.slots]
        slots: list[Slot] = []
        coefficients: list[float] = []
        for slot, own, total in zip(node.slots, _coefficients(node), inner, strict=True):
            fused = new[total] if total is not None else None
            parts = fused.slots if isinstance(fused, Operation) else (moved(slot),)
            slots += parts
            coefficients += [own * c for c in _coefficients(fused)] if isinstance(fused, Operation) else [own]
        settings = node.settings
        if any(total is not None for total in inner):
            settings = {} if set(coefficients) == {1.0} else {"coefficients": tuple(coefficients)}
        rebuilt = replace(node, slots=tuple(slots), settings=settings, feedback=feedback, unrolled=unrolled)
        if node in new:
            complete(new[node], rebuilt)
        else:
            new[node] = rebuilt
    return [node for output in outputs if isinstance(node := new[output], Operation)]


def _sum_inside(node: Operation, slot: Slot, uses: Counter[Node]) -> Operation | None:
    """The sum that the slot of a sum is, if nothing else reads it."""
    source = slot.sources[0]
    if (
        node.primitive in (primitives.add, primitives.sum_relu)
        and slot.view is None
        and isinstance(source, Operation)
        and source.primitive is primitives.add
        and uses[source] == 1
        and source.shape == node.shape
        and (node.primitive is primitives.add or set(_coefficients(source)) == {1.0})
    ):
        return source
    return None


def _coefficients(node: Operation) -> tuple[float, ...]:
    """The coefficient of each slot."""
    return node.settings.get("coefficients", (1.0,) * len(node.slots))


def _uses(nodes: Sequence[Node]) -> Counter[Node]:
    """How often operations read each node."""
    operations = [node for node in nodes if isinstance(node, Operation)]
    slots = [slot for node in operations for slot in (*node.slots, *(node.unrolled[0] if node.unrolled else ()))]
    return Counter(source for slot in slots for source in slot.sources)
