"""A function as a graph of constraints: its nodes, what they read of each other, and its two colours."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.arrays.meshes import Shape, shape_of_type, transposed, varying, varying_axes
from pjax_core.operations.primitive import Primitive

STOPPED = "stop_gradient"
"""The name of a step past which directions ask nothing."""


@dataclass(frozen=True, eq=False)
class Step:
    """One selection of elements: ``function`` of the arrays at ``places`` among the sources and what came before.

    ``name`` and ``settings`` are those of the equation that it is from.
    """

    name: str
    function: Callable[..., Array]
    settings: dict[str, Any]
    places: tuple[int, ...]
    shape: Shape

    def __call__(self, *arrays: Array) -> Array:
        """The selected elements; numbers of different precision are promoted, since some equations do not."""
        dtypes = {array.dtype for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)}
        if len(dtypes) > 1:
            widest = jnp.promote_types(*dtypes) if len(dtypes) == 2 else jnp.result_type(*dtypes)
            arrays = tuple(a.astype(widest) if a.dtype in dtypes else a for a in arrays)
        return self.function(*varying(arrays, varying_axes(arrays)))


@dataclass(frozen=True, eq=False)
class Slot:
    """An input of an operation: a view of the outputs of other nodes.

    A view selects: each of its elements is one element of a source, so that its transpose sums over copies.
    Sources of integers say which.  It is made in ``steps``, the last of which gives the result; without any the slot is
    its only source unchanged.
    """

    sources: tuple[Node, ...]
    steps: tuple[Step, ...]
    shape: Shape

    def apply(self, *sources: Array, stops: bool = False) -> Array:
        """The selection from these sources; with ``stops`` derivatives end where directions do."""
        arrays = list(sources)
        for step in self.steps:
            selected = step(*(arrays[place] for place in step.places))
            arrays.append(lax.stop_gradient(selected) if stops and step.name == STOPPED else selected)
        return arrays[-1]

    def read(self, values: Callable[[Node], Array]) -> Array:
        """The slot's value, given those of the sources."""
        return self.apply(*map(values, self.sources))

    @functools.cached_property
    def asked(self) -> frozenset[int]:
        """The places of the sources that directions ask something of: those that are not stopped on the way."""
        reaching: list[frozenset[int]] = [frozenset([place]) for place in range(len(self.sources))]
        for step in self.steps:
            reaching.append(frozenset().union(*(() if step.name == STOPPED else reaching[p] for p in step.places)))
        return reaching[-1]

    def asks(self, source: Node) -> bool:
        """Whether directions ask something of a source."""
        return any(self.sources[place] == source for place in self.asked)

    def sum_over_copies(
        self,
        source: Node,
        copies: Array,
        values: Callable[[Node], Array],
        *,
        counts: bool = False,
        asked: bool = False,
    ) -> Array:
        """The sum over the elements of the slot that are copies of each element of ``source``.

        What ``counts`` is the same on all devices, and may be known while tracing.  Only copies that are not stopped
        count for what is ``asked``.
        """
        if not self.steps:
            return copies
        # In float32 or wider, even for values in half precision: counts and changes must not be rounded to that.
        moving = [place for place, node in enumerate(self.sources) if not is_index(node)]
        wide = (self.sources[place].shape for place in moving)
        shapes = tuple(shape_of_type(shape, jnp.promote_types(shape.dtype, jnp.float32)) for shape in wide)
        if counts:
            shapes = tuple(Shape(shape.shape, shape.dtype) for shape in shapes)
        indices = {node: values(node) for node in self.sources if is_index(node)}

        def view(*arrays: Array) -> Array:
            remaining = iter(arrays)
            return self.apply(*(indices[node] if is_index(node) else next(remaining) for node in self.sources))

        sums = transposed(view, shapes, copies.astype(jax.eval_shape(view, *shapes).dtype))
        counted = [self.sources[place] == source and (place in self.asked or not asked) for place in moving]
        return jnp.asarray(sum(itertools.compress(sums, counted)))

    def reading(self, source: Callable[[Node], Node]) -> Slot:
        """The same view of other sources."""
        return replace(self, sources=tuple(map(source, self.sources)))

    @property
    def is_fixed(self) -> bool:
        """Whether the slot holds nothing but data and constants."""
        return all(is_fixed(source) for source in self.sources)

    @property
    def last(self) -> Step | None:
        """The last step of the view."""
        return self.steps[-1] if self.steps else None

    def before_last(self) -> Slot:
        """The slot without the last step of its view, which must be of one array."""
        steps = self.steps[:-1]
        return Slot(self.sources, steps, steps[-1].shape) if steps else of_node(*self.sources)


def of_node(node: Node) -> Slot:
    """The whole output of a node."""
    return Slot((node,), (), node.shape)


def select(name: str, function: Callable[..., Array], settings: dict[str, Any], shape: Shape, *slots: Slot) -> Slot:
    """The slot that ``function``, a selection of elements, makes of others."""
    count = sum(len(slot.sources) for slot in slots)
    steps: list[Step] = []
    places: list[int] = []
    first = 0
    for slot in slots:
        own = range(first, first + len(slot.sources))
        first += len(slot.sources)
        offset = count + len(steps) - len(own)
        for step in slot.steps:
            moved = tuple(own[p] if p < len(own) else p + offset for p in step.places)
            steps.append(replace(step, places=moved))
        places.append(count + len(steps) - 1 if slot.steps else own[0])
    steps.append(Step(name, function, settings, tuple(places), shape))
    return Slot(tuple(source for slot in slots for source in slot.sources), tuple(steps), shape)


@dataclass(frozen=True, eq=False)
class Node:
    """A parameter, a data array, a constant, or an operation."""

    name: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class Parameter(Node):
    """A leaf of the parameters; ``index`` is its place among them."""

    index: int


@dataclass(frozen=True, eq=False)
class Data(Node):
    """A leaf of the data; ``index`` is its place among them."""

    index: int


@dataclass(frozen=True, eq=False)
class Computed(Data):
    """A function of data and constants, computed once, at the start, and kept among the data.

    Its ``index`` is its place after the leaves of the data.
    """

    function: Callable[..., Array]
    slots: tuple[Slot, ...]


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """An array that the function brought along."""

    value: Array


@dataclass(frozen=True, eq=False)
class Tagged(Node):
    """A node that equals all of its tag: an operation as it is rebuilt, and what stands for it before it is there."""

    tag: object = field(default_factory=object, repr=False, kw_only=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and self.tag is other.tag

    def __hash__(self) -> int:
        return hash(self.tag)


@dataclass(frozen=True, eq=False)
class Feedback(Tagged):
    """The output of a later operation, of the same tag, of which each element depends on others that come before it."""


class Unrolled(NamedTuple):
    """How a loop is computed at the start, step by step: ``function`` of the slots, the output at ``place`` of it."""

    slots: tuple[Slot, ...]
    function: Callable[..., Sequence[Array]]
    place: int = 0

    def read(self, values: Callable[[Node], Array]) -> Sequence[Array]:
        """All outputs, given the values of nodes."""
        return self.function(*(slot.read(values) for slot in self.slots))


@dataclass(frozen=True, eq=False)
class Operation(Tagged):
    """A primitive applied to slots.

    Attributes:
        unrolled: with feedback, how the output is computed at the start.
        factor: of an output constraint, by what the function multiplies its value.
    """

    primitive: Primitive
    slots: tuple[Slot, ...]
    settings: dict[str, Any]
    unrolled: Unrolled | None = None
    factor: float = 1.0

    @property
    def feedback(self) -> Feedback | None:
        """The later operation that slots refer to; None where all slots come from earlier nodes."""
        return next((source for source in sources_of(self) if isinstance(source, Feedback)), None)

    @property
    def computation(self) -> tuple[tuple[Slot, ...], Callable[..., Array]]:
        """The slots from which the network computes the output, and how."""
        if self.unrolled is None:
            return self.slots, functools.partial(self.primitive.forward, **self.settings)
        slots, function, place = self.unrolled
        return slots, lambda *arrays: function(*arrays)[place]

    def reading(self, slot: Callable[[Slot], Slot], of_start: Callable[[Slot], Slot]) -> Operation:
        """The operation with other slots, and others from which the output is computed at the start."""
        unrolled = self.unrolled and self.unrolled._replace(slots=tuple(map(of_start, self.unrolled.slots)))
        return replace(self, slots=tuple(map(slot, self.slots)), unrolled=unrolled)

    def start(self, values: Callable[[Node], Array]) -> Array:
        """The output that the network computes."""
        slots, function = self.computation
        return jnp.asarray(function(*(slot.read(values) for slot in slots))).astype(self.shape.dtype)


def sources_of(node: Node) -> tuple[Node, ...]:
    """What the slots of a node are views of."""
    if not isinstance(node, Operation):
        return ()
    return tuple(source for slot in node.slots for source in slot.sources)


def reads(node: Node) -> tuple[Node, ...]:
    """All that the slots of a node are views of, those too from which the output is computed at the start."""
    unrolled = node.unrolled.slots if isinstance(node, Operation) and node.unrolled is not None else ()
    return (*sources_of(node), *(source for slot in unrolled for source in slot.sources))


def read_counts(nodes: Sequence[Node]) -> Counter[Node]:
    """How often operations read each node."""
    return Counter(source for node in nodes for source in reads(node))


def ordered(outputs: Sequence[Operation]) -> list[Node]:
    """All nodes that the outputs need, each after its sources."""
    done: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(node, False) for node in reversed(outputs)]
    while stack:
        node, sources_done = stack.pop()
        if node in done:
            continue
        if sources_done:
            done[node] = None
        else:
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(reads(node)) if not isinstance(source, Feedback))
    return list(done)


def is_fixed(node: Node) -> bool:
    """Data and constants never move, so they can stand on both sides."""
    return isinstance(node, (Data, Constant))


def fixed_value(node: Node, data: Sequence[Array] = ()) -> Array:
    """The value of a constant, or of a leaf of the data with what is computed from them."""
    if isinstance(node, Constant):
        return node.value
    assert isinstance(node, Data)
    return data[node.index]


def is_index(node: Node) -> bool:
    """Whether the node holds integers, which select elements of others."""
    return not jnp.issubdtype(node.shape.dtype, jnp.floating)
