"""Algorithms as triples of pure functions, each made by a short factory.

All start from the network's own computation (every copy has the value that the forward pass gives it) and keep
parameters as compensated pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from pjax_core import checks
from pjax_core.graph import Colour, Graph
from pjax_core.solution import Problem, Schedule, State, at_boundary, initial_state, normalised, project


class Algorithm(NamedTuple):
    """An iterative algorithm; all functions are pure, jitted, and work inside ``jax.jit`` and ``jax.lax.scan``.

    Attributes:
        init: ``init(problem, params, *data, params_low=None)`` is the first state.
        step: ``step(problem, state)`` is the next one.
        params: ``params(state)`` reads the parameters.
        params_low: ``params_low(state)`` is what rounding took from them: to go on from ``params`` without loss, give
            it to ``init``.
    """

    init: Callable[..., State]
    step: Callable[[Problem, State], State]
    params: Callable[[State], Any]
    params_low: Callable[[State], Any]


def alternating_projections() -> Algorithm:
    """Alternating projections: ``z <- P_B(P_A(z))`` (paper, section 4), in consensus form.

    No copy is stored, since after ``P_A`` all copies of a value agree.  The state is kept after ``P_A``, one half
    step on, where the fewest arrays are alive; the parameters read from it are those after whole steps.
    """
    return _consensus_algorithm(_alternating_schedule, started=True)


def cyclic_projections() -> Algorithm:
    """Cyclic projections: layer by layer, by distance from the output and starting there (paper, section 4)."""
    return _consensus_algorithm(Graph.layers, started=False)


def _alternating_schedule(graph: Graph) -> Schedule:
    return (graph.coloured(Colour.B), graph.coloured(Colour.A))


def _consensus_algorithm(schedule: Callable[[Graph], Schedule], *, started: bool) -> Algorithm:
    """An algorithm that projects onto the sets of a schedule in turn; if ``started``, onto the last one first."""

    @functools.partial(jax.jit, static_argnums=0)
    def first(problem: Problem, params: Any, data: tuple[Any, ...], low: Any) -> State:
        graph = problem.graph(params, data)
        state = initial_state(graph, params, low, data)
        if started:
            state = project(graph, schedule(graph)[-1], state)
        return at_boundary(graph, schedule(graph), state)

    def init(problem: Problem, params: Any, *data: Any, params_low: Any = None) -> State:
        params, data = checks.problem_arguments(params, data)
        checks.low_part(params, params_low)
        return first(problem, params, data, params_low)

    @functools.partial(jax.jit, static_argnums=0)
    def step(problem: Problem, state: State) -> State:
        graph = problem.graph(state.high, state.data)
        for nodes in schedule(graph):
            state = project(graph, nodes, state)
        return at_boundary(graph, schedule(graph), state)

    return Algorithm(init, step, _params, _params_low)


def _params(state: State) -> Any:
    """The parameters, rounded to their dtypes."""
    return normalised(state.high, state.low)[0]


def _params_low(state: State) -> Any:
    """What rounding took from the parameters."""
    return normalised(state.high, state.low)[1]
