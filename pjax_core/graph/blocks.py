"""Functions of one value that several operations compute, such as softmax: as one constraint each.

Taken apart, these hand a residual on by ways that each lose a part of their own, and what comes together after them is
weighed by those parts: through a normalisation made of a mean, squares, a root and a quotient, hardly anything of the
right direction is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from jax import Array

from pjax_core.graph.nodes import Feedback, Node, Operation, Slot, is_fixed, of_node, ordered, sources_of
from pjax_core.operations import primitives
from pjax_core.operations.smooth import smooth_function


def in_blocks(outputs: Sequence[Operation]) -> list[Operation]:
    """The same constraints, with one for each function of one value whose operations meet again."""
    nodes = ordered(outputs)
    place = {node: i for i, node in enumerate(nodes)}
    readers: dict[Node, set[Node]] = {node: set() for node in nodes}
    for node in nodes:
        for source in sources_of(node):
            readers.setdefault(source, set()).add(node)
    inside: set[Node] = set()
    blocks: dict[Node, Operation] = {}
    for node in reversed(nodes):
        if isinstance(node, Operation) and node not in inside:
            region = _region(node, readers, place)
            if region is not None:
                inside |= set(region)
                blocks[node] = _block(region)
    return _with_blocks(nodes, outputs, blocks)


_LINEAR = frozenset({primitives.add, primitives.signed_sum, primitives.sum_over, primitives.affine})
_INSIDE = _LINEAR | {primitives.multiply, primitives.divide, primitives.maximum}
_FUNCTIONS = ("exp", "square", "sqrt", "rsqrt", "log", "reciprocal", "elementwise")


def _region(last: Operation, readers: Mapping[Node, set[Node]], place: Mapping[Node, int]) -> list[Operation] | None:
    """The operations that compute ``last`` from one value which they read more than once; None if there are none."""
    if len({source for source in sources_of(last) if not is_fixed(source)}) < 2 or not _may_be_inside(last):
        return None
    region: set[Node] = {last}
    found = None
    while True:
        frontier = {source for node in region for source in sources_of(node) if not is_fixed(source)} - region
        first = max(frontier, key=lambda node: place.get(node, -1))
        if len(frontier) == 1 and len(readers[first] & region) > 1 and _is_smooth(region):
            found = set(region)
        if not isinstance(first, Operation) or not _may_be_inside(first) or not readers[first] <= region:
            return None if found is None else [n for n in place if n in found and isinstance(n, Operation)]
        region.add(first)


def _may_be_inside(node: Operation) -> bool:
    return node.unrolled is None and (node.primitive in _INSIDE or node.primitive.name in _FUNCTIONS)


def _is_smooth(region: Set[Node]) -> bool:
    """Whether the operations compute a smooth function together that is not linear.

    Linear ones and a maximum have exact projections; where there are exponentials, a maximum only keeps them finite.
    """
    inside = {node.primitive for node in region if isinstance(node, Operation)}
    return not inside <= _LINEAR and (primitives.maximum not in inside or any(p.name == "exp" for p in inside))


def _block(region: Sequence[Operation]) -> Operation:
    """The operations as one."""
    last = region[-1]
    outside = list(dict.fromkeys(s for node in region for s in sources_of(node) if s not in region))
    outside.sort(key=is_fixed)

    def forward(*arrays: Array) -> Array:
        values = dict(zip(outside, arrays, strict=True))
        for node in region:
            values[node] = node.primitive.forward(*(slot.read(values.__getitem__) for slot in node.slots), **node.settings)
        return values[last]

    names = "-".join(dict.fromkeys(node.name for node in region))
    primitive = smooth_function(names, forward)
    return replace(last, name=names, primitive=primitive, slots=tuple(map(of_node, outside)), settings={})


def _with_blocks(
    nodes: Sequence[Node], outputs: Sequence[Operation], blocks: Mapping[Node, Operation]
) -> list[Operation]:
    """The outputs, rebuilt with the blocks in the places of the operations that they compute."""
    new: dict[Node, Node] = {}

    def moved(slot: Slot) -> Slot:
        return replace(slot, sources=tuple(s if isinstance(s, Feedback) else new[s] for s in slot.sources))

    for node in nodes:
        node_ = blocks.get(node, node)
        if isinstance(node_, Operation):
            if any(not isinstance(s, Feedback) and s not in new for s in sources_of(node_)):
                continue  # inside a block
            unrolled = node_.unrolled and (tuple(map(moved, node_.unrolled[0])), node_.unrolled[1])
            new[node] = replace(node_, slots=tuple(map(moved, node_.slots)), unrolled=unrolled)
        else:
            new[node] = node_
    return [node for output in outputs if isinstance(node := new[output], Operation)]
