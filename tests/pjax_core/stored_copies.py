"""An oracle that stores every copy and follows the paper's sections 3 and 4 by the letter.

It shares with the package only the elementary projections, in their textbook implementation.  An array of the
oracle's network is an array of element numbers, so that views are NumPy's own.  A state is one vector of all copies;
projections are functions from states to states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

import pjax_kernels as pk

from ..pjax_kernels.code_generation import AS_FOR_USERS

Elements = NDArray[np.int64]
Places = NDArray[np.int64]
Copies = NDArray[np.float64]
State = NDArray[np.float64]
STRENGTH = 3.0


def padded(array: Any, shape: tuple[int, ...]) -> Copies:
    """The array in the first places of a larger one: kernels compile once for all networks."""
    result = np.zeros(shape)
    result[tuple(slice(length) for length in np.shape(array))] = array
    return result


def by_reference(name: str, **settings: float) -> Callable[..., Any]:
    """A kernel whose results are arrays of NumPy: parts of those of JAX would be compiled, each for its shape."""
    kernel = functools.partial(getattr(pk, name), implementation="reference", **settings)
    # These bisect in each of thousands of calls of one shape.
    options = AS_FOR_USERS if name in ("project_bilinear", "prox_cross_entropy") else None
    compiled = jax.jit(kernel, compiler_options=options)
    return lambda *arrays, **traced: jax.device_get(compiled(*arrays, **traced))


KERNELS = "project_bilinear", "project_sum", "project_sum_relu", "project_margin", "project_max", "project_threshold"
REFERENCE = {name: by_reference(name) for name in KERNELS}
REFERENCE["prox_cross_entropy"] = by_reference("prox_cross_entropy", strength=STRENGTH)
ROWS, COLUMNS = 256, 32


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


def project_max(copies: list[Copies], z: Copies) -> tuple[list[Copies], Copies]:
    """Over the last axis; what fills the array up is never the largest."""
    (x,) = copies
    length = x.shape[-1]
    filled = np.full((ROWS, COLUMNS), -1e3)
    filled[: z.size, :length] = x.reshape(-1, length)
    new, new_z = REFERENCE["project_max"](filled, padded(z.ravel(), (ROWS,)))
    return [np.array(new[: z.size, :length]).reshape(x.shape)], np.array(new_z[: z.size]).reshape(z.shape)


def project_quantize(copies: list[Copies], z: Copies, levels: int, scale: float) -> tuple[list[Copies], Copies]:
    """The nearest pair of an interval of inputs and its level, of all pairs."""
    (x,) = copies
    points = np.linspace(-scale, scale, levels)
    half = scale / (levels - 1)
    nearest = np.stack(
        [
            np.clip(x, -np.inf if level == points[0] else level - half, np.inf if level == points[-1] else level + half)
            for level in points
        ]
    )
    shape = (levels, *(1,) * x.ndim)
    best = np.argmin((nearest - x) ** 2 + (points.reshape(shape) - z) ** 2, axis=0)
    return [np.take_along_axis(nearest, best[None], axis=0)[0]], points[best]


def project_threshold(copies: list[Copies], z: Copies, margin: float) -> tuple[list[Copies], Copies]:
    *new, new_z = REFERENCE["project_threshold"](*copies, z, margin=margin)
    return new, new_z


def project_margin(copies: list[Copies], labels: Copies) -> tuple[list[Copies], Copies]:
    return [np.array(REFERENCE["project_margin"](copies[0], labels))], no_output(copies[0])


def prox_cross_entropy(copies: list[Copies], labels: Copies) -> tuple[list[Copies], Copies]:
    logits = copies[0]
    classes = logits.shape[-1]
    flat = [padded(array.reshape(-1, classes), (COLUMNS, classes)) for array in (logits, labels)]
    new = REFERENCE["prox_cross_entropy"](*flat)
    return [np.array(new[: logits.size // classes]).reshape(logits.shape)], no_output(logits)


def no_output(logits: Copies) -> Copies:
    """What an output constraint computes."""
    return np.zeros(0)


@dataclass(eq=False)
class Operation:
    """A constraint between its copies of the elements in each slot, at their places in the state, and its output."""

    slots: list[Elements]
    places: list[Places]
    output: Elements
    forward: Callable[..., Any]
    project: Callable[[list[Copies], Copies], tuple[list[Copies], Copies]]


@dataclass(eq=False)
class Parameter:
    """The constraint that all copies of a parameter agree."""

    output: Elements
    slots: tuple[()] = ()


@dataclass(eq=False)
class Restoration:
    """The constraint that the copies of data which one operation holds equal the data."""

    places: Places


Node: TypeAlias = Operation | Parameter | Restoration


class StoredCopies:
    """A network in which every input slot of every operation holds its own copy."""

    def __init__(self) -> None:
        self.values = np.zeros(0)
        self.source = np.zeros(0, np.int64)
        self.holder = np.zeros(0, np.int64)
        self.fixed: set[int] = set()
        self.parameters: list[Parameter] = []
        self.operations: list[Operation] = []
        self.produced: dict[Parameter, Copies] = {}

    def new_elements(self, values: Any) -> Elements:
        values = np.asarray(values, np.float64)
        first = len(self.values)
        self.values = np.concatenate([self.values, values.ravel()])
        return np.arange(first, len(self.values)).reshape(values.shape)

    def new_places(self, slot: Elements) -> Places:
        """Places in the state for the copies that the next operation holds of a slot's elements."""
        first = len(self.source)
        self.source = np.concatenate([self.source, slot.ravel()])
        self.holder = np.concatenate([self.holder, np.full(slot.size, len(self.operations))])
        return np.arange(first, len(self.source)).reshape(slot.shape)

    def parameter(self, values: Any) -> Elements:
        self.parameters.append(Parameter(self.new_elements(values)))
        return self.parameters[-1].output

    def data(self, values: Any) -> Elements:
        elements = self.new_elements(values)
        self.fixed.update(elements.ravel().tolist())
        return elements

    constant = data

    def operation(self, project: Any, forward: Any, *slots: Any) -> Elements:
        slots = [np.asarray(slot) for slot in slots]
        output = self.new_elements(forward(*(self.values[slot] for slot in slots)))
        self.operations.append(Operation(slots, [self.new_places(slot) for slot in slots], output, forward, project))
        return output

    # The operations, as the package names them.

    def dot(self, a: Elements, b: Elements) -> Elements:
        return self.operation(project_dot, lambda a, b: np.sum(a * b, axis=-1), a, b)

    def matmul(self, x: Elements, w: Elements) -> Elements:
        columns = w[:, None] if w.ndim == 1 else w
        shape = (*x.shape[:-1], columns.shape[1], x.shape[-1])
        product = self.dot(np.broadcast_to(x[..., None, :], shape), np.broadcast_to(columns.T, shape))
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

    def einsum(self, equation: str, a: Elements, b: Elements) -> Elements:
        """Each output as a dot product of its own, one after the other."""
        left, output = equation.split("->")
        labels = left.split(",")
        sizes = dict(zip("".join(labels), (*a.shape, *b.shape), strict=True))
        summed = [label for label in sizes if label not in output]
        order = [*output, *summed]
        shape = tuple(sizes[label] for label in order)
        laid_out = []
        for own, array in zip(labels, (a, b), strict=True):
            entries = np.zeros(shape, np.int64)
            for where in np.ndindex(*shape):
                at = dict(zip(order, where, strict=True))
                entries[where] = array[tuple(at[label] for label in own)]
            laid_out.append(entries.reshape(*shape[: len(output)], -1))
        return self.dot(*laid_out)

    def conv2d(self, x: Elements, w: Elements, strides: tuple[int, int], padding: Any) -> Elements:
        """Zeros stand on both sides where a window has padding, so that no copy is there."""
        (zero,) = self.data([0.0])
        height, width = w.shape[:2]
        inside = np.pad(np.ones(x.shape, bool), ((0, 0), *padding, (0, 0)))
        x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=zero)
        rows = range(0, x.shape[1] - height + 1, strides[0])
        columns = range(0, x.shape[2] - width + 1, strides[1])
        entries = np.array([[x[:, i : i + height, j : j + width] for j in columns] for i in rows])
        real = np.array([[inside[:, i : i + height, j : j + width] for j in columns] for i in rows])
        entries, real = (np.moveaxis(array, 2, 0)[..., None, :, :, :] for array in (entries, real))
        filters = np.moveaxis(w, 3, 0)
        shape = (*entries.shape[:3], *filters.shape)
        filters = np.where(np.broadcast_to(real, shape), filters, zero)
        return self.dot(*(a.reshape(*shape[:4], -1) for a in (np.broadcast_to(entries, shape), filters)))

    def max(self, x: Elements, axis: tuple[int, ...]) -> Elements:
        kept = [length for place, length in enumerate(x.shape) if place not in axis]
        last = np.moveaxis(x, axis, range(-len(axis), 0)).reshape(*kept, -1)
        return self.operation(project_max, lambda x: np.max(x, axis=-1), last)

    def maximum(self, a: Elements, b: Elements) -> Elements:
        return self.max(np.stack(np.broadcast_arrays(a, b)), axis=(0,))

    def max_pool(self, x: Elements, window: tuple[int, int], strides: tuple[int, int], padding: Any) -> Elements:
        """Padding is a number that no other reaches."""
        (lowest,) = self.data([-100.0])
        x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=lowest)
        rows = range(0, x.shape[1] - window[0] + 1, strides[0])
        columns = range(0, x.shape[2] - window[1] + 1, strides[1])
        windows = np.array([[x[:, i : i + window[0], j : j + window[1]] for j in columns] for i in rows])
        return self.max(np.moveaxis(windows, 2, 0), axis=(3, 4))

    def sum(self, x: Elements, axis: int) -> Elements:
        return self.add(*np.moveaxis(x, axis, 0))

    def quantize(self, x: Elements, levels: int, scale: float) -> Elements:
        project = functools.partial(project_quantize, levels=levels, scale=scale)
        points = np.linspace(-scale, scale, levels)
        return self.operation(project, lambda x: points[np.argmin(np.abs(x[..., None] - points), axis=-1)], x)

    def threshold(self, x: Elements, w: Elements, margin: float) -> Elements:
        shape = (len(x), w.shape[1], len(w))
        return self.operation(
            functools.partial(project_threshold, margin=margin),
            lambda a, b: np.where(np.sum(a * b, axis=-1) >= 0, 1.0, -1.0),
            np.broadcast_to(x[:, None], shape),
            np.broadcast_to(w.T, shape),
        )

    def recurrence(self, x: Elements, w_x: Elements, w_h: Elements, b: Elements, h0: Elements) -> Elements:
        """One time step after the other, each with its own operations."""
        states, h = [], h0
        for step in range(x.shape[1]):
            product = self.matmul(np.concatenate([x[:, step], h], axis=1), np.concatenate([w_x, w_h]))
            h = self.sum_relu(product, b)
            states.append(h)
        return np.stack(states, axis=1)

    def loop(self, step: Any, first: Elements, x: Elements) -> Elements:
        """One time step after the other, each of which reads an identity of the state before."""
        states = [first]
        for number in range(x.shape[1]):
            states.append(step(self.identity(states[-1]), x[:, number]))
        return np.stack(states[1:], axis=1)

    def pad(self, x: Elements, widths: Any, constant_values: float) -> Elements:
        (constant,) = self.data([constant_values])
        return np.pad(x, widths, constant_values=constant)

    repeat = staticmethod(np.repeat)
    split = staticmethod(np.split)
    swapaxes = staticmethod(np.swapaxes)
    moveaxis = staticmethod(np.moveaxis)
    expand_dims = staticmethod(np.expand_dims)
    squeeze = staticmethod(np.squeeze)
    stack = staticmethod(np.stack)
    concatenate = staticmethod(np.concatenate)
    broadcast_to = staticmethod(np.broadcast_to)

    # The projections.

    def start(self) -> State:
        """The state in which every copy has the value that the network computes."""
        return self.values[self.source]

    def project(self, z: State, nodes: Sequence[Node]) -> State:
        """The projection onto the constraints of ``nodes``, of which no two move the same copy."""
        estimate, new = self.estimate(z), z.copy()
        for node in nodes:
            if isinstance(node, Restoration):
                new[node.places] = self.start()[node.places]
            elif isinstance(node, Parameter):
                self.produced[node] = estimate[node.output]
                self.write(new, node.output, estimate[node.output])
            else:
                copies = [z[places] for places in node.places]
                # Where nothing reads an output, it is free, and its constraint holds already.
                free = np.isnan(estimate[node.output])
                moved, output = node.project(copies, np.where(free, node.forward(*copies), estimate[node.output]))
                for places, array in zip(node.places, moved, strict=True):
                    new[places] = array
                self.write(new, node.output, output)
        return new

    def write(self, z: State, elements: Elements, values: Copies) -> None:
        """Write the values of elements into all copies of them."""
        written = np.isin(self.source, elements)
        value_of = np.full(len(self.values), np.nan)
        value_of[elements] = values
        z[written] = value_of[self.source[written]]

    def estimate(self, z: State) -> Copies:
        """Of each element, the mean over the operations that hold it of the mean over their copies; NaN if none."""
        held, place, own = np.unique(
            np.stack([self.holder, self.source]), axis=1, return_inverse=True, return_counts=True
        )
        holders = np.bincount(held[1], minlength=len(self.values))
        weights = 1 / (own[place.ravel()] * holders[self.source])
        return np.where(holders > 0, np.bincount(self.source, weights * z, len(self.values)), np.nan)

    def layers(self) -> list[list[Node]]:
        """Constraints by their distance from the nearest output constraint; data one farther than its consumer."""
        distance = np.full(len(self.values), 10**6)
        outputs: list[Parameter | Operation] = [*self.parameters, *self.operations]
        layer_of: dict[Node, int] = {}
        for node in reversed(outputs):
            layer_of[node] = int(min(distance[node.output].ravel(), default=0))
            for slot in node.slots:
                distance[slot] = np.minimum(distance[slot], layer_of[node] + 1)
        self.require_two_colours(layer_of)
        for operation in self.operations:
            held = np.concatenate([places.ravel() for places in operation.places])
            fixed = held[np.isin(self.source[held], list(self.fixed))]
            if fixed.size:
                layer_of[Restoration(fixed)] = layer_of[operation] + 1
        return [[n for n, layer in layer_of.items() if layer == d] for d in range(max(layer_of.values()) + 1)]

    def require_two_colours(self, layer_of: dict[Any, int]) -> None:
        """Neighbours are at distances of different parity: an identity would be missing, or one too many."""
        parity = np.full(len(self.values), -1)
        for node, layer in layer_of.items():
            parity[node.output] = layer % 2
        for node, layer in layer_of.items():
            for slot in node.slots:
                assert not np.any(parity[slot] == layer % 2)

    # The algorithms, as the package names them: one step each.

    def project_a(self, z: State) -> State:
        return self.project(z, sum(self.layers()[::2], []))

    def project_b(self, z: State) -> State:
        return self.project(z, sum(self.layers()[1::2], []))

    def reflect_a(self, z: State) -> State:
        return 2 * self.project_a(z) - z

    def reflect_b(self, z: State) -> State:
        return 2 * self.project_b(z) - z

    def alternating_projections(self, z: State) -> State:
        return self.project_b(self.project_a(z))

    def alternating_reflections(self, z: State) -> State:
        return self.reflect_b(self.reflect_a(z))

    def douglas_rachford(self, z: State, relaxation: float = 0.5) -> State:
        return (1 - relaxation) * z + relaxation * self.reflect_b(self.reflect_a(z))

    def difference_map(self, z: State, beta: float = 1.0) -> State:
        if beta == 1:
            from_b = self.project_b(z)
            return z + self.project_a(2 * from_b - z) - from_b
        f_b = (1 + 1 / beta) * self.project_b(z) - z / beta
        f_a = (1 - 1 / beta) * self.project_a(z) + z / beta
        # Projected onto B last: parameters in B are read from there.
        return z + beta * (self.project_a(f_b) - self.project_b(f_a))

    def cyclic_projections(self, z: State) -> State:
        for layer in self.layers():
            z = self.project(z, layer)
        return z

    def cyclic_douglas_rachford(self, z: State) -> State:
        layers = self.layers()
        for near, far in zip(layers[:-1], layers[1:], strict=True):
            reflected = 2 * self.project(z, near) - z
            z = (z + 2 * self.project(reflected, far) - reflected) / 2
        return z

    def run(self, algorithm: str, steps: int, **settings: float) -> list[list[Copies]]:
        """The parameters before the first step and after each, from the network's own computation."""
        # One in A is read as the mean of its copies; others as their own projection produced them last.
        in_a = [] if algorithm == "cyclic_projections" else sum(self.layers()[::2], [])
        z = self.start()
        readings = [[self.values[parameter.output] for parameter in self.parameters]]
        for _ in range(steps):
            z = getattr(self, algorithm)(z, **settings)
            estimate = self.estimate(z)
            read = [estimate[p.output] if p in in_a else self.produced[p] for p in self.parameters]
            # What nothing holds a copy of keeps its value.
            free = [np.isnan(values) for values in read]
            readings.append([np.where(f, old, new) for f, old, new in zip(free, readings[0], read, strict=True)])
        return readings
