"""Whole-layer constraints: all dot products of an operation as one, with one copy of its inputs and outputs."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import pjax_kernels as pk
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Node, Operation, Parameter
from pjax_core.operations import primitives
from pjax_core.operations.primitive import Batching, Primitive, Projected, Sides, as_they_are, in_places, side_of
from pjax_kernels.compose import LAYER_RULES, is_layer, layer_metric


@dataclass(frozen=True)
class Layer:
    """How the layers of a problem are projected: the settings of :func:`pjax_kernels.project_layer`.

    Attributes:
        rule: "rank one", "apart" or "coupled".
        b: how easily weights move.
        c: how easily outputs do, of "coupled".
        steps: of conjugate gradients, of "apart" and "coupled".
    """

    rule: str = "rank one"
    b: float = 10.0
    c: float = 10.0
    steps: int = 3

    def __post_init__(self) -> None:
        if self.rule not in LAYER_RULES:
            raise ValueError(f"Layer: rule is {self.rule!r}; pass one of {', '.join(map(repr, LAYER_RULES))}")


def with_layers(graph: Graph, layer: Layer) -> Graph:
    """The graph in which the operations that are layers have one constraint each."""
    # Slots go on to refer to the nodes as they were: rebuilt ones equal them.
    rebuilt: dict[Node, Operation] = {
        node: _with_layer(node, layer) for node in graph.nodes if isinstance(node, Operation)
    }
    return replace(
        graph,
        nodes=tuple(rebuilt.get(node, node) for node in graph.nodes),
        consumers={node: tuple(rebuilt[user] for user in users) for node, users in graph.consumers.items()},
    )


def _with_layer(node: Operation, layer: Layer) -> Operation:
    """The operation with one constraint, where it is a layer."""
    if node.primitive.bilinear is None:
        return node
    if node.primitive is primitives.matmul_transposed:
        return replace(node, primitive=_of_stored_rows(as_layer(primitives.matmul, layer, not node.slots[0].is_fixed)))
    sides, shapes = node.primitive.bilinear.sides, [slot.shape for slot in node.slots]
    x_moves = not all(node.slots[place].is_fixed for place in sides[0])
    if node.primitive is primitives.einsum and all(isinstance(source, Parameter) for source in node.slots[1].sources):
        left, _, output = _labels(node.settings["equation"])
        if output and output[-1] not in left:  # which weights alone have: their columns
            return replace(node, primitive=_as_layers(layer, x_moves, node.settings["equation"]), settings={})
    function = functools.partial(_function(node.primitive), **node.settings)
    if not is_layer(function, *(side_of(shapes, side) for side in sides)):
        return node
    return replace(node, primitive=as_layer(node.primitive, layer, x_moves))


def _labels(equation: str) -> list[str]:
    """Of both operands of an einsum and of its output."""
    return re.split(",|->", equation)


def _blocks(equation: str) -> str:
    """The axes of an einsum along which each entry is a layer with weights of its own, as in a loop over layers."""
    left, right, output = _labels(equation)
    return "".join(label for label in output if label in left and label in right)


def _by_columns(equation: str) -> tuple[str, int]:
    """The equation with the last axis of the output as the last one of the weights, too, and where they have it."""
    left, right, output = _labels(equation)
    return f"{left},{right.replace(output[-1], '')}{output[-1]}->{output}", right.index(output[-1])


@functools.lru_cache(maxsize=256)
def as_layer(primitive: Primitive, layer: Layer, moves_x: bool) -> Primitive:
    """The operation with one copy of each of its inputs, projected as a whole; without ``moves_x`` they are held."""
    assert primitive.bilinear is not None
    sides, function = primitive.bilinear.sides, _function(primitive)

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> Projected:
        x, w = (side_of(inputs, side) for side in sides)
        *changes, output_change = pk.project_layer(
            functools.partial(function, **settings) if settings else function,
            x,
            w,
            output,
            rule=layer.rule,
            b=layer.b,
            c=layer.c,
            steps=layer.steps,
            moves_x=moves_x,
            residual=residual,
            increments=True,
        )
        return in_places(changes, sides), output_change

    return Primitive(
        f"{primitive.name} as a layer",
        primitive.forward,
        project,
        as_they_are,
        primitive.increment,
        batching=primitive.batching,
        shares=functools.partial(_shares, layer, sides, function),
        rows=functools.partial(_rows, sides, function),
        units=functools.partial(_units, sides) if layer.rule == "coupled" else None,
        alike=((*sides[0], -1), sides[1]),
    )


@functools.lru_cache(maxsize=256)
def _of_stored_rows(layer: Primitive) -> Primitive:
    """A dense layer whose weights are stored (out, in)."""
    assert layer.shares is not None
    shares = layer.shares

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
        x, w = inputs
        (x_change, w_change), output_change = layer.project((x, w.T), output, residual)
        assert output_change is not None
        return (x_change, w_change.T), output_change

    return replace(
        layer,
        forward=primitives.matmul_transposed.forward,
        project=project,
        increment=primitives.matmul_transposed.increment,
        shares=lambda x, w: shares(x, w.T),
        rows=lambda x, w: (1, x.shape[0]),
    )


@functools.lru_cache(maxsize=256)
def _as_layers(layer: Layer, moves_x: bool, equation: str) -> Primitive:
    """An einsum of which each entry along the axes that inputs, weights and outputs have is projected as a layer."""
    of_one, blocks = as_layer(primitives.einsum, layer, moves_x), _blocks(equation)
    assert of_one.shares is not None
    shares_of_one = of_one.shares

    def project_one(x: Array, w: Array, z: Array, residual: Array | None, parts: Any, equation: str) -> Any:
        by_columns, place = _by_columns(equation)
        inputs = x, jnp.moveaxis(w, place, -1)
        (x_change, w_change), z_change = of_one.project(inputs, z, residual, equation=by_columns)
        of_x, of_w = parts
        return of_x * x_change, of_w * jnp.moveaxis(w_change, -1, place), z_change

    def shares_of_blocks(x: Array, w: Array) -> Any:
        def shares(x: Array, w: Array, z: None, residual: None, parts: None, equation: str) -> Any:
            by_columns, place = _by_columns(equation)
            return shares_of_one(x, jnp.moveaxis(w, place, -1), equation=by_columns)

        return _blockwise(shares, equation, blocks, True)(x, w, None, None, None)

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
        ones = jnp.ones([output.shape[_labels(equation)[2].index(label)] for label in blocks], output.dtype)
        *changes, output_change = _blockwise(project_one, equation, blocks)(*inputs, output, residual, (ones, ones))
        return tuple(changes), output_change

    def project_tangent(inputs: tuple[Array, ...], residual: Array) -> Projected:
        """As if each were asked as much more as it hands on less than the mean."""
        parts = tuple((jnp.mean(part) / part).astype(residual.dtype) for part in shares_of_blocks(*inputs))
        *changes, output_change = _blockwise(project_one, equation, blocks)(*inputs, residual, residual, parts)
        return tuple(changes), output_change

    return replace(
        of_one,
        name=f"layers of {equation}" if blocks else of_one.name,
        forward=functools.partial(of_one.forward, equation=equation),
        project=project,
        project_tangent=project_tangent,
        increment=of_one.increment and functools.partial(of_one.increment, equation=equation),
        shares=lambda x, w: tuple(map(jnp.mean, shares_of_blocks(x, w))),
        rows=lambda x, w: (1, _rows_of_block(equation, x, w)),
        batching=Batching.EACH,
    )


def _rows_of_block(equation: str, x: Any, w: Any) -> Any:
    """As :func:`_rows` of a block."""
    left, right, output = _labels(equation)
    sizes = dict(zip(left + right, (*x.shape, *w.shape), strict=True))
    return math.prod(sizes[label] for label in output[:-1] if label not in _blocks(equation))


def _blockwise(
    function: Callable[..., Any], equation: str, blocks: str, of_numbers: bool = False
) -> Callable[..., Any]:
    """``function(x, w, z, residual, numbers, equation)`` for each entry along the axes ``blocks``.

    Numbers have these axes first, as have results that are numbers; others are as ``x``, ``w`` and ``z``.
    """
    if not blocks:
        return functools.partial(function, equation=equation)
    of_x, of_w, of_z = (labels.index(blocks[0]) for labels in _labels(equation))
    inside = _blockwise(function, equation.replace(blocks[0], ""), blocks[1:], of_numbers)
    return jax.vmap(inside, (of_x, of_w, of_z, of_z, 0), 0 if of_numbers else (of_x, of_w, of_z))


def _units(sides: Sides, costs: Sequence[Array]) -> tuple[Array, ...]:
    """What weights cost beside inputs, whose cost is the output's: the metric of "coupled" is relative to both."""
    of_weights = jnp.sqrt(costs[sides[1][0]] / costs[sides[0][0]])
    one = jnp.ones_like(of_weights)
    return (*(of_weights if place in sides[1] else one for place in range(len(costs) - 1)), of_weights)


def _function(primitive: Primitive) -> Callable[..., Array]:
    """The bilinear map of both sides."""
    assert primitive.bilinear is not None
    sides = primitive.bilinear.sides
    if sides == ((0,), (1,)):
        return primitive.forward
    return lambda x, w, **settings: primitive.forward(*in_places((x, w), sides), **settings)


def _rows(sides: Sides, function: Callable[..., Array], *shapes: Any, **settings: Any) -> tuple[Any, ...]:
    """Of weights those of the output, as large as it is beside its last axis; inputs are no means."""
    output = jax.eval_shape(functools.partial(function, **settings), *(side_of(shapes, side) for side in sides))
    rows = output.size // max(output.shape[-1], 1)
    return tuple(1 if place in sides[0] else rows for place in range(len(shapes)))


def _shares(
    layer: Layer, sides: Sides, function: Callable[..., Array], *inputs: Array, **settings: Any
) -> tuple[float | Array, ...]:
    """About which part of a residual reaches each input; weights besides by their rows, as the mean of copies."""
    x, w = (side_of(inputs, side) for side in sides)
    output = jax.eval_shape(functools.partial(function, **settings), x, w)
    rows, x_squared, w_squared = layer_metric(x, w, output)
    if layer.rule == "coupled":
        mobility = layer.b / (rows * x_squared)
        of_all = 1 / ((1 + layer.c) * (w_squared + layer.b / rows))
        of_x, of_w = of_all, rows * mobility * of_all
    else:
        of_x, of_w = 1 / (1 + w_squared), 1 / x_squared
    return tuple(of_x if place in sides[0] else of_w for place in range(len(inputs)))
