"""The loop: run an algorithm for a number of steps and report on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core import checks
from pjax_core.algorithms import Algorithm
from pjax_core.graph import Constraint
from pjax_core.solution import Problem, State


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Info:
    """What happened: ``residual`` (steps,) is the root mean square change of the state in each step."""

    residual: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Solution:
    """The outcome of :func:`solve`.

    Attributes:
        params: the parameters, structured like those given.
        params_low: what rounding took from them; give it to the next :func:`solve` to go on without loss.
        state: the algorithm's last state.
        info: see :class:`Info`.
    """

    params: Any
    params_low: Any
    state: State
    info: Info


def feasibility(function: Callable[..., Constraint]) -> Problem:
    """The problem of finding parameters that satisfy the output constraint which ``function`` returns.

    Args:
        function: ``function(params, *data)``, written with the operations of this package, returns an output
            constraint (``cross_entropy``, ``margin_loss``), or a tree of several.  It is traced by shape; ``params``
            is any tree of floating-point arrays, each argument after it a tree of arrays that stay fixed.

    Returns:
        The problem, to be made once: compiled code is kept for each.

    Source: paper, section 3.
    """
    return Problem(function)


def solve(
    problem: Problem,
    params: Any,
    *data: Any,
    algorithm: Algorithm,
    steps: int,
    params_low: Any = None,
) -> Solution:
    """Run ``steps`` steps of an algorithm from the network's own computation.

    Args:
        problem: from :func:`feasibility`.
        params: a tree of floating-point arrays.
        *data: what else the problem's function takes, in floating-point arrays.
        algorithm: such as :func:`alternating_projections`, made once.
        steps: how many, not negative.
        params_low: ``solution.params_low`` of the run that gave ``params``, or None.

    Returns:
        A :class:`Solution`.

    Raises:
        TypeError: an array is not floating-point.
        ValueError: an array is not finite (checked where its content is known, so not under ``jax.jit``), a parameter
            is never used, the function does not return output constraints, or shapes do not fit.

    Source: paper, section 4.
    """
    steps = checks.number_of_steps(steps)
    params, data = checks.problem_arguments(params, data)
    checks.low_part(params, params_low)
    return _solve(problem, algorithm, steps, params, data, params_low)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(
    problem: Problem, algorithm: Algorithm, steps: int, params: Any, data: tuple[Any, ...], low: Any
) -> Solution:
    def step(state: State, _: None) -> tuple[State, Array]:
        new = algorithm.step(problem, state)
        return new, _rms_change(state, new)

    state = algorithm.init(problem, params, *data, params_low=low)
    state, residual = lax.scan(step, state, length=steps)
    return Solution(algorithm.params(state), algorithm.params_low(state), state, Info(residual))


def _rms_change(old: State, new: State) -> Array:
    """The root mean square difference of two states over their parameters and the values of their nodes."""

    def parts(state: State) -> list[Array]:
        return jax.tree.leaves((state.low, state.values, state.targets))

    # The high parts stay as they are during a run.
    changes = [after - before for before, after in zip(parts(old), parts(new), strict=True)]
    return jnp.sqrt(sum(jnp.sum(change**2) for change in changes) / sum(change.size for change in changes))


@functools.partial(jax.jit, static_argnums=0)
def evaluate(function: Callable[..., Any], params: Any, *data: Any) -> Any:
    """``function(params, *data)`` on plain arrays, compiled.

    Args:
        function: a network, written with the operations of this package; make it once, as for ``jax.jit``.
        params: its parameters.
        *data: its other arguments.

    Returns:
        What ``function`` returns.
    """
    return function(params, *data)
