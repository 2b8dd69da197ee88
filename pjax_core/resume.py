"""Runs that go on from the state of another: with the same data bit for bit, or with others of the same shapes."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from pjax_core.copies import consensus, point
from pjax_core.copies.consensus import State
from pjax_core.copies.point import CopiesState
from pjax_core.copies.span import in_spans
from pjax_core.graph.computed import Fixed, with_computed
from pjax_core.graph.graph import Graph
from pjax_core.problem import Problem


def resumed(state: Any, wanted: Any, problem: Problem, params: Any, data: tuple[Any, ...]) -> Any:
    """The state with these data, if it is one of the same kind as those that are wanted."""
    if _kind(state) != _kind(wanted):
        raise ValueError(
            "state is of another algorithm, problem, or shape of data; pass solution.state of a run of the same"
        )
    graph = problem.graph(params, data, apart=isinstance(state, CopiesState) and bool(state.metric))
    costs = state.data.costs if isinstance(state.data, Fixed) else ()
    fixed = with_computed(graph, None, data, costs)
    pairs = zip(jax.tree.leaves(state.data), jax.tree.leaves(fixed), strict=True)
    same = functools.reduce(jnp.logical_and, [jnp.all(old == new) for old, new in pairs], jnp.asarray(True))
    new = (_of_consensus if isinstance(state, State) else _of_copies)(graph, state, fixed)
    return jax.tree.map(lambda old, new: jnp.where(same, old, new.astype(old.dtype)), replace(state, data=fixed), new)


def _kind(state: Any) -> Any:
    """What states of the same algorithm, problem and shapes of data have in common."""
    if isinstance(state, State):
        state = replace(state, lows=state.high)  # which may be one 0 for many
    return jax.tree.structure(state), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]


def _of_consensus(graph: Graph, state: State, fixed: tuple[Any, ...] | Fixed) -> State:
    """The same point with these data, from which the network computes other values to begin with."""
    lows = consensus.with_spans(state, {i: state.targets.get(i, state.values[i]) for i in state.spans})
    old_start = consensus.opened(graph, state).start_of
    params = [
        old_start(parameter) + low if graph.keys[parameter] in state.spans else old_start(parameter)
        for parameter, low in zip(graph.parameters, jax.tree.leaves(lows), strict=True)
    ]
    held = in_spans(graph, consensus.start_of(params, fixed, {})) if state.spans else {}
    structure, spans = jax.tree.structure(state.high), graph.by_key(held)
    starts = consensus.starts_of(graph, jax.tree.unflatten(structure, params), fixed, consensus.products(graph, held))
    moved = {graph.keys[node]: old_start(node) - start for node, start in starts.items()}

    def since(changes: dict[str, Any]) -> dict[str, Any]:
        """The changes since these starts; what data had moved is in ``lows`` now."""
        return {
            i: spans[i].nothing() if i in spans else change + moved[i] if i in moved else change
            for i, change in changes.items()
        }

    return replace(
        state,
        lows=lows,
        starts={i: starts[graph.nodes[int(i)]] for i in state.starts},
        values=since(state.values),
        targets=since(state.targets),
        spans=spans,
        data=fixed,
    )


def _of_copies(graph: Graph, state: CopiesState, fixed: tuple[Any, ...] | Fixed) -> CopiesState:
    """The same point with these data, from which the network computes other values to begin with."""
    old_start = point.start_of(graph, state)
    starts = {
        graph.keys[node]: (node, start)
        for node, start in consensus.starts_of(graph, point.params_at_start(graph, state), fixed).items()
    }
    return replace(
        state,
        starts=state.starts | {i: start for i, (_, start) in starts.items() if i in state.starts},
        shared=state.shared | {i: state.shared[i] + (old_start(node) - start) for i, (node, start) in starts.items()},
        data=fixed,
    )
