"""A function as a feasibility problem: its graph, traced once and kept."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from pjax_core import metric as metrics
from pjax_core.arrays import arguments
from pjax_core.graph.computed import Fixed
from pjax_core.graph.graph import Graph
from pjax_core.graph.layers import Layer, with_layers
from pjax_core.trace.jaxpr import trace
from pjax_core.trace.named.losses import require_labels


@dataclass(frozen=True)
class Problem:
    """A feasibility problem: find parameters such that ``function(params, *data)`` can hold.

    Two problems are the same if their functions are, as for :func:`jax.jit`: a lambda made in a loop is a new one.
    ``layer`` says how layers are constraints of their own; None for one constraint for each dot product.
    ``metric`` says what values cost, None for 1 (:func:`pjax_core.metric.of_problem`).
    ``has_aux`` says whether the function returns a pair, of which the first is the output constraint.
    """

    function: Callable[..., Any]
    layer: Layer | None = None
    metric: Any = None
    has_aux: bool = False
    _graphs: dict[Any, Graph] = field(default_factory=dict, init=False, repr=False, compare=False)
    _captured: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """"tracers" if the function was found to have captured some, which no cache must keep."""

    def __post_init__(self) -> None:
        if metrics.holds_tracers(self.metric):
            self._captured.add("tracers")

    @property
    def gamma(self) -> Any:
        """How fast the metric follows the gaps, 0 if it does not."""
        return self.metric.gamma if isinstance(self.metric, metrics.Gaps) else 0.0

    def graph(self, params: Any, data: tuple[Any, ...] | Fixed, *, apart: bool = False) -> Graph:
        """The graph for arguments of these shapes, traced once and kept; with ``apart`` all operations in A."""
        given = data.given if isinstance(data, Fixed) else data
        leaves, structure = jax.tree.flatten((params, given))
        config: Any = jax.config
        settings = (config.jax_enable_x64, config.jax_numpy_dtype_promotion)
        key = (structure, tuple(map(jax.typeof, leaves)), settings, apart)
        if key not in self._graphs:
            graph = plain = trace(self._constraint, params, given, apart)
            if self.layer is not None:
                graph = with_layers(graph, self.layer)
            if self.metric is not None and not isinstance(self.metric, metrics.Gaps):
                graph = metrics.with_metric(plain, graph, self.metric, params, given)
            if graph.holds_tracers or self._captured:  # which belong to the function that is traced just now
                self._captured.add("tracers")
                return graph
            self._graphs[key] = graph
        return self._graphs[key]

    def _constraint(self, *arguments: Any) -> Any:
        """The output constraint that the function returns."""
        return _pair(self.function(*arguments))[0] if self.has_aux else self.function(*arguments)

    def aux(self, *arguments: Any) -> Any:
        """What the function returns besides."""
        return _pair(self.function(*arguments))[1]

    def __reduce__(self) -> tuple[type[Problem], tuple[Callable[..., Any], Layer | None, Any, bool]]:
        return Problem, (self.function, self.layer, self.metric, self.has_aux)


def _pair(returned: Any) -> tuple[Any, Any]:
    """What a function with ``has_aux`` returns; ``TypeError`` where it is no pair."""
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise TypeError(
            f"with has_aux=True the function must return a pair, an output constraint and what else there is, but it "
            f"returned one {type(returned).__name__}"
        )
    return returned[0], returned[1]


def compiled(*static_argnums: int, inline: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function of a problem that is compiled once for it; inlined where it has captured tracers.

    With ``inline`` programs that call it do not copy what it returns as it came, such as data.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def allowed(*arguments: Any) -> Any:
            # What meets inside is right: what a user forbids is promotion in the user's own function.
            with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
                return function(*arguments)

        jitted = jax.jit(allowed, static_argnums=(0, *static_argnums), inline=inline)

        @functools.wraps(function)
        def call(problem: Problem, *arguments: Any) -> Any:
            return (allowed if problem._captured else jitted)(problem, *arguments)

        return call

    return decorate


def feasibility(
    function: Callable[..., Any], *, dot_products: str | Layer = "each", metric: Any = None, has_aux: bool = False
) -> Problem:
    """The problem of finding parameters that satisfy the output constraint which ``function`` returns.

    Args:
        function: ``function(params, *data)``, written with the operations of this package, returns an output
            constraint (``cross_entropy``, ``margin_loss``), or a tree of several.  It is traced by shape; ``params``
            is any tree of floating-point arrays, each argument after it a tree of arrays that stay fixed: of
            floating-point numbers, or of integers that :func:`embedding` and indexing take.

        dot_products: "each" for one constraint for each dot product, which holds copies of its own of all its entries
            (the paper's), or "layer" for one for each whole layer (:class:`Layer`, which says how): a dense layer, a
            convolution, a recurrence, an einsum like these.  Products of other kinds have one each all the same.
        metric: what it costs to move the values that constraints hold: positive numbers, or arrays in the shape of a
            value, by the names that :class:`pjax_core.metric.Network` gives; what is not named costs 1, as in the
            paper.  Or a function of a network that returns these, such as those of :mod:`pjax_core.metric`.  A
            constraint is projected to the point with the least sum of squared changes, each times its cost; all
            copies of a value cost the same, so that they agree on plain means.  Costs may be
            traced: then one that is not positive makes what it touches NaN.
        has_aux: whether the function returns a pair, an output constraint and a tree of arrays that
            :func:`value_and_direction` is to return beside the value, such as logits, or running statistics.

    Returns:
        The problem. Compiled code is kept for each function: make a lambda once, outside loops, as for ``jax.jit``.

    Raises:
        TypeError: the costs are no numbers or arrays by name.
        ValueError: ``dot_products`` is none of these, or a cost is not positive; in use, where there is no such value,
            or an operation has no projection with its costs: products take one number for each of their values,
            and operations that have none need values of one cost.

    Source: paper, section 3.
    """
    try:
        hash(function)
    except TypeError:  # an object that compares by content: this one alone then
        function = functools.partial(function)
    if not isinstance(dot_products, Layer) and dot_products not in ("each", "layer"):
        raise ValueError(f'dot_products is {dot_products!r}; pass "each", "layer", or pj.Layer(...)')
    named = {"each": None, "layer": Layer()}
    layer = dot_products if isinstance(dot_products, Layer) else named[dot_products]
    problem = Problem(function, layer, metrics.of_problem(metric), has_aux)
    if problem._captured:
        return problem
    return _problems.setdefault((problem.function, problem.layer, problem.metric, has_aux), problem)


_problems: weakref.WeakValueDictionary[tuple[Any, ...], Problem] = weakref.WeakValueDictionary()
"""Those in use, so that a loop that makes them anew traces nothing anew."""


def checked_arguments(problem: Problem, params: Any, data: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Parameters and data as arrays, which the problem takes, with labels that its output constraints take."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem is of type {type(problem).__name__}; pass pj.feasibility(function) before params and data"
        )
    params, data = arguments.problem_arguments(params, data)
    require_labels(problem.graph(params, data), data)
    return params, data
