"""Projections in consensus form against an oracle that stores every copy.

``StoredCopies`` follows the paper's section 3 by the letter and shares with the package only the elementary
projections, in their textbook implementation.  An array of the oracle's network is an array of element numbers, so
that views are NumPy's own.  Each network is written once, for both: ``ops`` is the package or the oracle, and
``ops.identity`` stands where the package has to insert an identity by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

import pjax_core as pj
import pjax_kernels as pk

pytestmark = pytest.mark.usefixtures("float64")

Elements = NDArray[np.int64]
Copies = NDArray[np.float64]
STEPS = 10
STRENGTH = 3.0


def padded(array: Any, shape: tuple[int, ...]) -> Copies:
    """The array in the first places of a larger one: kernels compile once for all networks."""
    result = np.zeros(shape)
    result[tuple(slice(length) for length in np.shape(array))] = array
    return result


REFERENCE = {
    name: jax.jit(functools.partial(getattr(pk, name), implementation="reference"))
    for name in ("project_bilinear", "project_sum", "project_sum_relu", "project_margin")
}
REFERENCE["prox_cross_entropy"] = jax.jit(
    functools.partial(pk.prox_cross_entropy, strength=STRENGTH, implementation="reference")
)
ROWS, COLUMNS = 256, 16


def project_dot(copies: list[Copies], z: Copies) -> tuple[list[Copies], Copies]:
    flat = [padded(array.reshape(z.size, -1), (ROWS, COLUMNS)) for array in copies]
    *new, new_z = REFERENCE["project_bilinear"](*flat, padded(z.ravel(), (ROWS,)))
    length = copies[0].shape[-1]
    return [np.array(a[: z.size, :length]).reshape(copies[0].shape) for a in new], np.array(new_z[: z.size]).reshape(
        z.shape
    )


def project_elementwise(name: str, copies: list[Copies], z: Copies) -> tuple[list[Copies], Copies]:
    new, new_z = REFERENCE[name](tuple(padded(array.ravel(), (ROWS,)) for array in copies), padded(z.ravel(), (ROWS,)))
    *new, new_z = (np.array(array[: z.size]).reshape(z.shape) for array in (*new, new_z))
    return new, new_z


project_sum = functools.partial(project_elementwise, "project_sum")
project_sum_relu = functools.partial(project_elementwise, "project_sum_relu")


def project_margin(copies: list[Copies], labels: Copies) -> tuple[list[Copies], None]:
    return [np.array(REFERENCE["project_margin"](copies[0], labels))], None


def prox_cross_entropy(copies: list[Copies], labels: Copies) -> tuple[list[Copies], None]:
    logits = copies[0]
    classes = logits.shape[-1]
    flat = [padded(array.reshape(-1, classes), (COLUMNS, classes)) for array in (logits, labels)]
    new = REFERENCE["prox_cross_entropy"](*flat)
    return [np.array(new[: logits.size // classes]).reshape(logits.shape)], None


def no_output(logits: Copies) -> Copies:
    """What an output constraint computes."""
    return np.zeros(0)


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
        return self.operation(project_dot, lambda a, b: np.sum(a * b, axis=-1), a, b)

    def matmul(self, x: Elements, w: Elements) -> Elements:
        columns = w[:, None] if w.ndim == 1 else w
        shape = (*x.shape[:-1], columns.shape[1], x.shape[-1])
        product = self.dot(np.broadcast_to(x[..., None, :], shape).copy(), np.broadcast_to(columns.T, shape).copy())
        return product[..., 0] if w.ndim == 1 else product

    def add(self, *operands: Elements) -> Elements:
        operands = np.broadcast_arrays(*operands)
        return self.operation(project_sum, lambda *inputs: sum(inputs), *operands)

    def identity(self, x: Elements) -> Elements:
        return self.add(x)

    def sum_relu(self, *operands: Elements) -> Elements:
        operands = np.broadcast_arrays(*operands)
        return self.operation(project_sum_relu, lambda *inputs: np.maximum(sum(inputs), 0), *operands)

    def relu(self, x: Elements) -> Elements:
        return self.sum_relu(x)

    def margin_loss(self, logits: Elements, labels: Elements) -> Elements:
        wanted = self.values[labels]
        return self.operation(lambda copies, _: project_margin(copies, wanted), no_output, logits)

    def cross_entropy(self, logits: Elements, labels: Elements) -> Elements:
        wanted = self.values[labels]
        return self.operation(lambda copies, _: prox_cross_entropy(copies, wanted), no_output, logits)

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


# The networks: ``network(ops, params, x, y)``, with the shapes of the arrays.


@dataclass(frozen=True)
class Network:
    function: Callable[..., Any]
    params: dict[str, tuple[int, ...]]
    x: tuple[int, ...]
    y: tuple[int, ...]


def mlp(ops: Any, p: Any, x: Any, y: Any) -> Any:
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


def parameter_used_in_parts(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w"][:4]), p["b"][:3])
    h = ops.sum_relu(ops.matmul(h, p["w"][3:8].T), p["b"][np.array([2, 3, 0, 4, 1])])
    return ops.margin_loss(ops.matmul(h, p["w"][4:]), y)


def views(ops: Any, p: Any, x: Any, y: Any) -> Any:
    w = ops.stack([p["u"], p["v"], p["u"], p["t"]], axis=1)
    h = ops.sum_relu(ops.matmul(x, w), ops.broadcast_to(p["b"], (6, 4)), p["column"])
    wide = ops.concatenate([h[:, 2:], p["c"], h[:, :3], h[:, ::-1]], axis=1)
    return ops.cross_entropy(ops.matmul(wide, ops.broadcast_to(p["row"].reshape(11, 1), (11, 3))), y)


def dot_products(ops: Any, p: Any, x: Any, y: Any) -> Any:
    rows = [ops.stack([ops.dot(x[i], p["u"]), ops.dot(p["u"], p["v"])]) for i in range(2)]
    return ops.margin_loss(ops.stack(rows), y)


def features_times_themselves(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.matmul(x, p["w"]))
    return ops.cross_entropy(ops.matmul(h, h.T), y)


def bias_of_both_colours(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b"])
    h = ops.sum_relu(h, ops.identity(p["b"]))
    return ops.margin_loss(ops.matmul(h, p["w1"]), y)


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
    h = ops.relu(ops.matmul(x, p["w0"]))
    return ops.margin_loss(ops.matmul(h, p["w1"])[:, 1:], y)


NETWORKS = {
    network.function.__name__: network
    for network in [
        Network(mlp, {"w0": (5, 4), "b0": (4,), "w1": (4, 3), "b1": (3,)}, (6, 5), (6, 3)),
        Network(
            skip_connection,
            {"w0": (5, 4), "b0": (4,), "w1": (4, 4), "b1": (4,), "w2": (4, 3)},
            (6, 5),
            (6, 3),
        ),
        Network(weight_used_twice, {"w0": (5, 4), "b": (4,), "w": (4, 4), "w2": (4, 3)}, (6, 5), (6, 3)),
        Network(tied_autoencoder, {"w": (5, 4), "b": (4,)}, (7, 5), (7, 5)),
        Network(parameter_used_in_parts, {"w": (9, 3), "b": (5,)}, (5, 4), (5, 3)),
        Network(
            views,
            {"u": (5,), "v": (5,), "t": (5,), "b": (4,), "column": (6, 1), "c": (6, 2), "row": (11,)},
            (6, 5),
            (6, 3),
        ),
        Network(dot_products, {"u": (5,), "v": (5,)}, (2, 5), (2, 2)),
        Network(features_times_themselves, {"w": (4, 5)}, (6, 4), (6, 6)),
        Network(bias_of_both_colours, {"w0": (5, 4), "b": (4,), "w1": (4, 3)}, (6, 5), (6, 3)),
        Network(weight_of_both_colours, {"w": (4, 4)}, (6, 4), (6, 4)),
        Network(parameter_at_the_loss, {"w": (5, 3), "free": (6, 2)}, (6, 5), (6, 5)),
        Network(batch_axes, {"w0": (5, 4), "b0": (4,), "v": (4,), "w1": (4, 3)}, (2, 3, 5), (2, 3, 3)),
        Network(two_losses, {"w0": (5, 4), "b0": (4,), "w1": (4, 3), "w2": (3, 2)}, (6, 5), (6, 3)),
        Network(unread_outputs, {"w0": (5, 4), "w1": (4, 4)}, (6, 5), (6, 3)),
    ]
}
ALTERNATING = [
    "mlp",
    "skip_connection",
    "weight_used_twice",
    "views",
    "features_times_themselves",
    "bias_of_both_colours",
    "parameter_at_the_loss",
    "batch_axes",
    "unread_outputs",
]
# The order of projections matters where a value is used at several distances from the output.
CYCLIC = [
    "skip_connection",
    "weight_used_twice",
    "tied_autoencoder",
    "parameter_used_in_parts",
    "dot_products",
    "weight_of_both_colours",
    "two_losses",
]


# These problems are tiny: to compile them well would take most of the time.
QUICK_COMPILATION = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def identity_to_insert(x: Any) -> Any:
    return x


PACKAGE = SimpleNamespace(identity=identity_to_insert, **{name: getattr(pj, name) for name in pj.__all__})
PACKAGE.cross_entropy = lambda logits, labels: pj.cross_entropy(logits, labels, strength=STRENGTH)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [(name, "alternating_projections") for name in ALTERNATING] + [(name, "cyclic_projections") for name in CYCLIC],
)
def test_consensus_form_equals_stored_copies(
    name: str, algorithm: str, generator: np.random.Generator, change: Any, relative_error: Any
) -> None:
    network = NETWORKS[name]
    start = {key: generator.normal(size=shape) for key, shape in network.params.items()}
    x = generator.normal(size=network.x)
    y = np.eye(network.y[-1])[generator.integers(network.y[-1], size=network.y[:-1])]

    oracle = StoredCopies()
    parameters = {key: oracle.parameter(values) for key, values in start.items()}
    network.function(oracle, parameters, oracle.data(x), oracle.data(y))
    found = getattr(oracle, algorithm)(STEPS)
    expected = {key: values - start[key] for key, values in zip(start, found, strict=True)}

    problem = pj.feasibility(lambda params, x, y: network.function(PACKAGE, params, x, y))
    run = functools.partial(pj.solve, problem, algorithm=getattr(pj, algorithm)(), steps=STEPS)
    solution = jax.jit(run, compiler_options=QUICK_COMPILATION)(start, x, y)
    changes = change(solution, start)
    assert relative_error(changes, expected) < 1e-9
    for key in start:
        # A unit that is off for every sample does not move: nothing but rounding is left there.
        allowed = 1e-9 * np.linalg.norm(expected[key]) + 2e-15 * np.linalg.norm(start[key])
        assert np.linalg.norm(changes[key] - expected[key]) <= allowed, key
