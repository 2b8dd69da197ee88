"""A function as a graph of constraints: traced by shape alone, two-coloured, in layers."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core import primitive
from pjax_core.primitive import Primitive

Shape = jax.ShapeDtypeStruct


class Colour(enum.Enum):
    """The two sides of the graph; output constraints are in A."""

    A = "A"
    B = "B"

    @property
    def opposite(self) -> Colour:
        """The other side."""
        return Colour.B if self is Colour.A else Colour.A


@dataclass(frozen=True, eq=False)
class Slot:
    """An input of an operation: a view of the outputs of other nodes.

    A view selects: each of its elements is one element of a source, so that its transpose sums over copies.
    ``view`` is None where the slot is its only source unchanged.
    """

    sources: tuple[Node, ...]
    view: Callable[..., Array] | None
    shape: Shape

    def read(self, values: Callable[[Node], Array]) -> Array:
        """The slot's value, given those of the sources."""
        arrays = [values(source) for source in self.sources]
        return arrays[0] if self.view is None else self.view(*arrays)


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
class Constant(Node):
    """An array that the function brought along."""

    value: Array


@dataclass(frozen=True, eq=False)
class Operation(Node):
    """A primitive applied to slots."""

    primitive: Primitive
    slots: tuple[Slot, ...]
    settings: dict[str, Any]


class Value:
    """What stands for an array while a function is traced: a view of nodes, of known shape and unknown content."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(self.slot.shape.shape)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the array it stands for."""
        return np.dtype(self.slot.shape.dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a value with no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Value(shape={self.shape}, dtype={self.dtype}, of={[node.name for node in self.slot.sources]})"

    # Operators as arrays have them. The operations build on this module, so they are imported late.

    def __add__(self, other: Any) -> Value:
        from pjax_core import ops

        return ops.add(self, other)

    def __radd__(self, other: Any) -> Value:
        from pjax_core import ops

        return ops.add(other, self)

    def __matmul__(self, other: Any) -> Value:
        from pjax_core import ops

        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Value:
        from pjax_core import ops

        return ops.matmul(other, self)

    def __getitem__(self, where: Any) -> Value:
        from pjax_core import ops

        return ops.index(self, where)

    def reshape(self, *shape: Any) -> Value:
        """As :func:`pjax_core.reshape`."""
        from pjax_core import ops

        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)

    @property
    def T(self) -> Value:
        """As :func:`pjax_core.transpose`."""
        from pjax_core import ops

        return ops.transpose(self)

    def __iter__(self) -> Iterator[Value]:
        return (self[i] for i in range(len(self)))

    def __array_ufunc__(self, function: np.ufunc, method: str, *operands: Any, **options: Any) -> Value:
        """Let a NumPy array stand on the left of an operator."""
        from pjax_core import ops

        if method == "__call__" and not options and function is np.add:
            return ops.add(*operands)
        if method == "__call__" and not options and function is np.matmul:
            return ops.matmul(*operands)
        raise self._no_content()

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """Refuse, instead of NumPy's taking the value for a sequence."""
        raise self._no_content()

    @property
    def __jax_array__(self) -> Any:
        # A property, since JAX hides what a method raises.
        raise self._no_content()

    def _no_content(self) -> TypeError:
        return TypeError(
            f"{self!r} has no content while the network is traced; apply pjax_core operations to it, not jax.numpy's "
            "or numpy's"
        )


@dataclass(frozen=True, eq=False)
class Constraint:
    """What a network function returns: an output constraint on a node."""

    node: Operation


def of_node(node: Node) -> Value:
    """The whole output of a node."""
    assert node.shape is not None
    return Value(Slot((node,), None, node.shape))


def as_value(array: Value | Array | np.ndarray | float) -> Value:
    """A value, a constant node if need be."""
    if isinstance(array, Value):
        return array
    constant = jnp.asarray(array)
    return of_node(Constant("constant", Shape(constant.shape, constant.dtype), constant))


def restructure(function: Callable[..., Array], *values: Value) -> Value:
    """The view that ``function``, a selection of elements, takes of its arguments."""
    sources = tuple(source for value in values for source in value.slot.sources)

    def view(*arrays: Array) -> Array:
        remaining = iter(arrays)
        return function(*(_read(value.slot, remaining) for value in values))

    shape = jax.eval_shape(function, *(value.slot.shape for value in values))
    return Value(Slot(sources, view, shape))


def _read(slot: Slot, arrays: Iterator[Array]) -> Array:
    """The slot's value from the next arrays."""
    own = [next(arrays) for _ in slot.sources]
    return own[0] if slot.view is None else slot.view(*own)


def apply(operation: Primitive, *values: Value, **settings: Any) -> Operation:
    """The node of ``operation`` applied to values."""
    slots = tuple(value.slot for value in values)
    shapes = [slot.shape for slot in slots]
    shape = jax.eval_shape(lambda *inputs: operation.forward(*inputs, **settings), *shapes)
    return Operation(operation.name, shape, operation, slots, settings)


@dataclass(frozen=True)
class Graph:
    """A two-coloured graph; ``nodes`` holds parameters and operations, each after its sources.

    ``colours`` gives the side of each node, ``depth`` its distance from the output: the fewest slots between.
    """

    nodes: tuple[Node, ...]
    colours: dict[Node, Colour]
    depth: dict[Node, int]
    consumers: dict[Node, tuple[Operation, ...]] = field(repr=False)

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


def trace(function: Callable[..., Any], params: Any, data: tuple[Any, ...]) -> Graph:
    """The two-coloured graph of ``function(params, *data)``, from the shapes of its arguments."""
    parameter_values, parameters = _leaves(Parameter, "params", params)
    data_values, _ = _leaves(Data, "data", data)
    constraints = jax.tree.leaves(
        function(parameter_values, *data_values), is_leaf=lambda leaf: isinstance(leaf, (Constraint, Value))
    )
    if not constraints or not all(isinstance(constraint, Constraint) for constraint in constraints):
        returned = ", ".join(repr(constraint) for constraint in constraints) or "nothing"
        raise ValueError(
            "the function given to feasibility must return an output constraint, such as "
            f"pj.cross_entropy(logits, labels) or pj.margin_loss(logits, labels), but it returned {returned}"
        )
    nodes = _ordered([constraint.node for constraint in constraints])
    for parameter in parameters:
        if parameter not in nodes:
            raise ValueError(
                f"parameter {parameter.name} is never used on the way to the output constraint; remove it, or use it"
            )
    return two_colour(nodes)


def _leaves(kind: type[Parameter] | type[Data], name: str, tree: Any) -> tuple[Any, list[Node]]:
    """A tree of values in the structure of ``tree``, and the nodes behind them."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    nodes: list[Node] = [
        kind(name + jax.tree_util.keystr(path), Shape(leaf.shape, leaf.dtype), index)
        for index, (path, leaf) in enumerate(paths)
    ]
    return jax.tree.unflatten(structure, [of_node(node) for node in nodes]), nodes


def _sources(node: Node) -> tuple[Node, ...]:
    if not isinstance(node, Operation):
        return ()
    return tuple(source for slot in node.slots for source in slot.sources)


def _ordered(outputs: list[Operation]) -> list[Node]:
    """All nodes that the outputs need, each after its sources."""
    ordered: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(node, False) for node in reversed(outputs)]
    while stack:
        node, sources_done = stack.pop()
        if node in ordered:
            continue
        if sources_done:
            ordered[node] = None
        else:
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(_sources(node)))
    return list(ordered)


def is_fixed(node: Node) -> bool:
    """Data and constants never move, so they can stand on both sides."""
    return isinstance(node, (Data, Constant))


def _consumers(nodes: list[Node]) -> dict[Node, tuple[Operation, ...]]:
    """The operations that hold copies of each node, each once."""
    consumers: dict[Node, dict[Operation, None]] = {node: {} for node in nodes}
    for node in nodes:
        if isinstance(node, Operation):
            for source in _sources(node):
                consumers[source][node] = None
    return {node: tuple(users) for node, users in consumers.items()}


def two_colour(nodes: list[Node]) -> Graph:
    """Colour the nodes so that no two adjacent ones agree, with identities inserted where they would."""
    colours = _search_colours(nodes)
    copied: dict[Node, Node] = {}  # a node as rebuilt with its new sources
    through: dict[Node, Operation] = {}  # the identity that stands between a node and consumers of its colour
    coloured: dict[Node, Colour] = {}
    ordered: list[Node] = []

    def source_for(consumer: Node, source: Node) -> Node:
        if is_fixed(source) or colours[source] is not colours[consumer]:
            return copied[source]
        if source not in through:
            identity = apply(primitive.identity, of_node(copied[source]))
            through[source] = replace(identity, name=f"identity({source.name})")
            coloured[through[source]] = colours[source].opposite
            ordered.append(through[source])
        return through[source]

    def with_sources(node: Operation) -> Operation:
        slots = (replace(slot, sources=tuple(source_for(node, s) for s in slot.sources)) for slot in node.slots)
        return replace(node, slots=tuple(slots))

    for node in nodes:
        copied[node] = with_sources(node) if isinstance(node, Operation) else node
        if not is_fixed(node):
            coloured[copied[node]] = colours[node]
            ordered.append(copied[node])
    consumers = _consumers([*filter(is_fixed, nodes), *ordered])
    return Graph(tuple(ordered), coloured, _depths(ordered, consumers), consumers)


def _search_colours(nodes: list[Node]) -> dict[Node, Colour]:
    """Breadth-first alternation from the output constraints; parameters last, opposite to most of their consumers."""
    operations = [node for node in nodes if isinstance(node, Operation)]
    consumers = _consumers(nodes)
    neighbours: dict[Operation, list[Operation]] = {node: [] for node in operations}
    for node in operations:
        for consumer in consumers[node]:
            neighbours[node].append(consumer)
            neighbours[consumer].append(node)
    colours: dict[Node, Colour] = {node: Colour.A for node in operations if node.primitive.constrains_output}
    queue = deque(node for node in operations if node in colours)
    while queue:
        node = queue.popleft()
        for neighbour in neighbours[node]:
            if neighbour not in colours:
                colours[neighbour] = colours[node].opposite
                queue.append(neighbour)
    for parameter in nodes:
        if isinstance(parameter, Parameter):
            in_a = sum(colours[consumer] is Colour.A for consumer in consumers[parameter])
            colours[parameter] = Colour.B if 2 * in_a > len(consumers[parameter]) else Colour.A
    return colours


def _depths(nodes: list[Node], consumers: dict[Node, tuple[Operation, ...]]) -> dict[Node, int]:
    """The distance of each node from the nearest output constraint."""
    depths: dict[Node, int] = {}
    for node in reversed(nodes):
        depths[node] = 1 + min((depths[consumer] for consumer in consumers[node]), default=-1)
    return depths
