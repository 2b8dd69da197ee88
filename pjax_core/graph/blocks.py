"""Functions of one value that several operations compute, such as softmax and normalisations: as one constraint each.

Taken apart, these hand a residual on by ways that each lose a part of their own, and what comes together after them is
weighed by those parts: behind a normalisation made of a mean, squares, a root and a quotient little is left of the
direction that the residual had.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.nodes import Node, Operation, Slot, is_fixed, of_node, read_counts, reads, sources_of
from pjax_core.operations import primitives
from pjax_core.operations.smooth import smooth_function

_LINEAR = frozenset(
    {primitives.add, primitives.signed_sum, primitives.sum_over, primitives.scatter_sum, primitives.affine}
)
_INSIDE = _LINEAR | {primitives.multiply, primitives.divide, primitives.maximum, primitives.sum_relu}
_ROOTS = frozenset({"rsqrt", "reciprocal", "elementwise"})
_FUNCTIONS = _ROOTS | {"exp", "square", "sqrt", "log"}

Readers = Mapping[Node, Set[Node]]


def with_blocks(nodes: Sequence[Node], kept: Sequence[Node] = ()) -> list[Node]:
    """The nodes, each after its sources, with one operation for each function of one value whose ways meet again.

    Those that are ``kept`` are in no such function, but may be what it gives.
    """
    nodes = _factors_last(nodes, read_counts(nodes) + Counter(kept))
    readers: dict[Node, set[Node]] = {node: {node} for node in kept}
    for node in nodes:
        for source in reads(node):
            readers.setdefault(source, set()).add(node)
    place = {node: i for i, node in enumerate(nodes)}
    inside: set[Node] = set()
    blocks: dict[Node, Node] = {}
    for node in reversed(nodes):
        region = _region(node, readers, place) if node not in inside else []
        if region:
            inside |= set(region[:-1])
            blocks[node] = _block(region)
    return [blocks.get(node, node) for node in nodes if node not in inside]


def _region(last: Node, readers: Readers, place: Mapping[Node, int]) -> list[Operation]:
    """The operations, in order, that compute ``last`` from one value which several of them read; or none.

    The longest way back: from ``last`` the source that comes latest is taken in for as long as nothing else reads it.
    """
    moving = {source for source in sources_of(last) if not is_fixed(source)}
    if len(moving) < 2 or not _may_be_inside(last):
        return []
    region, found = {last}, set[Node]()
    while True:
        before = {source for node in region for source in sources_of(node) if not is_fixed(source)} - region
        latest = max(before, key=lambda node: place.get(node, -1))
        if len(before) == 1 and len(readers[latest] & region) > 1 and _is_smooth(region):
            found = set(region)
        if not _may_be_inside(latest) or not readers[latest] <= region:
            return [node for node in sorted(found, key=place.__getitem__) if isinstance(node, Operation)]
        region.add(latest)


def _may_be_inside(node: Node) -> bool:
    return (
        isinstance(node, Operation)
        and node.unrolled is None
        and (node.primitive in _INSIDE or node.primitive.name in _FUNCTIONS)
    )


def _is_smooth(region: Set[Node]) -> bool:
    """Whether the operations compute a smooth function together that is not linear.

    Linear ones and a maximum have exact projections; but beside exponentials a maximum only keeps those finite, and a
    variance is rectified before its root is taken.
    """
    inside = {node.primitive for node in region if isinstance(node, Operation)}
    names = {primitive.name for primitive in inside}
    bent = (primitives.maximum, "exp"), (primitives.sum_relu, "sqrt"), (primitives.sum_relu, "rsqrt")
    return not inside <= _LINEAR and all(
        primitive not in inside or any(p is primitive and name in names for p, name in bent) for primitive, _ in bent
    )


def _block(region: Sequence[Operation]) -> Operation:
    """The operations as one."""
    last = region[-1]
    outside = list(dict.fromkeys(source for node in region for source in sources_of(node) if source not in region))
    outside.sort(key=is_fixed)

    def forward(*arrays: Array, stops: bool = False) -> Array:
        values = dict(zip(outside, arrays, strict=True))
        for node in region:
            inputs = (slot.apply(*map(values.__getitem__, slot.sources), stops=stops) for slot in node.slots)
            values[node] = node.primitive.forward(*inputs, **node.settings)
        return values[last]

    name = f"block ({', '.join(dict.fromkeys(node.name for node in region if node.primitive not in _LINEAR))})"
    slots = tuple(map(of_node, outside))
    stopped = any(len(slot.asked) < len(slot.sources) for node in region for slot in node.slots)
    primitive = smooth_function(name, forward, functools.partial(forward, stops=True) if stopped else None)
    return replace(last, name=name, primitive=primitive, slots=slots, settings={})


def _factors_last(nodes: Sequence[Node], counts: Counter[Node]) -> list[Node]:
    """The nodes with ``a (b s)`` as ``(a b) s`` for parameters s: a normalisation first, then its scale."""
    reordered: list[Node] = []
    for node in nodes:
        found = _product_of_product(node, counts)
        if found is None:
            reordered.append(node)
            continue
        shape = Shape(jnp.broadcast_shapes(found.a.shape.shape, found.b.shape.shape), found.a.shape.dtype)
        inner = replace(found.product, shape=shape, slots=(found.a, found.b), tag=object())
        reordered.remove(found.product)
        reordered += [inner, replace(found.node, slots=(of_node(inner), found.scale))]
    return reordered


class _Product(NamedTuple):
    """``node = a product``, ``product = b scale``, which nothing else reads."""

    node: Operation
    a: Slot
    product: Operation
    b: Slot
    scale: Slot


def _product_of_product(node: Node, counts: Counter[Node]) -> _Product | None:
    if not isinstance(node, Operation) or node.primitive is not primitives.multiply:
        return None
    for a, slot in (node.slots, node.slots[::-1]):
        product = slot.sources[0]
        if slot.steps or not isinstance(product, Operation) or product.primitive is not node.primitive:
            continue
        if counts[product] == 1:
            for b, scale in (product.slots, product.slots[::-1]):
                if _is_parameter(scale) and isinstance(b.sources[0], Operation) and b.sources[0].name in _ROOTS:
                    return _Product(node, a, product, b, scale)
    return None


def _is_parameter(slot: Slot) -> bool:
    return all(not isinstance(source, Operation) for source in slot.sources)
