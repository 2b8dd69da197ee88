"""A sweep through the time steps of a loop, from the last to the first.

The states of a loop ``h_t = f(x_t, h_{t-1})`` are one node: its products read what its last operation makes of them.
When a sweep comes to it, a state is asked to change by its other consumers and by the next time step.  This hands on a
part of what is asked of itself, and each step further back a part of that: what a step asks is divided by its part, as
directions are for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from pjax_core.copies import shares
from pjax_core.copies.changes import Changes
from pjax_core.copies.count import low_dtype
from pjax_core.graph.colour import Graph
from pjax_core.graph.nodes import Node, Operation, Slot

Loop = tuple[Operation, ...]
"""The operations of a step in the order of the computation: its products first, what makes its state last."""


def loops(graph: Graph) -> dict[Node, Loop]:
    """Each loop by the operation that makes its states."""
    found: dict[Node, Loop] = {}
    for product in graph.nodes:
        if isinstance(product, Operation) and product.feedback is not None:
            loop = [product]
            while loop[-1] != product.feedback:
                (following,) = graph.consumers[loop[-1]]
                loop.append(following)
            found[loop[-1]] = tuple(loop)
    return found


def pull_through_time(changes: Changes, loop: Loop) -> None:
    """Add to what is asked of the states of a loop what later ones ask of them."""
    states = loop[-1]
    asked = changes.targets.get(states, jnp.zeros(states.shape.shape, low_dtype(states.shape.dtype)))
    before = _asked_of_state_before(changes, loop)

    def step(later: Array, at_step: tuple[Array, Array]) -> tuple[Array, Array]:
        time, asked = at_step
        total = asked + later
        return before(total[:, None], time)[:, 0], total

    by_time = jnp.arange(asked.shape[1]), jnp.moveaxis(asked, 1, 0)
    _, totals = lax.scan(step, jnp.zeros_like(asked[:, 0]), by_time, reverse=True)
    changes.targets[states] = jnp.moveaxis(totals, 0, 1)


def _asked_of_state_before(changes: Changes, loop: Loop) -> Callable[[Array, Array], Array]:
    """What a time step asks of the state before it, given what is asked of its own, each (B, 1, M), and its place."""
    starts = {node: changes.start_of(node) for node in loop}
    inputs = {node: [_by_time(slot, node, changes.start_of) for slot in node.slots] for node in loop}
    before = dict(zip(loop, (loop[0].feedback, *loop[:-1]), strict=True))
    place = {node: [before[node] in slot.sources for slot in node.slots].index(True) for node in loop}
    n_copies = {node: shares.copies(node)[place[node]] for node in loop}

    def asked(change: Array, time: Array) -> Array:
        def at(array: Array) -> Array:
            return array if array.ndim in (0, 2) else lax.dynamic_slice_in_dim(array, time, 1, axis=1)

        for node in reversed(loop):
            residual, own = changes.scaled(node, node, change), tuple(map(at, inputs[node]))
            found, _ = node.primitive.project(own, at(starts[node]) + residual, residual, **node.settings)
            part = _part(node, own, place[node]) / n_copies[node]
            change = changes.unscaled(node, node, found[place[node]] / part)
        return change

    return asked


def _part(node: Operation, inputs: tuple[Array, ...], place: int) -> float | Array:
    """Which part of a residual reaches an input: of dot products one number for each sample, (B, 1, 1)."""
    losses = shares.losses_of(node, inputs)
    part = shares.of_inputs(node, inputs, losses)[place]
    return part if losses is None else part * (jnp.mean(losses) / losses)


def _by_time(slot: Slot, node: Operation, start_of: Callable[[Node], Array]) -> Array:
    """A slot's value for each time step, (B, T, ...); the weights of products, (N, M), are those of all."""
    value = slot.read(start_of)
    if node.feedback is not None:
        return value
    return jnp.broadcast_to(value, (*node.shape.shape[:2], value.shape[-1] if value.ndim else 1))
