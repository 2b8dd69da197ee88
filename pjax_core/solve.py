"""The loop: run an algorithm for a number of steps and report on it."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.algorithms.base import Algorithm
from pjax_core.arrays import arguments
from pjax_core.arrays.messages import described
from pjax_core.arrays.norms import rms, rms_of
from pjax_core.arrays.serialization import exportable_dataclass
from pjax_core.copies.consensus import State
from pjax_core.copies.point import CopiesState, movement_of_operands
from pjax_core.graph.graph import Graph
from pjax_core.problem import Problem, checked_arguments, compiled
from pjax_core.resume import resumed
from pjax_core.until import Until, gap_of_outputs, run_until
from pjax_kernels.compose import always, difference_of_pairs, replaced_if


@exportable_dataclass
@dataclass(frozen=True)
class Info:
    """What happened.

    Attributes:
        residual: ``(steps,)``, the root mean square change of the state in each step: of the means of the copies.
        truncation: ``(steps,)`` for each operation with factored copies: how far what they left out in the step takes
            them off the sets that they are projected onto, over how far they have moved from the start of the state to
            its end, both root mean squares over all dot products.  The sum over the steps estimates the relative error
            of the run from above (:class:`Factored` says why).  It assumes that no step makes an error larger, as
            where sets are convex, and that the error of this operation's operands is no smaller than what it causes
            in others; where the run has converged, it is far above the error.
        inaccurate: for each of these whether that sum exceeds the tolerance.
        movement: structured like the parameters, the norm of each one's change over that of its value at the start:
            whether layers learn.  Below its rounding, 1e-7 in float32, the change is lost in ``solution.params``, but
            not in ``params_low`` and ``change``.
        solved: whether the gap of the outputs fell below that of ``until``; None without it, like all that follows.
        steps: how many steps were made; ``residual`` and ``truncation`` are 0 beyond.
        gaps: root mean squares.  "outputs": by how much the network's outputs, with ``solution.params``, miss what
            their constraint asks, or parameters their sets: the largest of these.  "weights" and "inputs": by how
            much the last step found the points in both sets to differ, ``P_A(z)`` and ``P_B(2 P_A(z) - z)`` of
            Douglas-Rachford, in parameters and in the values that operations read; of alternating and cyclic
            algorithms, by how much a whole step changed them.  Copies of a value count by their mean, so these two
            can vanish where items of data contradict each other; the gap of the outputs cannot.  Infinite before
            the first step.
    """

    residual: Array
    truncation: dict[str, Array]
    inaccurate: dict[str, Array]
    movement: Any
    solved: Array | None = None
    steps: Array | None = None
    gaps: dict[str, Array] | None = None

    def describe(self) -> None:
        """Print how far each parameter moved, relative to its size: one row each."""
        moved = jax.tree_util.tree_leaves_with_path(jax.device_get(self.movement))
        names = [jax.tree_util.keystr(path) for path, _ in moved]
        width = max(map(len, names), default=0)
        for name, (_, movement) in zip(names, moved, strict=True):
            print(f"params{name.ljust(width)}  moved by {movement:.1e} of its size")


@exportable_dataclass
@dataclass(frozen=True)
class Solution:
    """The outcome of :func:`solve`.

    Attributes:
        params: the parameters, structured like those given.
        params_low: what rounding took from them; give it to the next :func:`solve` to go on without loss.
        change: by how much the parameters moved, which may be less than their rounding: an optimiser that minimises,
            such as those of optax, takes ``-change`` for a gradient.
        state: the algorithm's last state.
        info: see :class:`Info`.
    """

    params: Any
    params_low: Any
    change: Any
    state: State | CopiesState
    info: Info


def solve(
    problem: Problem,
    params: Any,
    *data: Any,
    algorithm: Algorithm,
    steps: int,
    params_low: Any = None,
    tolerance: float = 1e-3,
    until: Until | None = None,
    state: State | CopiesState | None = None,
) -> Solution:
    """Run ``steps`` steps of an algorithm from the network's own computation.

    Many starts run side by side under ``jax.vmap`` over their parameters; with ``until`` it ends when all are solved,
    or when any is (:func:`gap_below`), and :func:`best` takes the best of them.  Those that are solved are computed
    until then; :func:`restarts` drops them.

    Args:
        problem: from :func:`feasibility`.
        params: a tree of floating-point arrays.
        *data: what else the problem's function takes.
        algorithm: such as :func:`alternating_projections`, made once.
        steps: how many, not negative; with ``until`` how many at the most.
        params_low: ``solution.params_low`` of the run that gave ``params``, or None.
        tolerance: largest sum of ``info.truncation`` for which factored copies count as accurate.  Beyond it
            ``info.inaccurate`` says so, and, outside ``jax.jit``, a ``RuntimeWarning`` what to do, for which the
            call waits for the result unless the tolerance is infinite.  With that, and ``params`` from a call
            before, nothing is waited for.
        until: when to stop before, from :func:`gap_below`; ``info.solved``, ``info.steps`` and ``info.gaps`` then say
            what came of it.
        state: ``solution.state`` of a run of the same problem and algorithm, to go on from bit for bit, also after it
            was pickled.  Then ``params`` and ``params_low`` are only what ``change`` and ``movement`` are measured
            from, and data may be other of the same shapes.

    Returns:
        A :class:`Solution`.

    Raises:
        TypeError: an array is neither floating-point nor an index in data, ``steps`` or ``tolerance`` is not a number,
            or ``problem``, ``algorithm``, ``until`` or ``state`` is none.
        ValueError: ``steps`` or ``tolerance`` is negative, an array is not finite or labels are not what their output
            constraint takes (checked where their content is known, so not under ``jax.jit``), a parameter is never
            used, the function does not return output constraints, ``state`` is of another algorithm or problem, or
            shapes do not fit.

    Source: paper, section 4.
    """
    _require_kinds(algorithm, until, state)
    steps = arguments.integer("steps", steps, 0, "a number that is not negative")
    tolerance = arguments.number("tolerance", tolerance, lambda t: t >= 0, "a number of at least 0, or math.inf")
    params, data = checked_arguments(problem, params, data)
    params_low = arguments.low_part(params, params_low)
    solution = _solve(problem, algorithm, steps, until, params, data, params_low, tolerance, state)
    arguments.returned_by_solve(solution.params)
    if tolerance != math.inf:  # else nobody asks, so do not wait for the answer
        _warn_of_truncation(solution.info)
        if steps and params_low is None:
            _warn_of_standstill(solution.info, params)
    return solution


def _require_kinds(algorithm: Any, until: Any, state: Any) -> None:
    """Raise ``TypeError`` where one is something else."""
    for name, value, kind, instead in (
        ("algorithm", algorithm, Algorithm, "one, such as pj.alternating_projections()"),
        ("until", until, Until | None, "pj.gap_below(1e-2), or None"),
        ("state", state, State | CopiesState | None, "solution.state, or None"),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {described(value)}; pass {instead}")


def _warn_of_standstill(info: Info, params: Any) -> None:
    """Say which parameters moved by less than their rounding, where that is known and others moved by more."""
    if any(isinstance(movement, jax.core.Tracer) for movement in jax.tree.leaves(info.movement)):
        return
    moved = jax.tree_util.tree_leaves_with_path(jax.device_get(info.movement))  # together: each transfer waits
    still = [
        jax.tree_util.keystr(path)
        for (path, movement), param in zip(moved, jax.tree.leaves(params), strict=True)
        if movement < jnp.finfo(param.dtype).eps
    ]
    if 0 < len(still) < len(moved):
        warnings.warn(
            f"params{', params'.join(still)} moved by less than rounding (info.movement says how far): those layers do "
            "not learn; take more steps, or a larger strength, or give pj.direction(...) to an optimiser: there the "
            "size of a change does not matter",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_truncation(info: Info) -> None:
    """Say which operations left out too much of their copies, where that is known."""
    for name, inaccurate in info.inaccurate.items():
        if not isinstance(inaccurate, jax.core.Tracer) and inaccurate:
            # No figure in the text: it would come anew for each call.
            warnings.warn(
                f"the factored copies of {name} left out more than the tolerance (info.truncation says how much), or "
                "diverged; give the algorithm copies=pj.Factored(history=...) with a longer history, "
                'copies="dense", or copies="auto" with a larger budget, or give solve a larger tolerance',
                RuntimeWarning,
                stacklevel=3,
            )


@compiled(1, 2, 3)
def _solve(
    problem: Problem,
    algorithm: Algorithm,
    steps: int,
    until: Until | None,
    params: Any,
    data: tuple[Any, ...],
    low: Any,
    tolerance: Array,
    state: Any,
) -> Solution:
    graph = problem.graph(params, data)
    if state is None:
        state = algorithm.init(problem, params, *data, params_low=low)
    else:
        wanted = jax.eval_shape(functools.partial(algorithm.init, problem), params, *data)
        state = resumed(state, wanted, problem, params, data)
    state, (residual, by_place), found = _run(problem, algorithm, steps, until, graph, data, state)
    moved = movement_of_operands(graph, state) if by_place else {}
    truncation = {
        graph.label(graph.nodes[int(place)]): _over(moved[place], missed) for place, missed in by_place.items()
    }
    inaccurate = {name: ~(jnp.sum(norms) <= tolerance) for name, norms in truncation.items()}
    new, new_low = algorithm.params(state), algorithm.params_low(state)
    old_low = jax.tree.map(jnp.zeros_like, new_low) if low is None else low
    change = jax.tree.map(difference_of_pairs, new, new_low, params, old_low)
    movement = jax.tree.map(_movement, change, params)
    info = Info(residual, truncation, inaccurate, movement, **found)
    return Solution(new, new_low, change, state, info)


def _movement(change: Array, old: Array) -> Array:
    """How far a parameter moved relative to its size: 0 if it did not, from 0 infinitely far."""
    moved, size = rms_of(change), rms_of(old.astype(change.dtype))
    return moved / jnp.where((moved == 0) & (size == 0), 1, size)


def _over(moved: Array, missed: Array) -> Array:
    """What was missed in each step, over a movement: in place, as there may be many steps; without a derivative."""
    moved, missed = lax.stop_gradient((moved, missed))
    return replaced_if(always(moved), lambda rows: jnp.where(rows == 0, 0, rows / moved), missed)


def _run(
    problem: Problem, algorithm: Algorithm, steps: int, until: Until | None, graph: Graph, data: Any, state: Any
) -> tuple[Any, tuple[Array, dict[str, Array]], dict[str, Any]]:
    """The last state, the change and the truncation of each step, and what else :class:`Info` says with ``until``."""

    def step(state: Any, _: None) -> tuple[Any, tuple[Array, dict[str, Array]]]:
        new = algorithm.step(problem, state)
        return new, (rms(type(new).changes, new, state), new.truncation)

    if until is None:
        return *lax.scan(step, state, length=steps), {}

    def step_with_gaps(state: Any) -> tuple[Any, Any, dict[str, Array]]:
        new, row = step(state, None)
        return new, row, algorithm.gaps(state, new)

    found = run_until(
        until, steps, step_with_gaps, lambda state: gap_of_outputs(graph, algorithm.params(state), data), state
    )
    gaps = {"outputs": found.gap, **found.latest}
    return found.state, found.rows, {"solved": found.solved, "steps": found.steps, "gaps": gaps}


def evaluate(function: Callable[..., Any], params: Any, *data: Any) -> Any:
    """``function(params, *data)`` on plain arrays, compiled.

    Args:
        function: a network, written with the operations of this package; make it once, as for ``jax.jit``.
        params: its parameters.
        *data: its other arguments.

    Returns:
        What ``function`` returns.

    Raises:
        TypeError: ``function`` is none, such as a problem.
    """
    if not callable(function):
        raise TypeError(f"function is a {type(function).__name__}; pass the network, a function of params and data")
    # jax.jit keeps no function alive, nor what it has captured; but bound methods, made wherever they are read, would
    # be compiled each time.
    compiled = functools.partial(_of_method, function) if inspect.ismethod(function) else jax.jit(function)
    return compiled(params, *data)


@functools.partial(jax.jit, static_argnums=0)
def _of_method(method: Callable[..., Any], params: Any, *data: Any) -> Any:
    return method(params, *data)
