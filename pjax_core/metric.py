"""Metrics of a problem: what it costs to move the values that its constraints hold."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pjax_core.arrays import arguments
from pjax_core.arrays.meshes import shape_of_type
from pjax_core.arrays.messages import described, is_known
from pjax_core.copies import consensus
from pjax_core.copies.shares import log_shares
from pjax_core.graph import costs
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Data, Node, Operation, Parameter
from pjax_core.operations.primitive import side_of

__all__ = ["Metric", "Network", "Product", "by_gaps", "equal_steps", "paper", "relative"]


class Product(NamedTuple):
    """An operation made of dot products of values with whole parameters, its weights.

    Attributes:
        weights: their names: of a recurrence two, else one.
        output: the name of its output.
        x_squared: the mean over all dot products of the sum of squares of their inputs.
        w_squared: that of their weights.
    """

    weights: tuple[str, ...]
    output: str
    x_squared: Array
    w_squared: Array


class Network(NamedTuple):
    """What a metric may depend on: a network as it computes at the start of a run.

    Attributes:
        values: all that may have a cost by name, each after what it is computed from: data as "data[0]", parameters as
            "params['w0']", operations as ``algorithm.describe`` names them, such as "matmul 1".
        parameters: the names of the parameters.
        products: the operations made of dot products with weights, from the input on.
        log_shares: for each parameter the logarithm to base 2 of about which part of what the output constraint asks
            reaches it, where all costs are 1.
    """

    values: Mapping[str, Array]
    parameters: tuple[str, ...]
    products: tuple[Product, ...]
    log_shares: Mapping[str, Array]


Costs: TypeAlias = Mapping[str, ArrayLike]
Metric: TypeAlias = Costs | Callable[[Network], Costs]
"""Costs by name, or a function that gives them; what has none costs 1."""


@dataclass(frozen=True)
class Gaps:
    """A metric of constraints that follows their gaps: see :func:`by_gaps`."""

    gamma: float | Array


@dataclass(frozen=True)
class Given:
    """Costs by name, equal to others by their numbers and the content of their arrays."""

    costs: Costs = field(compare=False)
    key: tuple[Any, ...]

    def __call__(self, network: Network) -> Costs:
        """The same for all networks."""
        del network
        return self.costs


def of_problem(metric: Any) -> Gaps | Callable[[Network], Costs] | None:
    """The metric of a problem, compared as problems are; None for that of the paper."""
    if metric is None or (isinstance(metric, Mapping) and not metric):
        return None
    if any(metric is helper for helper in (paper, relative, equal_steps, by_gaps)):
        raise TypeError(f"metric is the function pj.metric.{metric.__name__}; pass what it returns")
    if isinstance(metric, Gaps) or callable(metric):
        return metric
    if not isinstance(metric, Mapping):
        raise TypeError(f"metric is {described(metric)}; pass costs by name, a function of pj.metric, or None")
    # Arrays of NumPy may be changed later.
    own = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in metric.items()}
    return Given(own, tuple((name, _key(value)) for name, value in own.items()))


def holds_tracers(metric: Any) -> bool:
    """Whether a metric belongs to a function that is being traced."""
    values = metric.costs.values() if isinstance(metric, Given) else [getattr(metric, "gamma", None)]
    return any(isinstance(value, jax.core.Tracer) for value in values)


def paper() -> Metric:
    """The metric of the paper: all that a constraint holds costs 1, which is the default.

    Source: paper, section 3.
    """
    return {}


def by_gaps(gamma: ArrayLike = 1e-3) -> Any:
    """A metric that the gaps drive: the weight of each constraint in means follows its squared gap.

    It is that of ``gamma=`` of the reflecting algorithms (:func:`pjax_core.douglas_rachford` says how), for all of them
    that solve the problem; alternating and cyclic projections, whose copies agree, have none.

    Args:
        gamma: how fast, in (0, 1).

    Raises:
        TypeError: ``gamma`` is not a number.
        ValueError: it is out of range.

    Source: Elser, Lal, arXiv 2602.17493.
    """
    return Gaps(arguments.number_or_traced("gamma", gamma, lambda g: 0 < g < 1, "a number in (0, 1)"))


def equal_steps() -> Metric:
    """Costs of weights by which all layers move by about the same part of their size in a step.

    A weight costs as many times more as it would move further without, beside its size, than that which would move
    least: the layers near the output are held back.  The costs are those of the first values; it is a first-order rule.
    """

    def costs_of(network: Network) -> Costs:
        reach = [
            network.log_shares[product.weights[0]] - 0.5 * jnp.log2(_mean_square(network.values[product.weights[0]]))
            for product in network.products
        ]
        return {
            name: jnp.exp2(of_one - functools.reduce(jnp.minimum, reach))
            for product, of_one in zip(network.products, reach, strict=True)
            for name in product.weights
        }

    return costs_of


def _mean_square(array: Array) -> Array:
    return jnp.maximum(jnp.mean(array**2), jnp.finfo(jnp.float32).tiny)


def relative(b: ArrayLike = 10.0, c: ArrayLike | None = None) -> Metric:
    """Costs of weights in units of their inputs', and of outputs in units of what both let them move.

    With ``|x|^2`` and ``|w|^2`` the mean squares of what enters a dot product, weights cost ``|x|^2/b``, so that they
    take b times what one more unit of input would, whatever the scale of the inputs; with ``c``, outputs cost
    ``1/(c (|w|^2 + b))``: they take c times what inputs and weights take of a residual.

    Args:
        b: how easily weights move, positive.
        c: how easily outputs do, positive; None for a cost of 1.

    Raises:
        TypeError: one of them is not a number.
        ValueError: it is not positive.

    Source: the metric of :func:`pjax_kernels.project_layer`, for single dot products.
    """
    b = arguments.number_or_traced("b", b, lambda b: 0 < b < math.inf, "a positive number")
    if c is not None:
        c = arguments.number_or_traced("c", c, lambda c: 0 < c < math.inf, "a positive number, or None")

    def costs_of(network: Network) -> Costs:
        found: dict[str, ArrayLike] = {}
        for product in network.products:
            found |= dict.fromkeys(product.weights, product.x_squared / b)
            if c is not None:
                found[product.output] = 1 / (c * (product.w_squared + b))
        return found

    return costs_of


def with_metric(
    graph: Graph, layered: Graph, metric: Callable[[Network], Costs], params: Any, data: tuple[Any, ...]
) -> Graph:
    """The graph of a problem, ``layered`` where it has layers, with its metric, for arguments of these shapes."""
    nodes = _named(graph)

    def given(params: Any, data: tuple[Any, ...]) -> dict[Node, ArrayLike]:
        return _checked(metric(_network(graph, layered, nodes, params, data)), nodes)

    found: dict[Node, ArrayLike] = {}

    def look(params: Any, data: tuple[Any, ...]) -> list[ArrayLike]:
        found.update(given(params, data))
        return list(found.values())

    closed = jax.make_jaxpr(look)(*jax.tree.map(shape_of_type, (params, data)))

    def values(params: Any, data: tuple[Any, ...]) -> costs.Values:
        known = given(params, data)
        return lambda node: jnp.asarray(known.get(costs.source_of_cost(node), 1.0), jnp.result_type(float))

    of = {node: costs.Cost(_key(value), jnp.shape(value)) for node, value in found.items()}
    captured = any(isinstance(const, jax.core.Tracer) for const in closed.consts)
    new = costs.with_costs(layered, of, len(jax.tree.leaves(data)), values)
    return replace(new, holds_tracers=new.holds_tracers or captured)


def _key(value: ArrayLike) -> Any:
    """What tells costs apart: the number or the content where it is known, else which array it is."""
    value = arguments.scalar(value)
    if isinstance(value, (np.ndarray, Array)) and is_known(value):
        return value.shape, str(value.dtype), np.asarray(value).tobytes()
    return float(value) if isinstance(value, (int, float, np.integer, np.floating)) else id(value)


def _named(graph: Graph) -> dict[str, Node]:
    """What may have a cost, by name: data whose copies move, parameters, and operations that have an output."""
    data = {
        source.name: source
        for node in graph.nodes
        if isinstance(node, Operation)
        for slot in node.slots[: node.primitive.moving_inputs(len(node.slots))]
        for source in slot.sources
        if isinstance(source, Data)
    }
    others = {
        graph.label(node): node
        for node in graph.nodes
        if costs.source_of_cost(node) is node and not (isinstance(node, Operation) and node.primitive.constrains_output)
    }
    return data | others


def _network(graph: Graph, layered: Graph, nodes: Mapping[str, Node], params: Any, data: tuple[Any, ...]) -> Network:
    start_of = consensus.start(layered, params, data)
    found = log_shares(layered, start_of)
    shares = dict(zip(found.places, found.nodes, strict=True))
    names = {node: name for name, node in nodes.items()}
    return Network(
        values={name: start_of(node) for name, node in nodes.items()},
        parameters=tuple(names[node] for node in graph.parameters),
        products=tuple(product for node in graph.nodes for product in _product(node, names, start_of)),
        log_shares={names[node]: shares[node] for node in graph.parameters},
    )


def _product(node: Node, names: Mapping[Node, str], start_of: Callable[[Node], Array]) -> list[Product]:
    """The operation, if it is made of dot products with whole parameters."""
    bilinear = node.primitive.bilinear if isinstance(node, Operation) else None
    if not isinstance(node, Operation) or bilinear is None:
        return []
    weights = [node.slots[place] for place in bilinear.sides[1]]
    if any(slot.steps or not isinstance(slot.sources[0], Parameter) for slot in weights):
        return []
    x, w = (side_of([slot.read(start_of) for slot in node.slots], side) for side in bilinear.sides)
    x_squared, w_squared = map(jnp.mean, bilinear.squared_norms(x, w, **node.settings))
    least = jnp.finfo(x_squared.dtype).tiny ** 0.5
    names_of_weights = tuple(names[slot.sources[0]] for slot in weights)
    return [Product(names_of_weights, names[node], jnp.maximum(x_squared, least), w_squared)]


def _checked(given: Any, nodes: Mapping[str, Node]) -> dict[Node, ArrayLike]:
    """The costs by node; ``ValueError`` where one is no cost of a value of the network."""
    if not isinstance(given, Mapping):
        raise TypeError(f"metric: the costs are {described(given)}; pass numbers or arrays by the names of values")
    found = {}
    for name, value in given.items():
        if name not in nodes:
            raise ValueError(f"metric: there is no value {name!r} that could have a cost; there are {', '.join(nodes)}")
        node = nodes[name]
        if not _is_real(value):
            raise TypeError(f"metric: the cost of {name} is {described(value)}; pass a positive number")
        if is_known(value) and not np.all((np.asarray(value) > 0) & np.isfinite(np.asarray(value))):
            raise ValueError(f"metric: the cost of {name} is {described(value)}; pass positive finite numbers")
        shape = jnp.shape(value)
        if shape not in ((), node.shape.shape):
            raise ValueError(
                f"metric: the cost of {name} is of shape {shape}; pass one number, or an array of its shape "
                f"{node.shape.shape}"
            )
        found[node] = value
    return found


def _is_real(value: Any) -> bool:
    """Whether this is a real number, or an array of such."""
    try:
        dtype = jnp.result_type(value)
    except TypeError:
        return False
    return value is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer))
