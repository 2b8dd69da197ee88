"""A function as a feasibility problem: its graph, traced once and kept."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from pjax_core.graph.colour import Graph
from pjax_core.graph.computed import Fixed
from pjax_core.trace.jaxpr import trace


@dataclass(frozen=True)
class Problem:
    """A feasibility problem: find parameters such that ``function(params, *data)`` can hold.

    Two problems are the same if their functions are, as for :func:`jax.jit`: a lambda made in a loop is a new one.
    """

    function: Callable[..., Any]
    _graphs: dict[Any, Graph] = field(default_factory=dict, init=False, repr=False, compare=False)

    def graph(self, params: Any, data: tuple[Any, ...] | Fixed) -> Graph:
        """The graph for arguments of these shapes, traced once and kept."""
        given = data.given if isinstance(data, Fixed) else data
        leaves, structure = jax.tree.flatten((params, given))
        config: Any = jax.config
        settings = (config.jax_enable_x64, config.jax_numpy_dtype_promotion)
        key = (structure, tuple(map(jax.typeof, leaves)), settings)
        if key not in self._graphs:
            graph = trace(self.function, params, given)
            if graph.holds_tracers:  # which belong to the function that is traced just now
                return graph
            self._graphs[key] = graph
        return self._graphs[key]

    def __reduce__(self) -> tuple[type[Problem], tuple[Callable[..., Any]]]:
        return Problem, (self.function,)


def feasibility(function: Callable[..., Any]) -> Problem:
    """The problem of finding parameters that satisfy the output constraint which ``function`` returns.

    Args:
        function: ``function(params, *data)``, written with the operations of this package, returns an output
            constraint (``cross_entropy``, ``margin_loss``), or a tree of several.  It is traced by shape; ``params``
            is any tree of floating-point arrays, each argument after it a tree of arrays that stay fixed: of
            floating-point numbers, or of integers that :func:`embedding` and indexing take.

    Returns:
        The problem. Compiled code is kept for each function: make a lambda once, outside loops, as for ``jax.jit``.

    Source: paper, section 3.
    """
    try:
        hash(function)
    except TypeError:  # an object that compares by content: this one alone then
        function = functools.partial(function)
    problem = _problems.get(function)
    if problem is None:
        problem = _problems[function] = Problem(function)
    return problem


_problems: weakref.WeakValueDictionary[Callable[..., Any], Problem] = weakref.WeakValueDictionary()
"""Those in use, so that a loop that makes them anew traces nothing anew."""


def require_problem(problem: Any) -> None:
    """Raise ``TypeError`` unless the argument is a problem."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem is of type {type(problem).__name__}; pass pj.feasibility(function) before params and data"
        )
