"""A sweep of projections as a direction for an optimiser, in the place of a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.algorithms.base import Algorithm
from pjax_core.algorithms.cyclic import cyclic_projections
from pjax_core.arrays import arguments
from pjax_core.arrays.messages import described
from pjax_core.copies import consensus
from pjax_core.copies.changes import Changes
from pjax_core.copies.metric import require_agreement
from pjax_core.copies.shares import log_shares, log_shares_of_means
from pjax_core.copies.through_time import sweep
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Node, Operation
from pjax_core.problem import Problem, checked_arguments, compiled
from pjax_kernels.compose import difference_of_pairs

Values: TypeAlias = Callable[[Node], Array]
"""The value of each node at the start."""


def direction(problem: Problem, params: Any, *data: Any, algorithm: Algorithm | None = None, steps: int = 1) -> Any:
    """The direction in which projections move the parameters, in the place of a gradient.

    The network is evaluated, an algorithm makes ``steps`` steps from there, and the changes of the parameters are
    returned with the opposite sign, as a gradient points: any optimiser of optax takes them.  Each parameter's change
    is divided by one number, about the part of the output constraint's pull that projections let through to it: the
    product of what each operation on the way takes of a residual, ``1/(1 + |a|^2 + |b|^2)`` of dot products and
    ``1/(n + 1)`` of a sum of n, and of the shares of copies of hidden values, times how far the constraint pulls for
    what its value falls by.  The direction is then about as large as the gradient of what the function returns: a mean
    over the batch, of the rows that count; in a sum each constraint counts as its value does, whatever its strength.

    By default, with no algorithm, there is one sweep from the output back.  Of what the output constraint asks,
    operations below are projected with a part so small that all are linear in it, dot products and smooth functions
    onto the tangents of their graphs: no strength is too large, and changes may be too small for float32, since they
    are held in units of their own.  Dot products moreover are asked as much more as each would hand on less than their
    mean, by the norms of its entries: else the product of what a sample loses in each layer leaves few of a batch that
    count ten layers below the output.  (Norms of weights enter by their mean.)  Likewise functions of each element,
    quotients and rows of normalisations, by their slopes.  What several operations ask of a value, or of a parameter,
    is divided by the part of each before it is added up.  So for single dot products directions are near a gradient's,
    but for the norms of columns; those of whole layers are damped along what inputs share.

    The sweep takes as many products as back-propagation, and through a loop goes from the last time step to the first:
    what a step asks of the state before it is divided by the part that it hands on, as for parameters.

    As in a gradient nothing is asked past ``lax.stop_gradient``, and functions of each element with ``jax.custom_vjp``
    or ``jax.custom_jvp`` have the slopes that are given them.  Algorithms go by the function's values alone.

    Changes are held apart from values, so that float32 loses none however small they are; only the reflecting
    algorithms (``douglas_rachford``, ``difference_map``, ``cyclic_douglas_rachford``) add them to values in between.

    Args:
        problem: from :func:`feasibility`.
        params: a tree of floating-point arrays.
        *data: what else the problem's function takes.
        algorithm: by default one sweep in the reverse order of the computation, each operation after all that use its
            output; without skip connections, were all samples alike and little asked, that is a step of
            :func:`cyclic_projections`.
        steps: how many steps, at least 1; more than one without an algorithm are steps of cyclic projections.

    Returns:
        A tree like ``params``, in float32 or wider.  It works under ``jax.jit``, ``lax.scan`` and sharding.

    Raises:
        TypeError: as :func:`solve`.
        ValueError: as :func:`solve`, or ``steps`` is below 1.

    Source: paper, section 4, for the sweep.
    """
    return value_and_direction(problem, params, *data, algorithm=algorithm, steps=steps)[1]


def value_and_direction(
    problem: Problem, params: Any, *data: Any, algorithm: Algorithm | None = None, steps: int = 1
) -> tuple[Any, Any]:
    """What the problem's function is on arrays, its outputs added up, and :func:`direction`.

    Args:
        problem: from :func:`feasibility`.
        params: a tree of floating-point arrays.
        *data: what else the problem's function takes.
        algorithm: as in :func:`direction`.
        steps: likewise.

    Returns:
        The value, one number: of ``cross_entropy`` the mean cross-entropy, of ``margin_loss`` the mean squared distance
        to it, times what the function multiplies it by; and a tree like ``params``.  Of a problem with ``has_aux`` the
        value comes in a pair with what else the function returns.

    Raises:
        TypeError: as :func:`direction`.
        ValueError: likewise.
    """
    if algorithm is not None and not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm is {described(algorithm)}; pass one, such as pj.alternating_projections(), or None")
    if arguments.integer("steps", steps, 0, "a number that is not negative") < 1:
        raise ValueError(f"steps is {steps}; pass at least 1, or the parameters do not move")
    params, data = checked_arguments(problem, params, data)
    return _value_and_direction(problem, algorithm, steps, params, data)


@compiled(1, 2)
def _value_and_direction(
    problem: Problem, algorithm: Algorithm | None, steps: int, params: Any, data: tuple[Any, ...]
) -> tuple[Any, Any]:
    graph = problem.graph(params, data)
    start_of = consensus.start(graph, params, data)
    if algorithm is None or algorithm.sets is not None:
        require_agreement(problem.gamma)
    if algorithm is None and steps == 1:
        directions = _of_sweep(graph, start_of)
    else:
        algorithm = algorithm or cyclic_projections()
        if algorithm.sets is None:
            moved = _changes_of_values(problem, algorithm, steps, params, data)
        else:
            changes = Changes(graph, start_of)
            consensus.project_changes(changes, algorithm.sets(graph, steps))
            moved = changes.of_parameters()
        shares = log_shares_of_means(graph, start_of)
        directions = [_over(change, shares[node]) for node, change in zip(graph.parameters, moved, strict=True)]
    value = _value(graph, start_of)
    found = jax.tree.unflatten(jax.tree.structure(params), directions)
    return ((value, problem.aux(params, *data)) if problem.has_aux else value), found


def _of_sweep(graph: Graph, start_of: Values) -> list[Array]:
    """The directions of one sweep from the output back."""
    shares = log_shares(graph, start_of)
    changes = Changes(graph, start_of, shares)
    sweep(changes, graph.nodes)
    return [
        -changes.whole(node, change) for node, change in zip(graph.parameters, changes.of_parameters(), strict=True)
    ]


def _over(change: Array, share: Array) -> Array:
    """A change with the opposite sign, over a number of this logarithm."""
    return -change * jnp.exp2(-share).astype(change.dtype)


def _changes_of_values(
    problem: Problem, algorithm: Algorithm, steps: int, params: Any, data: tuple[Any, ...]
) -> list[Array]:
    """By how much steps of an algorithm that reflects change each parameter."""
    state = algorithm.init(problem, params, *data)
    state = lax.fori_loop(0, steps, lambda _, state: algorithm.step(problem, state), state)
    new = (jax.tree.leaves(tree) for tree in (algorithm.params(state), algorithm.params_low(state)))
    return [
        difference_of_pairs(high, low, old, jnp.zeros_like(low))
        for high, low, old in zip(*new, jax.tree.leaves(params), strict=True)
    ]


def _value(graph: Graph, start_of: Values) -> Array:
    """What the function returns, added up: one number, also where an output constraint is mapped over."""
    constraints = (node for node in graph.nodes if isinstance(node, Operation) and node.primitive.constrains_output)
    return jnp.asarray(sum(node.factor * jnp.sum(node.start(start_of)) for node in constraints))
