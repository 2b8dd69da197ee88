"""A sweep through the time steps of loops, from the last to the first.

The states of a recurrence ``h_t = f(x_t, h_{t-1})`` are one node: its products read what its last operation makes of
them.  When a sweep comes to it, a state is asked to change by its other consumers and by the next time step.  This
hands on a part of what is asked of itself, and each step further back a part of that: what a step asks is divided by
its part, as directions are for each parameter.  Of loops with other steps, a step is a graph of its own, and a sweep
through that says what it asks of the states before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.arrays.meshes import varying, varying_axes
from pjax_core.copies import consensus, shares
from pjax_core.copies.changes import Changes
from pjax_core.copies.count import low_dtype
from pjax_core.copies.shares import LogShares, log_shares
from pjax_core.graph.computed import with_computed
from pjax_core.graph.graph import Graph, Loop, Step
from pjax_core.graph.nodes import Node, Operation, Slot

Chain = tuple[Operation, ...]
"""The operations of a step in the order of the computation: its products first, what makes its state last."""


def sweep(changes: Changes, nodes: Sequence[Node]) -> None:
    """Project onto the constraint of each node, from the last to the first, and in loops from their last time step."""
    graph = changes.graph
    by_states = chains(graph)
    loops = list(graph.loops)
    for node in reversed(nodes):
        with jax.named_scope(graph.label(node)):
            if node in by_states:
                pull_through_time(changes, by_states[node])
            for loop in [loop for loop in loops if node in loop.after or node in loop.outputs]:
                loops.remove(loop)
                pull_through_steps(changes, loop)
            changes.project(node)


def pull_through_steps(changes: Changes, loop: Loop) -> None:
    """Add to what is asked of the states of a loop what later ones ask of them."""
    nodes: dict[Node, Any] = {node: node for node in changes.graph.nodes}
    ends: list[Any] = [nodes.get(node) for node in (*loop.after, *loop.outputs)]
    before = [nodes.get(node) for node in loop.before]
    given = _given(changes, before)
    consts, entries = given[len(before) : len(before) + loop.consts], given[len(before) + loop.consts :]
    states = [
        jnp.zeros(node.shape.shape, node.shape.dtype) if own is None else changes.start_of(own)
        for node, own in zip(loop.before, before, strict=True)
    ]
    asked = {
        place: changes.whole(end, changes.targets[end])
        for place, end in enumerate(ends)
        if end is not None and end in changes.targets
    }
    begin = [None if end is None else changes.share(end) for end in ends]
    returning = [place for place, own in enumerate(before) if own is not None]

    # Of the last step: what each hands on more or less than this is among its losses.
    last = jax.tree.map(lambda array: array[-1], (states, entries))
    shares_of_last = _shares(loop.step, values_of_step(loop.step, [*last[0], *consts, *last[1]]), begin)

    def step(later: dict[int, Array], at_step: Any) -> tuple[dict[int, Array], dict[int, Array]]:
        states, entries, asked = at_step
        totals = {place: later[place] + asked[place] if place in asked else later[place] for place in later}
        start_of = values_of_step(loop.step, [*states, *consts, *entries])
        inside = Changes(loop.step.graph, start_of, shares_of_last.of_step(start_of))
        found = _asked_before(loop.step, inside, asked | totals)
        return {place: found.get(place, jnp.zeros_like(total)) for place, total in totals.items()}, totals

    nothing = {place: jnp.zeros_like(states[place][0], low_dtype(states[place].dtype)) for place in returning}
    nothing = varying(nothing, varying_axes((given, asked)))
    _, totals = lax.scan(step, nothing, (states, entries, asked), reverse=True)
    for place in returning:
        changes.targets[ends[place]] = changes.part(ends[place], totals[place])


def _given(changes: Changes, before: Sequence[Operation | None]) -> list[Array]:
    """What a loop is computed from."""
    loop = next(node for node in before if node is not None).unrolled
    assert loop is not None
    return [slot.read(changes.start_of) for slot in loop.slots]


def _shares(step: Step, start_of: Callable[[Node], Array], begin: Sequence[Array | None]) -> LogShares:
    """Which part of what is asked after a step reaches its nodes, where they ``begin`` with these."""
    shares: dict[Node, Array | None] = dict(zip(step.after, begin, strict=True))
    return log_shares(step.graph, start_of, {node: share for node, share in shares.items() if share is not None})


def _asked_before(step: Step, changes: Changes, asked: dict[int, Array]) -> dict[int, Array]:
    """What a step asks of the states before it, of what is ``asked`` of those after it and of other outputs."""
    for place, change in asked.items():
        changes.targets[step.after[place]] = changes.part(step.after[place], change)
    sweep(changes, [n for n in step.graph.nodes if isinstance(n, Operation) and n not in step.before])
    return {
        place: changes.whole(node, changes.targets[node])
        for place, node in enumerate(step.before)
        if node in changes.targets
    }


def values_of_step(step: Step, given: Sequence[Array]) -> Callable[[Node], Array]:
    """The values in a step of a loop, from the arrays that it is given."""
    data = with_computed(step.graph, None, tuple(given))
    starts = consensus.starts_of(step.graph, list(given), data)
    return consensus.start_of(list(given), data, starts)


def chains(graph: Graph) -> dict[Node, Chain]:
    """Each recurrence by the operation that makes its states."""
    found: dict[Node, Chain] = {}
    of_loops = {node for loop in graph.loops for node in loop.after}
    for product in graph.nodes:
        if isinstance(product, Operation) and product.feedback not in (None, *of_loops):
            chain = [product]
            while chain[-1] != product.feedback:
                (following,) = graph.consumers[chain[-1]]
                chain.append(following)
            found[chain[-1]] = tuple(chain)
    return found


def pull_through_time(changes: Changes, chain: Chain) -> None:
    """Add to what is asked of the states of a loop what later ones ask of them."""
    states = chain[-1]
    asked = changes.targets.get(states, jnp.zeros(states.shape.shape, low_dtype(states.shape.dtype)))
    before = _asked_of_state_before(changes, chain)

    def step(later: Array, at_step: tuple[Array, Array]) -> tuple[Array, Array]:
        time, asked = at_step
        total = asked + later
        return before(total[:, None], time)[:, 0], total

    by_time = jnp.arange(asked.shape[1]), jnp.moveaxis(asked, 1, 0)
    _, totals = lax.scan(step, jnp.zeros_like(asked[:, 0]), by_time, reverse=True)
    changes.targets[states] = jnp.moveaxis(totals, 0, 1)


def _asked_of_state_before(changes: Changes, chain: Chain) -> Callable[[Array, Array], Array]:
    """What a time step asks of the state before it, given what is asked of its own, each (B, 1, M), and its place."""
    starts = {node: changes.start_of(node) for node in chain}
    inputs = {node: [_by_time(slot, node, changes.start_of) for slot in node.slots] for node in chain}
    before = dict(zip(chain, (chain[0].feedback, *chain[:-1]), strict=True))
    place = {node: [before[node] in slot.sources for slot in node.slots].index(True) for node in chain}
    losses: dict[Node, Array] = {}
    parts: dict[Node, Any] = {}
    for node in chain:
        lost = shares.losses_of(node, inputs[node])
        if lost is not None:
            losses[node] = lost
        of_inputs = shares.of_inputs(node, inputs[node], None if lost is None else jnp.ones(()))
        parts[node] = of_inputs[place[node]] / shares.copies(node)[place[node]]

    def asked(change: Array, time: Array) -> Array:
        def at(array: Array) -> Array:
            return array if array.ndim in (0, 2) else lax.dynamic_slice_in_dim(array, time, 1, axis=1)

        for node in reversed(chain):
            residual = changes.scaled(node, node, change)
            if node in losses:
                residual = residual * at(losses[node]).astype(residual.dtype)
            found, _ = changes.projected(node, tuple(map(at, inputs[node])), at(starts[node]) + residual, residual)
            change = changes.unscaled(node, node, found[place[node]] / parts[node])
        return change

    return asked


def _by_time(slot: Slot, node: Operation, start_of: Callable[[Node], Array]) -> Array:
    """A slot's value for each time step, (B, T, ...); the weights of products, (N, M), are those of all."""
    value = slot.read(start_of)
    if node.feedback is not None:
        return value
    return jnp.broadcast_to(value, (*node.shape.shape[:2], value.shape[-1] if value.ndim else 1))
