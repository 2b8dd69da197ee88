"""A function as a graph of constraints: traced by shape alone, two-coloured, in layers."""

from __future__ import annotations

import contextlib
import enum
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core import primitives
from pjax_core.meshes import Shape, shape_of_type, transposed
from pjax_core.messages import described
from pjax_core.primitive import Batching, Primitive

_ADVICE = (
    "While a network is traced, a Value stands for an array: it has +, @, [...], .T, .reshape, and the functions of "
    "pjax_core, such as pj.sum and pj.max, but not those of jax.numpy. A product of values is pj.matmul, pj.einsum or "
    'pj.bilinear("product", lambda x, w: x * w); any other operation is made by pj.primitive.'
)


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
    Sources of integers say which.  ``view`` is None where the slot is its only source unchanged.
    """

    sources: tuple[Node, ...]
    view: Callable[..., Array] | None
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


class Value:
    """What stands for an array while a function is traced: a view of nodes, of known shape and unknown content.

    ``levels`` are the calls of :func:`pjax_core.vmap`, outermost first, that hide the first axes of the slot.
    """

    def __init__(self, slot: Slot, levels: tuple[int, ...] = ()) -> None:
        self.slot = slot
        self.levels = levels

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(self.slot.shape.shape[len(self.levels) :])

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
        from pjax_core import views

        return views.index(self, where)

    def reshape(self, *shape: Any) -> Value:
        """As :func:`pjax_core.reshape`."""
        from pjax_core import views

        return views.reshape(self, shape[0] if len(shape) == 1 else shape)

    @property
    def T(self) -> Value:
        """As :func:`pjax_core.transpose`."""
        from pjax_core import views

        return views.transpose(self)

    def __bool__(self) -> bool:
        raise self._no_content()

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
    return of_node(Constant("constant", shape_of_type(constant), constant))


def restructure(function: Callable[..., Array], *values: Value) -> Value:
    """The view that ``function``, a selection of elements, takes of its arguments."""
    level = _innermost(values)
    if level is not None:
        in_axes = tuple(0 if level in value.levels else None for value in values)
        mapped = restructure(jax.vmap(function, in_axes), *(exposed(value, level) for value in values))
        return hidden(mapped, level)
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


def _innermost(values: Sequence[Value]) -> int | None:
    """The latest call of vmap that hides an axis of one of the values."""
    return max((value.levels[-1] for value in values if value.levels), default=None)


def exposed(value: Value, level: int) -> Value:
    """The value with the axis that ``level`` hides, if it does, as its first."""
    return Value(value.slot, value.levels[:-1]) if level in value.levels else value


def hidden(value: Value, level: int) -> Value:
    """The value with its first axis hidden by ``level``."""
    return Value(value.slot, (*value.levels, level))


def apply(operation: Primitive, *values: Value, **settings: Any) -> Value | Constraint:
    """``operation`` applied to values: its output, or the constraint that it is."""
    level = _innermost(values)
    if level is not None:
        output = _apply_mapped(operation, level, values, settings)
        return output if isinstance(output, Constraint) else hidden(output, level)
    node = operation_node(operation, *values, **settings)
    return Constraint(node) if operation.constrains_output else of_node(node)


def _apply_mapped(
    operation: Primitive, level: int, values: Sequence[Value], settings: dict[str, Any]
) -> Value | Constraint:
    """The operation over the axis that ``level`` hides, the first one of the output."""
    batched = [level in value.levels for value in values]
    whole = [exposed(value, level) for value in values]
    length = next(value.shape[0] for value, has_axis in zip(whole, batched, strict=True) if has_axis)
    if operation.batching is Batching.BROADCAST:
        rank = max(value.ndim for value in values)
        aligned = [
            restructure(functools.partial(_with_rank, rank=rank + 1), value) if has_axis else value
            for value, has_axis in zip(whole, batched, strict=True)
        ]
        return apply(operation, *aligned, **settings)
    if operation.batching is Batching.ROWS and batched == [True] + [False] * (len(values) - 1):
        rows = restructure(lambda array: array.reshape(-1, *array.shape[2:]), whole[0])
        output = apply(operation, rows, *whole[1:], **settings)
        assert isinstance(output, Value)
        return restructure(lambda array: array.reshape(length, -1, *array.shape[1:]), output)
    each = [
        value if has_axis else restructure(lambda array: jnp.broadcast_to(array, (length, *array.shape)), value)
        for value, has_axis in zip(whole, batched, strict=True)
    ]
    return apply(operation.vmapped(), *each, **settings)


def _with_rank(array: Array, rank: int) -> Array:
    """The array with axes of length 1 after its first, as many as it lacks."""
    return array.reshape(array.shape[0], *(1,) * (rank - array.ndim), *array.shape[1:])


def operation_node(operation: Primitive, *values: Value, **settings: Any) -> Operation:
    """The node of ``operation`` applied to values."""
    slots = tuple(value.slot for value in values)
    moving = operation.moving_inputs(len(slots))
    for place, slot in enumerate(slots[moving:], moving):
        if not all(map(is_fixed, slot.sources)):
            names = ", ".join(source.name for source in slot.sources if not is_fixed(source))
            raise ValueError(f"{operation.name}: argument {place} comes from {names}; it must be data or a constant")
    for slot in slots[:moving]:
        if not jnp.issubdtype(slot.shape.dtype, jnp.floating):
            names = ", ".join(source.name for source in slot.sources)
            raise TypeError(
                f"{operation.name}: {names} has dtype {slot.shape.dtype}; projections move values continuously, so "
                "pass floating-point arrays (class labels as jax.nn.one_hot), and integers as indices only"
            )
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


def trace(function: Callable[..., Any], params: Any, data: tuple[Any, ...]) -> Graph:
    """The two-coloured graph of ``function(params, *data)``, from the shapes of its arguments."""
    parameter_values, parameters = _leaves(Parameter, "params", params)
    data_values, _ = _leaves(Data, "data", data)
    with advice_on_values():
        returned = function(parameter_values, *data_values)
    constraints = jax.tree.leaves(returned, is_leaf=lambda leaf: isinstance(leaf, (Constraint, Value)))
    if not constraints or not all(isinstance(constraint, Constraint) for constraint in constraints):
        found = ", ".join(map(described, constraints)) or "nothing"
        raise ValueError(
            "the function given to feasibility must return an output constraint, such as "
            f"pj.cross_entropy(logits, labels) or pj.margin_loss(logits, labels), but it returned {found}"
        )
    nodes = _ordered([constraint.node for constraint in constraints])
    for parameter in parameters:
        if parameter not in nodes:
            raise ValueError(
                f"parameter {parameter.name} is never used on the way to the output constraint; remove it, or use it"
            )
    return two_colour(nodes)


@contextlib.contextmanager
def advice_on_values() -> Iterator[None]:
    """Add to errors of Python and JAX about traced values, which they do not know, what can be done with them."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        if Value.__name__ in str(error):
            error.add_note(_ADVICE)
        raise


def _leaves(kind: type[Parameter] | type[Data], name: str, tree: Any) -> tuple[Any, list[Node]]:
    """A tree of values in the structure of ``tree``, and the nodes behind them."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    nodes: list[Node] = [
        kind(name + jax.tree_util.keystr(path), shape_of_type(leaf), index) for index, (path, leaf) in enumerate(paths)
    ]
    return jax.tree.unflatten(structure, [of_node(node) for node in nodes]), nodes


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
            stack.extend((source, False) for source in reversed(_earlier_sources(node)))
    return list(ordered)


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
            identity = operation_node(primitives.identity, of_node(copied[source]))
            through[source] = replace(identity, name=f"identity({source.name})")
            coloured[through[source]] = colours[source].opposite
            ordered.append(through[source])
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
        if not isinstance(node, Operation):
            copied[node] = node
        elif node in copied:
            _complete(copied[node], with_sources(node))
        else:
            copied[node] = with_sources(node)
        if not is_fixed(node):
            coloured[copied[node]] = colours[node]
            ordered.append(copied[node])
    consumers = _consumers([*filter(is_fixed, nodes), *ordered])
    return Graph(tuple(ordered), coloured, _depths(ordered, consumers), consumers)


def _complete(node: Node, like: Operation) -> None:
    """Give an operation that earlier ones refer to already the slots that it could not have before them."""
    object.__setattr__(node, "slots", like.slots)


def feed_back(
    product: Operation,
    output: Operation,
    *,
    slots: tuple[Slot, ...],
    unrolled: tuple[tuple[Slot, ...], Callable[..., Array]],
) -> None:
    """Let ``slots`` of ``product`` refer to ``output``, which is computed from it; see :class:`Operation`."""
    object.__setattr__(product, "slots", slots)
    object.__setattr__(product, "feedback", output)
    object.__setattr__(product, "unrolled", unrolled)


def _search_colours(nodes: list[Node]) -> dict[Node, Colour]:
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
