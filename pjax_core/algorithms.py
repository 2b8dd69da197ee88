"""Algorithms as tuples of pure functions, each made by a short factory.

All start from the network's own computation (every copy has the value that the forward pass gives it) and keep
parameters as compensated pairs.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from pjax_core import arguments, outputs, reflections, solution
from pjax_core.copies import Consensus, Copies, Dense, Factored, choose, n_bytes
from pjax_core.graph import Colour, Graph, Operation
from pjax_core.in_turn import project_in_turn
from pjax_core.messages import described
from pjax_core.reflections import CopiesState, Point, of_colour, of_layers
from pjax_core.solution import (
    Problem,
    Schedule,
    State,
    at_boundary,
    may_be_unread,
    normalised,
    project,
    require_problem,
)

DENSE_BUDGET = 16 * 2**20
"""Bytes of dense copies that a node may hold before ``copies="auto"`` takes the factored form."""


_Arguments = ParamSpec("_Arguments")


def _made_once(factory: Callable[_Arguments, Algorithm]) -> Callable[_Arguments, Algorithm]:
    """The same algorithm for the same arguments: compiled code is kept for each, also where loops make it anew."""
    signature = inspect.signature(factory)

    @functools.lru_cache(maxsize=None, typed=True)
    def cached(*args: Any, **settings: Any) -> Algorithm:
        return factory(*args, **settings)._replace(call=functools.partial(made, *args, **settings))

    @functools.wraps(factory)
    def made(*args: _Arguments.args, **settings: _Arguments.kwargs) -> Algorithm:
        try:
            hash((args, *settings.values()))
        except TypeError:
            return factory(*args, **settings)  # which says what is wrong with them
        bound = signature.bind(*args, **settings)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if isinstance(value, np.generic):  # a number of NumPy is the same as one of Python
                bound.arguments[name] = value.item()
        return cached(*bound.args, **bound.kwargs)

    return made


class Algorithm(NamedTuple):
    """An iterative algorithm; all functions but ``describe`` are pure and work inside ``jax.jit`` and ``lax.scan``.

    Attributes:
        init: ``init(problem, params, *data, params_low=None)`` is the first state.
        step: ``step(problem, state)`` is the next one.
        params: ``params(state)`` reads the parameters.
        params_low: ``params_low(state)`` is what rounding took from them: to go on from ``params`` without loss, give
            it to ``init``.
        sets: ``sets(graph, steps)`` are the sets of nodes that so many steps project onto from the start, one after the
            other; None where these steps reflect.
        describe: ``describe(problem, params, *data)`` prints how the copies of each operation are represented, and
            how many bytes that takes.
        call: the call that makes it, by which it is shown and pickled; None if there is none.
    """

    init: Callable[..., Any]
    step: Callable[[Problem, Any], Any]
    params: Callable[[Any], Any]
    params_low: Callable[[Any], Any]
    sets: Callable[[Graph, int], Schedule] | None
    describe: Callable[..., None]
    call: functools.partial[Algorithm] | None = None

    def __repr__(self) -> str:
        if self.call is None:
            return f"Algorithm(step={self.step!r})"
        parameters = inspect.signature(self.call.func).parameters
        settings = [f"{k}={v!r}" for k, v in self.call.keywords.items() if v != parameters[k].default]
        return f"{self.call.func.__name__}({', '.join([*map(repr, self.call.args), *settings])})"

    def __reduce__(self) -> Any:
        return (Algorithm, tuple(self)) if self.call is None else (self.call, ())


@_made_once
def alternating_projections(*, in_turn: bool = False) -> Algorithm:
    """Alternating projections: ``z <- P_B(P_A(z))`` (paper, section 4), in consensus form.

    No copy is stored, since after ``P_A`` all copies of a value agree.  The state is kept after ``P_A``, one half
    step on, where the fewest arrays are alive; the parameters read from it are those after whole steps.

    Args:
        in_turn: compute the projections of ``P_A``, and those of ``P_B``, one after the other and in the memory of
            those before, where they would else run beside each other.  That takes less memory and more time.  It
            matters on CPUs: elsewhere nothing changes.

    Raises:
        TypeError: ``in_turn`` is not True or False.
    """
    if not isinstance(in_turn, bool):
        raise TypeError(f"in_turn is {described(in_turn)}; pass True for less memory, or False for less time")
    return _consensus_algorithm(_alternating_schedule, started=True, in_turn=in_turn)


@_made_once
def cyclic_projections() -> Algorithm:
    """Cyclic projections: layer by layer, by distance from the output and starting there (paper, section 4)."""
    return _consensus_algorithm(Graph.layers, started=False)


@_made_once
def alternating_reflections(*, copies: str | Copies = "auto", budget: int | None = None) -> Algorithm:
    """Alternating reflections: ``z <- R_B(R_A(z))`` with ``R = 2 P - I`` (paper, section 4).

    Deviations of copies do not decay here, so that a truncated history loses much; take ``copies="dense"``.

    Args:
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        ValueError: as in :func:`douglas_rachford`.
    """
    return _reflecting_algorithm(_relaxed(1.0), copies, budget)


@_made_once
def douglas_rachford(relaxation: float = 0.5, *, copies: str | Copies = "auto", budget: int | None = None) -> Algorithm:
    """Douglas-Rachford: ``z <- (1 - r) z + r R_B(R_A(z))`` with ``R = 2 P - I`` (paper, section 4).

    Args:
        relaxation: r, in (0, 1].
        copies: how dense layers keep the deviations of their copies: "dense" stores them, ``Factored(history=3)``
            keeps coefficients of a few terms, "auto" is ``Factored()`` with a budget of 16 MiB.  Copies are stored
            by all other operations, which hold few, and by dense layers that have outputs which nothing reads.
        budget: operations whose dense copies fit into so many bytes store them under ``Factored`` too.

    Raises:
        TypeError: ``relaxation`` is not a number.
        ValueError: ``relaxation`` or ``budget`` is out of range, or ``copies`` is none of these.
    """
    relaxation = arguments.number("relaxation", relaxation, lambda r: 0 < r <= 1, "a number in (0, 1]")
    return _reflecting_algorithm(_relaxed(relaxation), copies, budget)


@_made_once
def difference_map(beta: float = 1.0, *, copies: str | Copies = "auto", budget: int | None = None) -> Algorithm:
    """Difference map: ``z <- z + b [P_A(f_B(z)) - P_B(f_A(z))]`` (Elser; paper, section 4).

    ``f_A = (1 - 1/b) P_A + z/b`` and ``f_B = (1 + 1/b) P_B - z/b``.  With b = 1 a step costs as much as one of
    Douglas-Rachford, otherwise twice that.

    Args:
        beta: b, not zero.
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        TypeError: ``beta`` is not a number.
        ValueError: ``beta`` is zero or not finite, or as in :func:`douglas_rachford`.
    """
    beta = arguments.number("beta", beta, lambda b: b != 0 and math.isfinite(b), "a finite number other than 0")

    def step(point: Point) -> CopiesState:
        a, b = of_colour(point.graph, Colour.A), of_colour(point.graph, Colour.B)
        if beta == 1:
            # z + P_A(2 P_B(z) - z) - P_B(z), which is Douglas-Rachford from the other side.
            return reflections.relaxed_reflections(point, b, a, 0.5)
        return reflections.difference_map(point, a, b, beta)

    return _reflecting_algorithm(step, copies, budget)


@_made_once
def cyclic_douglas_rachford(*, copies: str | Copies = "auto", budget: int | None = None) -> Algorithm:
    """Cyclic Douglas-Rachford: ``D_n ... D_1``, ``D_i = (I + R_{i+1} R_i)/2`` over the layers (paper, section 4).

    The layers 1 to n + 1 are counted from the output, as in :func:`cyclic_projections`, data last.

    Args:
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        ValueError: as in :func:`douglas_rachford`; in use, where an operand is a view of several layers.
    """

    def step(point: Point) -> CopiesState:
        layers = of_layers(point.graph)
        state = point.state
        for first, second in itertools.pairwise(layers):
            state = reflections.relaxed_reflections(Point(point.graph, point.copies, state), first, second, 0.5)
        return state

    return _reflecting_algorithm(step, copies, budget)


def _relaxed(relaxation: float) -> Callable[[Point], CopiesState]:
    """The step of relaxed reflections in A, then B."""

    def step(point: Point) -> CopiesState:
        a, b = of_colour(point.graph, Colour.A), of_colour(point.graph, Colour.B)
        return reflections.relaxed_reflections(point, a, b, relaxation)

    return step


def _reflecting_algorithm(
    step_of: Callable[[Point], CopiesState], copies: str | Copies, budget: int | None
) -> Algorithm:
    """The algorithm with a step on points whose copies are represented as ``copies`` says."""
    wanted, dense_budget = _wanted(copies, budget)

    def representations(graph: Graph) -> dict[Operation, Copies]:
        return {
            node: choose(node, wanted, dense_budget, may_be_unread(graph, node))
            for node in graph.nodes
            if isinstance(node, Operation)
        }

    @functools.partial(jax.jit, static_argnums=0)
    def first(problem: Problem, params: Any, data: tuple[Any, ...], low: Any) -> CopiesState:
        graph = problem.graph(params, data)
        return reflections.initial_state(graph, representations(graph), params, low, data)

    @functools.partial(jax.jit, static_argnums=0)
    def step(problem: Problem, state: CopiesState) -> CopiesState:
        graph = problem.graph(state.high, state.data)
        state = replace(state, truncation=jax.tree.map(jnp.zeros_like, state.truncation))
        return step_of(Point(graph, representations(graph), state))

    def describe(problem: Problem, params: Any, *data: Any) -> None:
        require_problem(problem)
        graph = problem.graph(*arguments.problem_arguments(params, data))
        _print_table(graph, representations(graph))

    return Algorithm(_checked(first), step, _params, _params_low, None, describe)


def _wanted(copies: str | Copies, budget: int | None) -> tuple[Copies, int]:
    """The representation asked for, and the bytes up to which copies are dense all the same."""
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
        raise ValueError(f"budget is {described(budget)}; pass a number of bytes, an integer of at least 0")
    if isinstance(copies, (Dense, Factored)):
        return copies, budget or 0
    if isinstance(copies, str) and copies == "dense":
        return Dense(), 0
    if isinstance(copies, str) and copies == "auto":
        return Factored(), DENSE_BUDGET if budget is None else budget
    raise ValueError(f'copies is {described(copies)}; pass "auto", "dense", or Factored(history=...)')


def _print_table(graph: Graph, copies: Mapping[Operation, Copies | Consensus]) -> None:
    """One row an operation: its name, the shape of its output, and how and in how many bytes it keeps its copies."""
    rows = [("operation", "output", "copies", "bytes")]
    for node, held in copies.items():
        shape = "" if node.shape is None or node.primitive.constrains_output else str(node.shape.shape)
        deviations = (
            None
            if isinstance(held, Consensus)
            else jax.eval_shape(functools.partial(reflections.no_deviations, graph, node, held))
        )
        rows.append((graph.label(node), shape, str(held), f"{n_bytes(deviations):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]))


def _alternating_schedule(graph: Graph) -> Schedule:
    return (graph.coloured(Colour.B), graph.coloured(Colour.A))


def _consensus_algorithm(schedule: Callable[[Graph], Schedule], *, started: bool, in_turn: bool = False) -> Algorithm:
    """An algorithm that projects onto the sets of a schedule in turn; if ``started``, onto the last one first."""

    @functools.partial(jax.jit, static_argnums=0)
    def first(problem: Problem, params: Any, data: tuple[Any, ...], low: Any) -> State:
        graph = problem.graph(params, data)
        state = solution.initial_state(graph, params, low, data)
        if started:
            state = project(graph, schedule(graph)[-1], state)
        return at_boundary(graph, schedule(graph), state)

    @functools.partial(jax.jit, static_argnums=0)
    def step(problem: Problem, state: State) -> State:
        graph = problem.graph(state.high, state.data)
        sets = schedule(graph)
        for place, nodes in enumerate(sets):
            if in_turn and jax.default_backend() == "cpu":
                later = list(itertools.chain.from_iterable(sets[place + 1 :]))
                state = project_in_turn(graph, nodes, later, state)
            else:
                state = project(graph, nodes, state)
        return at_boundary(graph, schedule(graph), state)

    def describe(problem: Problem, params: Any, *data: Any) -> None:
        require_problem(problem)
        graph = problem.graph(*arguments.problem_arguments(params, data))
        _print_table(graph, {node: Consensus() for node in graph.nodes if isinstance(node, Operation)})

    def projected(graph: Graph, steps: int) -> Schedule:
        sets = list(schedule(graph))
        return (sets[-1:] if started else []) + sets * steps

    return Algorithm(_checked(first), step, _params, _params_low, projected, describe)


def _checked(first: Callable[..., Any]) -> Callable[..., Any]:
    """The ``init`` of an algorithm whose first state is ``first(problem, params, data, params_low)``."""

    def init(problem: Problem, params: Any, *data: Any, params_low: Any = None) -> Any:
        require_problem(problem)
        params, data = arguments.problem_arguments(params, data)
        params_low = arguments.low_part(params, params_low)
        outputs.require_labels(problem, params, data)
        return first(problem, params, data, params_low)

    return init


def _params(state: State | CopiesState) -> Any:
    """The parameters, rounded to their dtypes."""
    return normalised(state.high, state.low)[0]


def _params_low(state: State | CopiesState) -> Any:
    """What rounding took from the parameters."""
    return normalised(state.high, state.low)[1]
