"""When a run has solved its problem: by the gap of the network's outputs, looked at every few steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.arrays import arguments
from pjax_core.arrays.meshes import varying, varying_axes
from pjax_core.arrays.messages import described
from pjax_core.arrays.norms import rms
from pjax_core.copies import consensus
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Operation


@dataclass(frozen=True)
class Until:
    """A condition to stop; made by :func:`gap_below`."""

    gap: float
    every: int
    any_of: str | None

    def stops(self, solved: Array) -> Array:
        """Whether a start stops, given whether it is solved."""
        if self.any_of is None:
            return solved
        try:
            return lax.pmax(solved.astype(jnp.int32), self.any_of) > 0
        except NameError:
            raise ValueError(
                f"any_of is {self.any_of!r}, but no axis has this name here; call solve inside "
                f"jax.vmap(..., axis_name={self.any_of!r})"
            ) from None


def gap_below(gap: float, *, every: int = 10, any_of: str | None = None) -> Until:
    """Stop once the gap of the outputs is below a number.

    Args:
        gap: of :func:`solve`, the root mean square by which the network's outputs, with the parameters as they are
            read, miss their constraint (``info.gaps["outputs"]``); of :class:`CircuitSearch`, that by which the
            copies of a node differ.
        every: how many steps lie between two looks, each of which computes the network once, about a third of a step
            of alternating projections; ``info.steps`` is a multiple of it, or the most that were allowed.
        any_of: the name of an axis of ``jax.vmap`` or ``jax.shard_map``, whose starts all stop once one is solved;
            None if each goes on until it is solved itself.  The starts of a :class:`CircuitSearch` are "starts".

    Raises:
        TypeError: ``gap`` or ``every`` is not a number.
        ValueError: ``gap`` is not positive, ``every`` is below 1, or ``any_of`` is no name, in use of no axis.
    """
    gap = arguments.number("gap", gap, lambda g: g > 0, "a positive number")
    every = arguments.integer("every", every, 1, "an integer of at least 1")
    if any_of is not None and not isinstance(any_of, str):
        raise ValueError(f"any_of is {described(any_of)}; pass the axis_name that jax.vmap was given, or None")
    return Until(gap, every, any_of)


class Outcome(NamedTuple):
    """What a run with a condition came to.

    Attributes:
        state: the last one.
        rows: numbers about each step, 0 where none was made.
        latest: numbers about the last step, infinite if none was made.
        gap: the last gap.
        solved: whether it is small enough.
        steps: how many steps were made.
    """

    state: Any
    rows: Any
    latest: Any
    gap: Array
    solved: Array
    steps: Array


def run_until(
    until: Until, steps: int, step: Callable[[Any], tuple[Any, Any, Any]], gap_of: Callable[[Any], Array], state: Any
) -> Outcome:
    """Steps until the gap is small enough, at most so many.

    ``step`` gives the next state, a row of numbers to keep of every step, and such of which the last are kept.
    """
    _, row, latest = jax.eval_shape(step, state)
    axes = varying_axes(state)

    def make(k: Array, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        state, row, latest = step(carry[0])
        return state, jax.tree.map(lambda rows, number: rows.at[k].set(number), carry[1], row), latest

    def look(carry: tuple[Array, Outcome]) -> tuple[Array, Outcome]:
        last = carry[1]
        gap = gap_of(last.state)
        solved = gap < until.gap
        stop = until.stops(solved) | (last.steps >= steps)
        end = jnp.where(stop, last.steps, jnp.minimum(last.steps + until.every, steps))
        state, rows, latest = lax.fori_loop(last.steps, end, make, (last.state, last.rows, last.latest))
        return varying((stop, Outcome(state, rows, latest, gap, solved, end)), axes)

    never = jnp.zeros((), bool)
    first = Outcome(
        state,
        jax.tree.map(lambda number: jnp.zeros((max(steps, 1),), number.dtype), row),
        jax.tree.map(lambda number: jnp.full((), jnp.inf, number.dtype), latest),
        jnp.full((), jnp.inf, jax.eval_shape(gap_of, state).dtype),
        never,
        jnp.zeros((), jnp.int32),
    )
    last = lax.while_loop(lambda carry: ~carry[0], look, varying((never, first), axes))[1]
    return last._replace(rows=jax.tree.map(lambda rows: rows[:steps], last.rows))


def gap_of_outputs(graph: Graph, params: Any, data: tuple[Any, ...]) -> Array:
    """The root mean square change that an output constraint asks of what the network computes; the largest of several.

    The sets of parameters count as such, where the parameters are not in them.
    """
    value = consensus.start(graph, params, data)
    constraints = [n for n in graph.nodes if isinstance(n, Operation) and n.primitive.constrains_output]
    gaps = []
    for node in (*constraints, *graph.regions.values()):
        inputs = tuple(slot.read(value) for slot in node.slots)
        changes, _ = node.primitive.project(inputs, None, None, **node.settings)
        gaps.append(rms(lambda *changes: changes, *changes))
    return functools.reduce(jnp.maximum, gaps)
