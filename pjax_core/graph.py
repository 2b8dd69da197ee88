"""A function as a graph of constraints: its nodes, what they read of each other, and its two colours."""

from __future__ import annotations

import enum
import functools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core import primitives
from pjax_core.meshes import Shape, shape_of_type, transposed, varying, varying_axes
from pjax_core.primitive import Primitive


class Colour(enum.Enum):
    """The two sides of the graph; output constraints are in A."""

    A = "A"
    B = "B"

    @property
    def opposite(self) -> Colour:
        """The other side."""
        return Colour.B if self is Colour.A else Colour.A


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
class View:
    """A selection of elements in steps, the last of which gives the result."""

    steps: tuple[Step, ...]

    def __call__(self, *sources: Array) -> Array:
        """The selection from these sources."""
        arrays = list(sources)
        for step in self.steps:
            arrays.append(step(*(arrays[place] for place in step.places)))
        return arrays[-1]


@dataclass(frozen=True, eq=False)
class Slot:
    """An input of an operation: a view of the outputs of other nodes.

    A view selects: each of its elements is one element of a source, so that its transpose sums over copies.
    Sources of integers say which.  ``view`` is None where the slot is its only source unchanged.
    """

    sources: tuple[Node, ...]
    view: View | None
    shape: Shape

    def read(self, values: Callable[[Node], Array]) -> Array:
        """The slot's value, given those of the sources."""
        arrays = [values(source) for source in self.sources]
        return arrays[0] if self.view is None else self.view(*arrays)

    def sum_over_copies(
        self, source: Node, copies: Array, values: Callable[[Node], Array], *, counts: bool = False
    ) -> Array:
        """The sum over the elements of the slot that are copies of each element of ``source``.

        What ``counts`` is the same on all devices, and may be known while tracing.
        """
        if self.view is None:
            return copies
        # In float32 or wider, even for values in half precision: counts and changes must not be rounded to that.
        moving = [node for node in self.sources if not is_index(node)]
        shapes = tuple(_widened_shape(node) for node in moving)
        if counts:
            shapes = tuple(Shape(shape.shape, shape.dtype) for shape in shapes)
        indices = {node: values(node) for node in self.sources if is_index(node)}

        def view(*arrays: Array) -> Array:
            remaining = iter(arrays)
            assert self.view is not None
            return self.view(*(indices[node] if is_index(node) else next(remaining) for node in self.sources))

        viewed = jax.eval_shape(view, *shapes)
        sums = transposed(view, shapes, copies.astype(viewed.dtype))
        return jnp.asarray(sum(total for node, total in zip(moving, sums, strict=True) if node is source))

    @property
    def is_fixed(self) -> bool:
        """Whether the slot holds nothing but data and constants."""
        return all(is_fixed(source) for source in self.sources)

    @property
    def last(self) -> Step | None:
        """The last step of the view."""
        return None if self.view is None else self.view.steps[-1]

    def before_last(self) -> Slot:
        """The slot without the last step of its view, which must be of one array."""
        assert self.view is not None
        steps = self.view.steps[:-1]
        if steps:
            return Slot(self.sources, View(steps), steps[-1].shape)
        assert len(self.sources) == 1
        return of_node(self.sources[0])


def of_node(node: Node) -> Slot:
    """The whole output of a node."""
    assert node.shape is not None
    return Slot((node,), None, node.shape)


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
        if slot.view is None:
            places.append(own[0])
            continue
        for step in slot.view.steps:
            moved = tuple(own[p] if p < len(own) else p + offset for p in step.places)
            steps.append(replace(step, places=moved))
        places.append(count + len(steps) - 1)
    steps.append(Step(name, function, settings, tuple(places), shape))
    return Slot(tuple(source for slot in slots for source in slot.sources), View(tuple(steps)), shape)


@dataclass(frozen=True, eq=False)
class Node:
    """A parameter, a data array, a constant, or an operation."""

    name: str
    shape: Shape | None


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
class Operation(Node):
    """A primitive applied to slots.

    Attributes:
        feedback: a later operation that slots refer to, of which each element depends on others that come before it;
            None where all slots come from earlier nodes.
        unrolled: with ``feedback``, the slots from which the output is computed at the start, and how.
    """

    primitive: Primitive
    slots: tuple[Slot, ...]
    settings: dict[str, Any]
    feedback: Operation | None = None
    unrolled: tuple[tuple[Slot, ...], Callable[..., Array]] | None = None

    def start(self, values: Callable[[Node], Array]) -> Array:
        """The output that the network computes."""
        if self.unrolled is not None:
            slots, function = self.unrolled
            return function(*(slot.read(values) for slot in slots))
        return self.primitive.forward(*(slot.read(values) for slot in self.slots), **self.settings)


@dataclass(frozen=True)
class Graph:
    """A two-coloured graph; ``nodes`` holds parameters and operations, each after its sources.

    ``colours`` gives the side of each node, ``depth`` its distance from the output: the fewest slots between.
    ``computed`` are the functions of data alone that operations read.  ``regions`` has for parameters that are always in
    a set the constraint which says so (:mod:`pjax_core.sets`); it is not among the nodes.  ``holds_tracers`` says whether the function
    closes over arrays of a function of JAX that is being traced, outside which they mean nothing.
    """

    nodes: tuple[Node, ...]
    colours: dict[Node, Colour]
    depth: dict[Node, int]
    consumers: dict[Node, tuple[Operation, ...]] = field(repr=False)
    computed: tuple[Computed, ...] = ()
    holds_tracers: bool = False
    regions: dict[Parameter, Operation] = field(default_factory=dict)

    @functools.cached_property
    def keys(self) -> dict[Node, str]:
        """The nodes' places among all, as states name them: strings, the keys that exported functions may have."""
        return {node: str(place) for place, node in enumerate(self.nodes)}

    def coloured(self, colour: Colour) -> tuple[Node, ...]:
        """The nodes of one colour."""
        return tuple(node for node in self.nodes if self.colours[node] is colour)

    def label(self, node: Node) -> str:
        """The node's name, numbered among those of the same name."""
        same = [other for other in self.nodes if other.name == node.name]
        return node.name if len(same) == 1 else f"{node.name} {same.index(node) + 1}"

    def layers(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes by their distance from the output, nearest first; no two of one layer are adjacent."""
        deepest = max(self.depth.values())
        return tuple(tuple(n for n in self.nodes if self.depth[n] == d) for d in range(deepest + 1))


def _sources(node: Node) -> tuple[Node, ...]:
    if not isinstance(node, Operation):
        return ()
    return tuple(source for slot in node.slots for source in slot.sources)


def _earlier_sources(node: Node) -> tuple[Node, ...]:
    """The nodes that the output is computed from at the start."""
    if not isinstance(node, Operation):
        return ()
    unrolled = () if node.unrolled is None else node.unrolled[0]
    sources = (*_sources(node), *(source for slot in unrolled for source in slot.sources))
    return tuple(source for source in sources if source is not node.feedback)


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
            stack.extend((source, False) for source in reversed(_earlier_sources(node)))
    return list(done)


def is_fixed(node: Node) -> bool:
    """Data and constants never move, so they can stand on both sides."""
    return isinstance(node, (Data, Constant))


def is_index(node: Node) -> bool:
    """Whether the node holds integers, which select elements of others."""
    return node.shape is not None and not jnp.issubdtype(node.shape.dtype, jnp.floating)


def _widened_shape(node: Node) -> Shape:
    """The shape of a node's output, in float32 or wider."""
    assert node.shape is not None
    return shape_of_type(node.shape, jnp.promote_types(node.shape.dtype, jnp.float32))


def _consumers(nodes: Iterable[Node]) -> dict[Node, tuple[Operation, ...]]:
    """The operations that hold copies of each node, each once."""
    nodes = list(nodes)
    consumers: dict[Node, dict[Operation, None]] = {node: {} for node in nodes}
    for node in nodes:
        if isinstance(node, Operation):
            for source in _sources(node):
                consumers[source][node] = None
    return {node: tuple(users) for node, users in consumers.items()}


def two_colour(nodes: Sequence[Node], data_leaves: int) -> Graph:
    """Colour the nodes so that no two adjacent ones agree, with identities inserted where they would.

    What is computed from data is numbered from ``data_leaves`` on.
    """
    colours = _search_colours(nodes)
    copied: dict[Node, Node] = {}  # a node as rebuilt with its new sources
    through: dict[Node, Operation] = {}  # the identity that stands between a node and consumers of its colour
    coloured: dict[Node, Colour] = {}
    placed: list[Node] = []

    def source_for(consumer: Node, source: Node) -> Node:
        if is_fixed(source) or colours[source] is not colours[consumer]:
            return copied[source]
        if source not in through:
            slots = (of_node(copied[source]),)
            through[source] = Operation(f"identity({source.name})", source.shape, primitives.identity, slots, {})
            coloured[through[source]] = colours[source].opposite
            placed.append(through[source])
        return through[source]

    def with_sources(node: Operation) -> Operation:
        slots = (replace(slot, sources=tuple(source_for(node, s) for s in slot.sources)) for slot in node.slots)
        unrolled = node.unrolled and (
            tuple(replace(slot, sources=tuple(copied[s] for s in slot.sources)) for slot in node.unrolled[0]),
            node.unrolled[1],
        )
        feedback = copied[node.feedback] if node.feedback is not None else None
        assert feedback is None or isinstance(feedback, Operation)
        return replace(node, slots=tuple(slots), feedback=feedback, unrolled=unrolled)

    for node in nodes:
        if isinstance(node, Operation) and node.feedback is not None:
            copied[node.feedback] = replace(node.feedback)
        if isinstance(node, Computed):
            copied[node] = replace(node, index=data_leaves + sum(isinstance(n, Computed) for n in copied))
        elif not isinstance(node, Operation):
            copied[node] = node
        elif node in copied:
            complete(copied[node], with_sources(node))
        else:
            copied[node] = with_sources(node)
        if not is_fixed(node):
            coloured[copied[node]] = colours[node]
            placed.append(copied[node])
    fixed = [copied[node] for node in nodes if is_fixed(node)]
    consumers = _consumers([*fixed, *placed])
    computed = tuple(node for node in fixed if isinstance(node, Computed))
    return Graph(tuple(placed), coloured, _depths(placed, consumers), consumers, computed)


def complete(node: Node, like: Operation) -> None:
    """Give an operation that later ones refer to what it reads of these, which it could not have before them."""
    for name in ("slots", "feedback", "unrolled", "settings"):
        object.__setattr__(node, name, getattr(like, name))


def _search_colours(nodes: Sequence[Node]) -> dict[Node, Colour]:
    """Breadth-first alternation from the output constraints; parameters last, opposite to most of their consumers."""
    operations = [node for node in nodes if isinstance(node, Operation)]
    consumers = _consumers(nodes)
    neighbours: dict[Operation, list[Operation]] = {node: [] for node in operations}
    for node in operations:
        for consumer in consumers[node]:
            neighbours[node].append(consumer)
            neighbours[consumer].append(node)
    # No identity can stand between an operation and one before it that refers to it.
    partners = {node: node.feedback for node in operations if node.feedback is not None}
    partners |= {feedback: node for node, feedback in partners.items()}
    colours: dict[Node, Colour] = {node: Colour.A for node in operations if node.primitive.constrains_output}
    queue = deque(node for node in operations if node in colours)
    while queue:
        node = queue.popleft()
        for neighbour in neighbours[node]:
            if neighbour not in colours:
                colours[neighbour] = colours[node].opposite
                queue.append(neighbour)
                if neighbour in partners:
                    colours[partners[neighbour]] = colours[node]
                    queue.append(partners[neighbour])
    for parameter in nodes:
        if isinstance(parameter, Parameter):
            in_a = sum(colours[consumer] is Colour.A for consumer in consumers[parameter])
            colours[parameter] = Colour.B if 2 * in_a > len(consumers[parameter]) else Colour.A
    return colours


def _depths(nodes: list[Node], consumers: dict[Node, tuple[Operation, ...]]) -> dict[Node, int]:
    """The distance of each node from the nearest output constraint."""
    depths: dict[Node, int] = {}
    for node in reversed(nodes):
        # A consumer that comes before the node is no way to the output.
        depths[node] = 1 + min((depths[consumer] for consumer in consumers[node] if consumer in depths), default=-1)
    return depths
