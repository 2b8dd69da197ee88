"""Projections in consensus form against an oracle that stores every copy.

``StoredCopies`` follows the paper's section 3 by the letter and shares with the package only the elementary
projections, in their textbook implementation.  An array of the oracle's network is an array of element numbers, so
that views are NumPy's own.  Each network is written once, for both: ``ops`` is the package or the oracle, and
``ops.identity`` stands where the package has to insert an identity by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pjax_core as pj
import pjax_kernels as pk

pytestmark = pytest.mark.usefixtures("float64")

Elements = NDArray[np.int64]
Copies = NDArray[np.float64]
STEPS = 4
STRENGTH = 3.0


@dataclass(eq=False)
class Operation:
    """A constraint between its copies of the elements in each slot and its output elements."""

    slots: list[Elements]
    copies: list[Copies]
    output: Elements
    forward: Callable[..., Any]
    project: Callable[[list[Copies], Copies], tuple[Any, Any]]


class StoredCopies:
    """A network in which every input slot of every operation holds its own copy."""

    def __init__(self) -> None:
        self.values = np.zeros(0)
        self.fixed: set[int] = set()
        self.parameters: list[Elements] = []
        self.operations: list[Operation] = []

    def new_elements(self, values: Any) -> Elements:
        values = np.asarray(values, np.float64)
        first = len(self.values)
        self.values = np.concatenate([self.values, values.ravel()])
        return np.arange(first, len(self.values)).reshape(values.shape)

    def parameter(self, values: Any) -> Elements:
        self.parameters.append(self.new_elements(values))
        return self.parameters[-1]

    def data(self, values: Any) -> Elements:
        elements = self.new_elements(values)
        self.fixed.update(elements.ravel().tolist())
        return elements

    def operation(self, project: Any, forward: Any, *slots: Any) -> Elements:
        slots = [slot if isinstance(slot, np.ndarray) else np.asarray(slot) for slot in slots]
        copies = [self.values[slot] for slot in slots]
        output = self.new_elements(forward(*copies))
        self.operations.append(Operation(slots, copies, output, forward, project))
        return output

    # The operations, as the package names them.

    def dot(self, a: Elements, b: Elements) -> Elements:
        return self.operation(
            lambda copies, z: _inputs_and_output(pk.project_bilinear(*copies, z, implementation="reference")),
            lambda a, b: np.sum(a * b, axis=-1),
            a,
            b,
        )

    def matmul(self, x: Elements, w: Elements) -> Elements:
        columns = w[:, None] if w.ndim == 1 else w
        shape = (*x.shape[:-1], columns.shape[1], x.shape[-1])
        product = self.dot(np.broadcast_to(x[..., None, :], shape).copy(), np.broadcast_to(columns.T, shape).copy())
        return product[..., 0] if w.ndim == 1 else product

    def add(self, *operands: Elements) -> Elements:
        return self.operation(
            lambda copies, z: pk.project_sum(copies, z, implementation="reference"),
            lambda *inputs: sum(inputs),
            *np.broadcast_arrays(*operands),
        )

    def identity(self, x: Elements) -> Elements:
        return self.add(x)

    def sum_relu(self, *operands: Elements) -> Elements:
        return self.operation(
            lambda copies, z: pk.project_sum_relu(copies, z, implementation="reference"),
            lambda *inputs: np.maximum(sum(inputs), 0),
            *np.broadcast_arrays(*operands),
        )

    def relu(self, x: Elements) -> Elements:
        return self.sum_relu(x)

    def margin_loss(self, logits: Elements, labels: Elements) -> Elements:
        wanted = self.values[labels]
        return self.operation(
            lambda copies, _: ([pk.project_margin(copies[0], wanted, implementation="reference")], None),
            lambda logits: [],
            logits,
        )

    def cross_entropy(self, logits: Elements, labels: Elements) -> Elements:
        wanted = self.values[labels]
        return self.operation(
            lambda copies, _: (
                [pk.prox_cross_entropy(copies[0], wanted, strength=STRENGTH, implementation="reference")],
                None,
            ),
            lambda logits: [],
            logits,
        )

    stack = staticmethod(np.stack)
    concatenate = staticmethod(np.concatenate)
    broadcast_to = staticmethod(np.broadcast_to)

    # The projections.

    def project(self, node: Operation | int) -> None:
        """Project one operation, or the parameter of a number, and write the result into its consumers' copies."""
        if isinstance(node, int):
            elements = self.parameters[node]
            self.values[elements] = self.estimate()[elements]
        else:
            elements = node.output
            # Where nothing reads an output, it is free, and its constraint holds already.
            estimate = self.estimate()[elements]
            free = np.isnan(estimate)
            new, output = node.project(node.copies, np.where(free, node.forward(*node.copies), estimate))
            node.copies = [np.array(copies) for copies in new]
            if output is not None:
                self.values[elements] = output
            self.write(np.array(sorted(self.fixed), int))
        self.write(elements)

    def write(self, elements: Elements) -> None:
        for operation in self.operations:
            for slot, copies in zip(operation.slots, operation.copies, strict=True):
                written = np.isin(slot, elements)
                copies[written] = self.values[slot[written]]

    def estimate(self) -> Copies:
        """Of each element, the mean over the operations that hold it of the mean over their copies; NaN if none."""
        total, holders = np.zeros_like(self.values), np.zeros_like(self.values)
        for operation in self.operations:
            own_total, own_count = np.zeros_like(total), np.zeros_like(total)
            for slot, copies in zip(operation.slots, operation.copies, strict=True):
                np.add.at(own_total, slot, copies)
                np.add.at(own_count, slot, 1)
            total += own_total / np.maximum(own_count, 1)
            holders += own_count > 0
        return np.where(holders > 0, total / np.maximum(holders, 1), np.nan)

    def layers(self) -> list[list[Operation | int]]:
        """Operations and parameters by their distance from the nearest output constraint."""
        distance = np.full(len(self.values), 10**6)
        outputs = dict.fromkeys(range(len(self.parameters)), None) | dict.fromkeys(self.operations, None)
        layer_of: dict[Operation | int, int] = {}
        for node in reversed(outputs):
            own = self.parameters[node] if isinstance(node, int) else node.output
            layer_of[node] = int(min(distance[own].ravel(), default=0))
            if isinstance(node, Operation):
                for slot in node.slots:
                    distance[slot] = np.minimum(distance[slot], layer_of[node] + 1)
        self.require_two_colours(layer_of)
        return [[n for n in outputs if layer_of[n] == d] for d in range(max(layer_of.values()) + 1)]

    def require_two_colours(self, layer_of: dict[Operation | int, int]) -> None:
        """Neighbours are at distances of different parity: an identity would be missing, or one too many."""
        parity = np.full(len(self.values), -1)
        for node, layer in layer_of.items():
            parity[self.parameters[node] if isinstance(node, int) else node.output] = layer % 2
        for node, layer in layer_of.items():
            for slot in node.slots if isinstance(node, Operation) else []:
                assert not np.any(parity[slot] == layer % 2)

    def alternating_projections(self, steps: int) -> list[Copies]:
        layers = self.layers()
        for _ in range(steps):
            for colour in (layers[::2], layers[1::2]):
                for node in sum(colour, []):
                    self.project(node)
        # A parameter in A is the mean of its copies; one in B the mean that its own projection produced.
        in_a = {node for layer in layers[::2] for node in layer if isinstance(node, int)}
        estimate = self.estimate()
        return [
            (estimate if number in in_a else self.values)[elements] for number, elements in enumerate(self.parameters)
        ]

    def cyclic_projections(self, steps: int) -> list[Copies]:
        for _ in range(steps):
            for layer in self.layers():
                for node in layer:
                    self.project(node)
        return [self.values[elements] for elements in self.parameters]


def _inputs_and_output(projected: tuple[Any, Any, Any]) -> tuple[list[Any], Any]:
    a, b, z = projected
    return [a, b], z


# The networks: ``network(ops, params, x, y)``, with the shapes of the arrays.


@dataclass(frozen=True)
class Network:
    function: Callable[..., Any]
    params: dict[str, tuple[int, ...]]
    x: tuple[int, ...]
    y: tuple[int, ...]


def mlp(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    h = ops.sum_relu(p["b1"], ops.matmul(h, p["w1"]))
    return ops.margin_loss(ops.matmul(h, p["w2"]), y)


def mlp_with_output_bias(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    return ops.cross_entropy(ops.add(ops.matmul(h, p["w1"]), p["b1"]), y)


def skip_connection(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    h = ops.sum_relu(ops.matmul(ops.identity(h), p["w1"]), p["b1"], h)
    return ops.cross_entropy(ops.matmul(h, p["w2"]), y)


def weight_used_twice(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b"])
    h = ops.sum_relu(ops.matmul(h, p["w"]), p["b"])
    h = ops.sum_relu(ops.matmul(h, p["w"]), p["b"])
    return ops.margin_loss(ops.matmul(h, p["w2"]), y)


def tied_autoencoder(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w"]), p["b"])
    return ops.margin_loss(ops.matmul(h, p["w"].T), y)


def overlapping_views(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.matmul(x, p["w0"]))
    wide = ops.concatenate([h[:, 2:], p["c"], h[:, :4], h[:, ::-1]], axis=1)
    return ops.cross_entropy(ops.matmul(wide, p["w1"]), y)


def parameter_used_in_parts(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w"][:4]), p["b"][:3])
    h = ops.sum_relu(ops.matmul(h, p["w"][3:8].T), p["b"][np.array([2, 3, 0, 4, 1])])
    return ops.margin_loss(ops.matmul(h, p["w"][4:]), y)


def stacked_columns(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.matmul(x, ops.stack([p["u"], p["v"], p["u"], p["t"]], axis=1)))
    return ops.cross_entropy(ops.matmul(h, p["w1"]), y)


def broadcast_views(ops: Any, p: Any, x: Any, y: Any) -> Any:
    bias = ops.broadcast_to(p["b"], (6, 5))
    h = ops.sum_relu(ops.matmul(x, p["w0"]), bias, p["column"])
    scaled = ops.matmul(h, ops.broadcast_to(p["row"].reshape(5, 1), (5, 3)))
    return ops.margin_loss(scaled, y)


def features_times_themselves(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.matmul(x, p["w"]))
    return ops.cross_entropy(ops.matmul(h, h.T), y)


def dot_products(ops: Any, p: Any, x: Any, y: Any) -> Any:
    rows = [ops.stack([ops.dot(x[i], p["u"]), ops.dot(p["v"], x[i]), ops.dot(p["u"], p["v"])]) for i in range(4)]
    return ops.margin_loss(ops.stack(rows), y)


def bias_of_both_colours(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b"])
    h = ops.sum_relu(h, ops.identity(p["b"]))
    return ops.margin_loss(ops.matmul(h, p["w1"]), y)


def chain_of_products(ops: Any, p: Any, x: Any, y: Any) -> Any:
    return ops.cross_entropy(ops.matmul(ops.matmul(x, p["w0"]), p["w1"]), y)


def weight_of_both_colours(ops: Any, p: Any, x: Any, y: Any) -> Any:
    return ops.margin_loss(ops.matmul(ops.matmul(x, ops.identity(p["w"])), p["w"]), y)


def parameter_at_the_loss(ops: Any, p: Any, x: Any, y: Any) -> Any:
    logits = ops.concatenate([ops.matmul(x, p["w"]), p["free"]], axis=1)
    return ops.cross_entropy(logits, y)


def batch_axes(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    gate = ops.matmul(h, p["v"])
    logits = ops.matmul(h, p["w1"])
    return ops.cross_entropy(ops.add(logits, gate.reshape(2, 3, 1)), y)


def two_losses(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    return {
        "classes": ops.cross_entropy(ops.matmul(h, p["w1"]), y),
        "margin": ops.margin_loss(ops.matmul(h[:, 1:], p["w2"]), y[:, :2]),
    }


def unread_outputs(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    return ops.margin_loss(ops.matmul(h[:, 1:], p["w1"]), y)


NETWORKS = {
    network.function.__name__: network
    for network in [
        Network(mlp, {"w0": (7, 6), "b0": (6,), "w1": (6, 5), "b1": (5,), "w2": (5, 3)}, (8, 7), (8, 3)),
        Network(mlp_with_output_bias, {"w0": (5, 4), "b0": (4,), "w1": (4, 3), "b1": (3,)}, (6, 5), (6, 3)),
        Network(
            skip_connection,
            {"w0": (5, 4), "b0": (4,), "w1": (4, 4), "b1": (4,), "w2": (4, 3)},
            (6, 5),
            (6, 3),
        ),
        Network(weight_used_twice, {"w0": (5, 4), "b": (4,), "w": (4, 4), "w2": (4, 3)}, (6, 5), (6, 3)),
        Network(tied_autoencoder, {"w": (6, 4), "b": (4,)}, (7, 6), (7, 6)),
        Network(overlapping_views, {"w0": (4, 5), "c": (6, 2), "w1": (14, 3)}, (6, 4), (6, 3)),
        Network(parameter_used_in_parts, {"w": (9, 3), "b": (5,)}, (5, 4), (5, 3)),
        Network(stacked_columns, {"u": (4,), "v": (4,), "t": (4,), "w1": (4, 3)}, (6, 4), (6, 3)),
        Network(broadcast_views, {"w0": (4, 5), "b": (5,), "column": (6, 1), "row": (5,)}, (6, 4), (6, 3)),
        Network(features_times_themselves, {"w": (4, 5)}, (6, 4), (6, 6)),
        Network(dot_products, {"u": (5,), "v": (5,)}, (4, 5), (4, 3)),
        Network(bias_of_both_colours, {"w0": (5, 4), "b": (4,), "w1": (4, 3)}, (6, 5), (6, 3)),
        Network(chain_of_products, {"w0": (5, 4), "w1": (4, 3)}, (6, 5), (6, 3)),
        Network(parameter_at_the_loss, {"w": (5, 3), "free": (6, 2)}, (6, 5), (6, 5)),
        Network(weight_of_both_colours, {"w": (4, 4)}, (6, 4), (6, 4)),
        Network(batch_axes, {"w0": (5, 4), "b0": (4,), "v": (4,), "w1": (4, 3)}, (2, 3, 5), (2, 3, 3)),
        Network(two_losses, {"w0": (5, 4), "b0": (4,), "w1": (4, 3), "w2": (3, 2)}, (6, 5), (6, 3)),
        Network(unread_outputs, {"w0": (5, 4), "b0": (4,), "w1": (3, 3)}, (6, 5), (6, 3)),
    ]
}


def identity_to_insert(x: Any) -> Any:
    return x


PACKAGE = SimpleNamespace(identity=identity_to_insert, **{name: getattr(pj, name) for name in pj.__all__})
PACKAGE.cross_entropy = lambda logits, labels: pj.cross_entropy(logits, labels, strength=STRENGTH)


@pytest.mark.parametrize("algorithm", ["alternating_projections", "cyclic_projections"])
@pytest.mark.parametrize("name", NETWORKS)
def test_consensus_form_equals_stored_copies(
    name: str, algorithm: str, generator: np.random.Generator, change: Any, relative_error: Any
) -> None:
    network = NETWORKS[name]
    # Wide of the rounding: at this scale every operation is far from its constraint.
    start = {key: generator.normal(size=shape) for key, shape in network.params.items()}
    x = generator.normal(size=network.x)
    y = np.eye(network.y[-1])[generator.integers(network.y[-1], size=network.y[:-1])]

    oracle = StoredCopies()
    parameters = {key: oracle.parameter(values) for key, values in start.items()}
    network.function(oracle, parameters, oracle.data(x), oracle.data(y))
    found = getattr(oracle, algorithm)(STEPS)
    expected = {key: values - start[key] for key, values in zip(start, found, strict=True)}

    problem = pj.feasibility(lambda params, x, y: network.function(PACKAGE, params, x, y))
    solution = pj.solve(problem, start, x, y, algorithm=getattr(pj, algorithm)(), steps=STEPS)
    changes = change(solution, start)
    for key in start:
        assert relative_error(changes[key], expected[key]) < 1e-9, key
