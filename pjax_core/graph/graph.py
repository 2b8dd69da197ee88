"""A graph with its two colours: no two adjacent nodes agree."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jax import Array

from pjax_core.graph.nodes import Computed, Feedback, Node, Operation, Parameter, sources_of

_Held = TypeVar("_Held")


class Colour(enum.Enum):
    """The two sides of the graph; output constraints are in A."""

    A = "A"
    B = "B"

    @property
    def opposite(self) -> Colour:
        """The other side."""
        return Colour.B if self is Colour.A else Colour.A


@dataclass(frozen=True)
class Graph:
    """A two-coloured graph; ``nodes`` holds parameters and operations, each after its sources.

    ``colours`` gives the side of each node, ``depth`` its distance from the output: the fewest slots between.
    ``computed`` are the functions of data alone that operations read.  ``regions`` has for parameters that are
    always in a set the constraint which says so (:mod:`pjax_core.graph.sets`), and which is not among the nodes.
    ``holds_tracers`` says whether the function closes over arrays of a function of JAX that is being traced, outside
    which they mean nothing.  ``loops`` are those whose steps are projected all at once, and whose nodes stand together.
    ``costs`` gives, of parameters and data, what the metric of a problem makes operations read after their inputs
    (:mod:`pjax_core.graph.costs`).
    """

    nodes: tuple[Node, ...]
    colours: dict[Node, Colour]
    depth: dict[Node, int]
    consumers: dict[Node, tuple[Operation, ...]] = field(repr=False)
    computed: tuple[Computed, ...] = ()
    holds_tracers: bool = False
    regions: dict[Parameter, Operation] = field(default_factory=dict)
    loops: tuple[Loop, ...] = ()
    costs: Callable[[Any, tuple[Any, ...]], tuple[Array, ...]] | None = None

    @functools.cached_property
    def keys(self) -> dict[Node, str]:
        """The nodes' places among all, as states name them: strings, the keys that exported functions may have."""
        return {node: str(place) for place, node in enumerate(self.nodes)}

    @functools.cached_property
    def unread(self) -> dict[Node, np.ndarray | None]:
        """Which elements of outputs no operation reads, where this was asked."""
        return {}

    @functools.cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The operations in their order."""
        return tuple(node for node in self.nodes if isinstance(node, Operation))

    def by_node(self, arrays: Mapping[str, _Held]) -> dict[Any, _Held]:
        """What states hold for the places of nodes, for the nodes themselves."""
        return {self.nodes[int(place)]: held for place, held in arrays.items()}

    def by_key(self, of_nodes: Mapping[Any, _Held]) -> dict[str, _Held]:
        """What is held for nodes, for their places."""
        return {self.keys[node]: held for node, held in of_nodes.items()}

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the order of their tree."""
        return tuple(sorted((n for n in self.nodes if isinstance(n, Parameter)), key=lambda p: p.index))

    def coloured(self, colour: Colour) -> tuple[Node, ...]:
        """The nodes of one colour."""
        return tuple(node for node in self.nodes if self.colours[node] is colour)

    def label(self, node: Node) -> str:
        """The node's name, numbered among those of the same name."""
        same = [other for other in self.nodes if other.name == node.name]
        return node.name if len(same) == 1 else f"{node.name} {same.index(node) + 1}"

    def layers(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes by their distance from the output, nearest first; no two of one layer are adjacent."""
        return tuple(tuple(n for n in self.nodes if self.depth[n] == d) for d in range(1 + max(self.depth.values())))


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a loop as a graph of its own, without colours, of arrays that it is given.

    These are, by the ``index`` of parameters and data: the states before the step, what is the same in all, and what it
    has of sequences.

    Attributes:
        graph: the operations of the step.
        before: of them those whose outputs are the states before it.
        after: those whose outputs are the states after it, then those of its other ``outputs``.
    """

    graph: Graph
    before: tuple[Operation, ...]
    after: tuple[Operation, ...]


@dataclass(frozen=True, eq=False)
class Loop:
    """The operations with the states of all steps of a loop.

    Attributes:
        before: those with the states before each step, which they read of ``later``.
        later: what stands for the states after each step until these are there.
        after: those with the states after each step, in the order of ``before``.
        outputs: those with other values that depend on states and are read outside the loop.
        consts: how many arrays a step is given that are the same in all, between states and sequences.
        step: one of its steps.
    """

    before: tuple[Operation, ...]
    later: tuple[Feedback, ...]
    after: tuple[Operation, ...]
    outputs: tuple[Operation, ...]
    consts: int
    step: Step


def consumers_of(nodes: Sequence[Node]) -> dict[Node, tuple[Operation, ...]]:
    """The operations that hold copies of each node, each once."""
    consumers: dict[Node, dict[Any, None]] = {node: {} for node in nodes}
    for node in nodes:
        for source in sources_of(node):
            consumers[source][node] = None
    return {node: tuple(users) for node, users in consumers.items()}
