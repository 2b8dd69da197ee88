"""Algorithms as tuples of pure functions, each made by a short factory.

All start from the network's own computation (every copy has the value that the forward pass gives it) and keep
parameters as compensated pairs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_core.arrays import arguments
from pjax_core.arrays.messages import described
from pjax_core.copies import consensus, point
from pjax_core.copies.consensus import LARGE, Schedule, State, at_boundary, normalised, project
from pjax_core.copies.count import Factor, equals, may_be_unread
from pjax_core.copies.factored import Copies, Factored, choose, n_bytes
from pjax_core.copies.metric import following_gaps, gaps_of_step, require_agreement, with_weights
from pjax_core.copies.point import CopiesState, Point
from pjax_core.copies.stored import Dense
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Operation
from pjax_core.problem import Problem, checked_arguments, compiled

DENSE_BUDGET = 16 * 2**20
"""Bytes of dense copies that a node may hold before ``copies="auto"`` takes the factored form."""


_Arguments = ParamSpec("_Arguments")


def made_once(factory: Callable[_Arguments, Algorithm]) -> Callable[_Arguments, Algorithm]:
    """The same algorithm for the same arguments: compiled code is kept for each, also where loops make it anew."""
    signature = inspect.signature(factory)

    @functools.lru_cache(maxsize=None, typed=True)
    def cached(*args: Any, **settings: Any) -> Algorithm:
        return factory(*args, **settings)._replace(call=functools.partial(made, *args, **settings))

    @functools.wraps(factory)
    def made(*args: _Arguments.args, **settings: _Arguments.kwargs) -> Algorithm:
        try:
            bound = signature.bind(*args, **settings)
        except TypeError as error:
            raise TypeError(f"{factory.__name__}() {error}") from None
        bound.apply_defaults()
        bound.arguments.update({name: arguments.scalar(value) for name, value in bound.arguments.items()})
        try:
            hash((bound.args, *bound.kwargs.values()))
        except TypeError:  # nothing that is traced is kept, and of others the factory says what is wrong with them
            return factory(*args, **settings)
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
        gaps: ``gaps(old, new)`` are the differences, of "weights" and of the "inputs" of operations, that the step from
            one state to the next has met: see :class:`pjax_core.Info`.
        call: the call that makes it, by which it is shown and pickled; None if there is none.
    """

    init: Callable[..., Any]
    step: Callable[[Problem, Any], Any]
    params: Callable[[Any], Any]
    params_low: Callable[[Any], Any]
    sets: Callable[[Graph, int], Schedule] | None
    describe: Callable[..., None]
    gaps: Callable[[Any, Any], dict[str, Array]]
    call: functools.partial[Algorithm] | None = None

    def __repr__(self) -> str:
        if self.call is None:
            return f"Algorithm(step={self.step!r})"
        parameters = inspect.signature(self.call.func).parameters
        settings = [f"{k}={v!r}" for k, v in self.call.keywords.items() if v != parameters[k].default]
        return f"{self.call.func.__name__}({', '.join([*map(repr, self.call.args), *settings])})"

    def __reduce__(self) -> Any:
        return (Algorithm, tuple(self)) if self.call is None else (self.call, ())


def reflecting_algorithm(
    step_of: Callable[[Point], CopiesState],
    copies: str | Copies,
    budget: int | None,
    rate: Factor = 1.0,
    gamma: ArrayLike = 0.0,
) -> Algorithm:
    """The algorithm with a step on points whose copies are represented as ``copies`` says.

    A step moves the state by ``rate`` times the difference between its points in both sets, the gap, and the metric at
    the rate ``gamma`` towards these.
    """
    wanted, dense_budget = _wanted(copies, budget)
    own_rate = arguments.number_or_traced("gamma", gamma, lambda g: 0 <= g < 1, "a number in [0, 1)")

    def metric_rate(problem: Problem) -> Factor:
        return problem.gamma if equals(own_rate, 0) else own_rate

    def with_copies(problem: Problem, params: Any, data: Any) -> tuple[Graph, dict[Operation, Copies]]:
        graph = problem.graph(params, data, apart=not equals(metric_rate(problem), 0))
        return graph, {n: choose(n, wanted, dense_budget, may_be_unread(graph, n)) for n in graph.operations}

    @compiled(inline=True)
    def first(problem: Problem, params: Any, data: tuple[Any, ...], low: Any) -> CopiesState:
        graph, held = with_copies(problem, params, data)
        state = point.initial_state(graph, held, params, low, data)
        return state if equals(metric_rate(problem), 0) else with_weights(graph, held, state)

    @compiled(inline=True)
    def step(problem: Problem, state: CopiesState) -> CopiesState:
        rate_of_metric = metric_rate(problem)
        cleared = replace(state, truncation=jax.tree.map(jnp.zeros_like, state.truncation))
        old = Point(*with_copies(problem, state.high, state.data), cleared)
        new = step_of(old)
        return new if equals(rate_of_metric, 0) else following_gaps(old, new, rate_of_metric)

    return _algorithm(first, step, with_copies, rate=rate)


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


def _print_table(graph: Graph, copies: Mapping[Operation, Copies | None]) -> None:
    """One row an operation: its name, the shape of its output, and how and in how many bytes it keeps its copies.

    None stands for the consensus form: no deviations, right where copies agree before each projection.
    """
    rows = [("operation", "output", "copies", "bytes")]
    for node, held in copies.items():
        shape = "" if node.primitive.constrains_output else str(node.shape.shape)
        deviations = held and jax.eval_shape(functools.partial(point.no_deviations, graph, node, held))
        rows.append((graph.label(node), shape, str(held or "consensus"), f"{n_bytes(deviations):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join([*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])]))


def consensus_algorithm(schedule: Callable[[Graph], Schedule], *, started: bool, large: int = LARGE) -> Algorithm:
    """An algorithm that projects onto the sets of a schedule in turn; if ``started``, onto the last one first.

    Operations whose output has ``large`` entries or more are projected one after the other.
    """

    @compiled(inline=True)
    def first(problem: Problem, params: Any, data: tuple[Any, ...], low: Any) -> State:
        require_agreement(problem.gamma)
        graph = problem.graph(params, data)
        state = consensus.initial_state(graph, params, low, data)
        if started:
            state = project(graph, schedule(graph)[-1:], state, large)
        return at_boundary(graph, schedule(graph), state)

    @compiled(inline=True)
    def step(problem: Problem, state: State) -> State:
        graph = problem.graph(state.high, state.data)
        sets = schedule(graph)
        return at_boundary(graph, sets, project(graph, sets, state, large))

    def without_copies(problem: Problem, params: Any, data: Any) -> tuple[Graph, dict[Operation, None]]:
        graph = problem.graph(params, data)
        return graph, dict.fromkeys(graph.operations)

    def projected(graph: Graph, steps: int) -> Schedule:
        sets = list(schedule(graph))
        return (sets[-1:] if started else []) + sets * steps

    return _algorithm(first, step, without_copies, sets=projected)


def _algorithm(
    first: Callable[..., Any],
    step: Callable[..., Any],
    table: Callable[[Problem, Any, Any], tuple[Graph, Mapping[Operation, Copies | None]]],
    sets: Callable[[Graph, int], Schedule] | None = None,
    rate: Factor = 1.0,
) -> Algorithm:
    """The algorithm with the first state ``first(problem, params, data, params_low)``; ``table`` is what it prints."""

    def init(problem: Problem, params: Any, *data: Any, params_low: Any = None) -> Any:
        params, data = checked_arguments(problem, params, data)
        return first(problem, params, data, arguments.low_part(params, params_low))

    def describe(problem: Problem, params: Any, *data: Any) -> None:
        _print_table(*table(problem, *checked_arguments(problem, params, data)))

    def high_and_low(part: int, state: State | CopiesState) -> Any:
        return normalised(state.high, state.low)[part]

    params, params_low = (functools.partial(high_and_low, part) for part in (0, 1))
    return Algorithm(init, step, params, params_low, sets, describe, functools.partial(gaps_of_step, rate))
