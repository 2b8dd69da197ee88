"""What each kind of equation becomes: an operation, or several."""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_core.arrays.meshes import Shape, has_explicit_axes, is_open
from pjax_core.graph import sets
from pjax_core.graph.nodes import (
    Computed,
    Data,
    Operation,
    Parameter,
    Slot,
    fixed_value,
    of_node,
    ordered,
    select,
)
from pjax_core.operations import primitives
from pjax_core.operations.call import Composite, call_p
from pjax_core.operations.primitive import Primitive
from pjax_core.trace import conditions, names
from pjax_core.trace.equation import Equation
from pjax_core.trace.operations import (
    broadcast_by_operation,
    broadcast_to,
    constant,
    filled,
    operation,
    operation_node,
    reshaped,
    slot_of,
    stacked,
    transposed,
)
from pjax_core.trace.values import Elementwise, Indices, Loss, Truth, Value, is_fixed, known, number_of
from pjax_kernels.compose import computed

Rule = Callable[..., Any]
CALLS = frozenset({call_p.name})


def _call(equation: Equation, *inputs: Value) -> Value:
    """An operation that JAX has no name for."""
    called: Primitive | Composite = equation.params["operation"]
    settings, slots = dict(equation.params["settings"]), [slot_of(value) for value in inputs]
    if isinstance(called, Composite):
        return called.build(*slots, **settings)
    if not called.constrains_output:
        if called.batching is called.batching.BROADCAST:
            slots = broadcast_by_operation(*slots)
        return operation(called, *slots, shape=equation.shape, **settings)
    node = operation_node(called, *slots, shape=equation.shape, **settings)
    return Loss((node,), equation.shape, math.prod(equation.shape.shape))


def average(equation: Equation, inputs: Sequence[Value]) -> Loss | Slot:
    """What becomes of output constraints: several are joined, means are taken, numbers multiply their strengths.

    Nothing is left of one times 0.
    """
    losses = [value for value in inputs if isinstance(value, Loss)]
    numbers = [number_of(value) for value in inputs if not isinstance(value, Loss)]
    first = losses[0]
    if equation.name in _KEEP_LOSSES and math.prod(equation.shape.shape) <= math.prod(first.shape.shape):
        return Loss(first.nodes, equation.shape, first.count)
    joins = equation.name in _JOIN_LOSSES and set(numbers) <= ({0.0} if "add" in equation.name else set())
    if joins and not any(loss.shape.shape for loss in losses if loss.count > 1):
        return Loss(tuple(node for loss in losses for node in loss.nodes), equation.shape)
    factor = _factor(equation, inputs, numbers)
    if factor is not None and math.isclose(factor * first.count, 1):
        return Loss(tuple(replace(node, factor=factor * node.factor) for node in first.nodes), equation.shape)
    if factor == 0:
        return filled(0.0, equation.shape)
    if factor is not None and 0 < factor < math.inf and all(map(_can_be_multiplied, first.nodes)):
        return Loss(tuple(_stronger(node, factor) for node in first.nodes), equation.shape, first.count)
    by = _traced_factor(equation, inputs)
    if by is not None and all(node.primitive in primitives.MULTIPLIED for node in first.nodes):
        return Loss(tuple(_times(node, by) for node in first.nodes), equation.shape)
    if equation.name in _JOIN_LOSSES and len(losses) < len(inputs):
        raise ValueError(f"{equation.where()}: {_penalty(first, inputs)}")
    raise ValueError(
        f"{equation.where()}: {equation.words} of the output constraint {_without_strength(losses)}; return it as "
        "it is, a mean or a sum of several, or a positive number times one: one that is data times cross_entropy, "
        "squared_error or absolute_error that are not mapped over, and none times one of pj.output that has no "
        "strength; weigh rows by weights="
    )


def _without_strength(losses: Sequence[Loss]) -> str:
    """The name of an output constraint, of one that has no strength if there is such."""
    nodes = [node for loss in losses for node in loss.nodes]
    return min(nodes, key=lambda node: "strength" in node.settings).name


def _penalty(loss: Loss, inputs: Sequence[Value]) -> str:
    """What to write in the place of a term that is added to an output constraint."""
    other = next(value for value in inputs if not isinstance(value, Loss))
    sources = other.base.sources if isinstance(other, Elementwise) else slot_of(other).sources
    operations = [source for source in sources if isinstance(source, Operation)]
    leaves = {node for node in (*sources, *ordered(operations)) if isinstance(node, (Parameter, Data))}
    of = ", ".join(sorted(node.name for node in leaves)) or "constants"
    what = f"a term computed from {of} is added to the output constraint {loss.nodes[0].name}"
    if not leaves or any(isinstance(node, Data) for node in leaves):
        return (
            f"{what}; each summand must be an output constraint: a number times pj.squared_error(prediction, target) "
            "or another, or one of your own, pj.output(name, loss=...)(prediction, *data)"
        )
    return (
        f"{what}; a penalty of parameters w is 1e-3 * pj.squared_error(w, jnp.zeros(w.shape)) for the mean of their "
        "squares, pj.absolute_error for their sizes, or a set that holds them, such as pj.within(w, pj.Box(-1, 1)); or "
        "shrink them between calls of pj.solve"
    )


def _factor(equation: Equation, inputs: Sequence[Value], numbers: Sequence[float | None]) -> float | None:
    """The number that an equation multiplies a loss by; None for other equations."""
    if len(numbers) != 1 or numbers[0] is None:
        return None
    if equation.name == "mul":
        return numbers[0]
    return 1 / numbers[0] if equation.name == "div" and isinstance(inputs[0], Loss) and numbers[0] else None


def _traced_factor(equation: Equation, inputs: Sequence[Value]) -> Slot | None:
    """The same of a number that is data."""
    others = [value for value in inputs if not isinstance(value, Loss)]
    if len(others) != 1 or not is_fixed(others[0]) or equation.shape.shape or number_of(others[0]) is not None:
        return None
    if equation.name == "mul":
        return slot_of(others[0])
    if equation.name == "div" and isinstance(inputs[0], Loss):
        return _of_data("1 / data", jnp.reciprocal, slot_of(others[0]))
    return None


def _of_data(name: str, function: Callable[..., Array], *slots: Slot) -> Slot:
    """A function of numbers that are data."""
    return of_node(Computed(name, Shape((), slots[0].shape.dtype), -1, function, slots))


def _can_be_multiplied(node: Operation) -> bool:
    """Whether it has a strength, or is a set, of which a multiple is the same."""
    return "strength" in node.settings or node.primitive in (primitives.margin_loss, sets.within)


def _stronger(node: Operation, factor: float) -> Operation:
    """Another output constraint, with a multiple of the strength, if it has one, and of the value."""
    settings = dict(node.settings)
    if "strength" in settings:
        settings["strength"] *= factor
    return replace(node, settings=settings, factor=factor * node.factor, tag=object())


def _times(node: Operation, by: Slot) -> Operation:
    """The same by a number that is data."""
    slots, multiplied = node.slots, primitives.MULTIPLIED[node.primitive]
    if multiplied is node.primitive:
        slots, by = slots[:-1], _of_data("* of data", jnp.multiply, slots[-1], by)
    return replace(node, primitive=multiplied, slots=(*slots, by), tag=object())


_JOIN_LOSSES = frozenset({"add", "add_any", "stack", "concatenate"})
_KEEP_LOSSES = frozenset(
    {"broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "squeeze", "reduce_sum", "copy", "transpose"}
)

# Sums and products.


def _add(equation: Equation, *inputs: Value) -> Slot:
    return _sum(equation, [_term(value) for value in inputs])


def _sub(equation: Equation, a: Value, b: Value) -> Slot:
    slot, scale = _term(b)
    return _sum(equation, [_term(a), (slot, -scale)])


def _term(value: Value) -> tuple[Slot, float]:
    """A slot and its coefficient."""
    if isinstance(value, Elementwise) and value.name == "affine" and value.offset == 0 and value.slot is None:
        return value.base, value.scale
    return slot_of(value), 1.0


def _sum(equation: Equation, terms: Sequence[tuple[Slot, float]]) -> Slot:
    slots = broadcast_by_operation(*(slot for slot, _ in terms))
    coefficients = tuple(coefficient for _, coefficient in terms)
    if set(coefficients) == {1.0}:
        return operation(primitives.add, *slots, shape=equation.shape)
    return operation(primitives.signed_sum, *slots, shape=equation.shape, coefficients=coefficients)


def _mul(equation: Equation, a: Value, b: Value) -> Slot:
    slots = broadcast_by_operation(slot_of(a), slot_of(b))
    return operation(primitives.multiply, *slots, shape=equation.shape)


def _div(equation: Equation, a: Value, b: Value) -> Slot:
    slots = broadcast_by_operation(slot_of(a), slot_of(b))
    return operation(primitives.divide, *slots, shape=equation.shape)


def _pow(equation: Equation, a: Value, b: Value) -> Slot:
    """``exp(b log(a))``, for positive ``a``, where both move; where one is data, a function of the other."""
    found = with_data(equation, (a, b))
    if found is not None:
        return found
    log = operation(primitives.elementwise("log"), slot_of(a), shape=a.shape)
    return operation(primitives.elementwise("exp"), _mul(equation, b, log), shape=equation.shape)


def _dot_general(equation: Equation, a: Value, b: Value) -> Slot:
    """Products of matrices; of stacks of them by einsum."""
    x, w = slot_of(a), slot_of(b)
    (x_contracted, w_contracted), (x_batch, w_batch) = equation.params["dimension_numbers"]
    weights_first = _is_weight(x) and not _is_weight(w)  # they are the second input of a product
    if x_batch or not x_contracted:
        labels = _labels(x, w, x_contracted, w_contracted, x_batch, w_batch)
        if weights_first:
            of_x, of_others = labels.split(",")
            of_w, output = of_others.split("->")
            x, w, labels = w, x, f"{of_w},{of_x}->{output}"
        return operation(primitives.einsum, x, w, shape=equation.shape, equation=labels)
    if len(x.shape.shape) == len(w.shape.shape) == len(x_contracted) == 1:
        return operation(primitives.dot, x, w, shape=equation.shape)
    x_free, w_free = _sharded_first(x, _others(x, x_contracted)), _others(w, w_contracted)
    length = math.prod(x.shape.shape[axis] for axis in x_contracted)
    rows = reshaped(transposed(x, (*x_free, *x_contracted)), (_size(x, x_free), length))
    columns = reshaped(transposed(w, (*w_contracted, *w_free)), (length, _size(w, w_free)))
    dtype = equation.shape.dtype
    if weights_first:
        shape = Shape((columns.shape.shape[1], rows.shape.shape[0]), dtype)
        product = operation(primitives.matmul, transposed(columns, (1, 0)), transposed(rows, (1, 0)), shape=shape)
        product = transposed(product, (1, 0))
    else:
        shape = Shape((rows.shape.shape[0], columns.shape.shape[1]), dtype)
        product = operation(primitives.matmul, rows, columns, shape=shape)
    # As the output has them, the axes of x are in their order.
    axes = (*x_free, *(len(x.shape.shape) + place for place in range(len(w_free))))
    shape_of = [equation.shape.shape[place] for place in map(sorted(axes).index, axes)]
    return transposed(reshaped(product, tuple(shape_of)), tuple(map(axes.index, sorted(axes))))


def _sharded_first(slot: Slot, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes, first those that are sharded explicitly: only such are sharded still where several become one."""
    if not has_explicit_axes(slot.shape):
        return axes
    spec: Any = slot.shape.sharding
    return tuple(sorted(axes, key=lambda axis: spec.spec[axis] is None))


def _is_weight(slot: Slot) -> bool:
    """Whether the slot holds nothing but parameters."""
    return all(source.name.startswith("params") for source in slot.sources)


def _others(slot: Slot, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(slot.shape.shape)) if axis not in axes)


def _size(slot: Slot, axes: Sequence[int]) -> int:
    return math.prod(slot.shape.shape[axis] for axis in axes)


def _labels(x: Slot, w: Slot, x_contracted: Any, w_contracted: Any, x_batch: Any, w_batch: Any) -> str:
    """The equation of an einsum."""
    letters = iter(string.ascii_letters)
    of_x = {axis: next(letters) for axis in range(len(x.shape.shape))}
    shared = zip((*w_contracted, *w_batch), (*x_contracted, *x_batch), strict=True)
    of_w = {w_axis: of_x[x_axis] for w_axis, x_axis in shared}
    of_w |= {axis: next(letters) for axis in range(len(w.shape.shape)) if axis not in of_w}
    output = [of_x[axis] for axis in (*x_batch, *_others(x, (*x_contracted, *x_batch)))]
    output += [of_w[axis] for axis in _others(w, (*w_contracted, *w_batch))]
    return "{},{}->{}".format(
        "".join(of_x[axis] for axis in sorted(of_x)), "".join(of_w[axis] for axis in sorted(of_w)), "".join(output)
    )


def _conv(equation: Equation, a: Value, b: Value) -> Slot:
    """Convolutions: in two dimensions by their kernel, all others from the map."""
    x, w = slot_of(a), slot_of(b)
    params = equation.params
    numbers, strides, padding = params["dimension_numbers"], params["window_strides"], params["padding"]
    plain = (
        len(strides) == 2
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) == set(params["rhs_dilation"]) == {1}
        and all(low >= 0 and high >= 0 for low, high in padding)
    )
    images = transposed(x, _channels_last(numbers.lhs_spec))
    filters = transposed(w, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    order = _channels_last(numbers.out_spec)
    shape = Shape(tuple(equation.shape.shape[axis] for axis in order), equation.shape.dtype)
    if plain:
        pads = tuple((int(low), int(high)) for low, high in padding)
        product = operation(primitives.conv2d, images, filters, shape=shape, strides=tuple(strides), padding=pads)
    else:
        given = params | {"dimension_numbers": _numbers_of_channels_last(len(strides))}
        settings = tuple((key, given[key]) for key in _OF_CONVOLUTIONS)
        product = operation(primitives.convolution_of_any_kind, images, filters, shape=shape, settings=settings)
    return transposed(product, tuple(order.index(axis) for axis in range(len(order))))


_OF_CONVOLUTIONS = (
    "batch_group_count", "dimension_numbers", "feature_group_count", "lhs_dilation", "padding", "rhs_dilation",
    "window_strides",
)  # fmt: skip


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    """The axes of images in the order batch, height, width, channels, or as many axes of space as there are."""
    return (spec[0], *spec[2:], spec[1])


def _numbers_of_channels_last(space: int) -> lax.ConvDimensionNumbers:
    """The places of axes in images in that order, with as many of space, and in filters whose outputs are last."""
    images = (0, space + 1, *range(1, space + 1))
    return lax.ConvDimensionNumbers(images, (space + 1, space, *range(space)), images)


# Reductions.


def _reduce_sum(equation: Equation, x: Value) -> Slot:
    slot, axes = slot_of(x), tuple(equation.params["axes"])
    if _has_one_summand(slot, axes):
        return select("reduce_sum", equation.bind(), {}, equation.shape, slot)
    return operation(primitives.sum_over, slot, shape=equation.shape, axis=axes)


def _has_one_summand(slot: Slot, axes: tuple[int, ...]) -> bool:
    """Whether all but one entry of each sum are known zeros: of diagonals, as ``jnp.einsum`` has them, which are views.

    Entries are told by their numbers, from 1 on; with zeros in their place what is left are the constants.
    """
    entries, *others = [source for source in slot.sources if known(of_node(source)) is None]
    if others or len(slot.sources) == 1 or is_open(entries.shape, slot.shape):
        return False
    numbers = np.arange(1.0, 1 + math.prod(entries.shape.shape)).reshape(entries.shape.shape)

    def with_entries(own: np.ndarray) -> np.ndarray:
        return computed(lambda own: slot.read(lambda source: own if source is entries else fixed_value(source)), own)

    return not with_entries(0 * numbers).any() and bool((np.count_nonzero(with_entries(numbers), axes) == 1).all())


def _reduce_max(equation: Equation, x: Value) -> Slot:
    return operation(primitives.maximum, slot_of(x), shape=equation.shape, axis=tuple(equation.params["axes"]))


def _reduce_min(equation: Equation, x: Value) -> Slot:
    return operation(primitives.minimum, slot_of(x), shape=equation.shape, axis=tuple(equation.params["axes"]))


def _max(equation: Equation, a: Value, b: Value) -> Slot:
    return _larger(primitives.maximum, equation, a, b)


def _min(equation: Equation, a: Value, b: Value) -> Slot:
    return _larger(primitives.minimum, equation, a, b)


def _larger(primitive: Primitive, equation: Equation, *operands: Value) -> Slot:
    """The largest, or smallest, of two values."""
    slots = broadcast_by_operation(*map(slot_of, operands))
    whole = [broadcast_to(slot, equation.shape.shape) for slot in slots]
    shape = Shape((2, *equation.shape.shape), equation.shape.dtype)
    return operation(primitive, stacked(whole, shape), shape=equation.shape, axis=(0,))


def has_rule(equation: Equation) -> bool:
    """Whether the equation has a rule that takes its settings."""
    params = equation.params
    if equation.name not in ("reduce_window_max", "reduce_window_sum"):
        return equation.name in RULES
    is_plain = set(params["base_dilation"]) | set(params["window_dilation"]) == {1}
    return is_plain and (equation.name == "reduce_window_sum" or len(_pooled_axes(equation)) <= 2)


def _pooled_axes(equation: Equation) -> list[int]:
    windows = zip(*(equation.params[f"window_{name}"] for name in ("dimensions", "strides")), strict=True)
    each = enumerate(zip(windows, equation.params["padding"], strict=True))
    return [axis for axis, ((extent, stride), padding) in each if extent > 1 or stride > 1 or any(padding)]


def _reduce_window_max(equation: Equation, x: Value) -> Slot:
    """Pooling over two axes, or one; the others are rows and channels."""
    slot, params = slot_of(x), equation.params
    window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    axes = _pooled_axes(equation)
    rank = len(window)
    axes = sorted((axes + [axis for axis in range(rank - 2, -1, -1) if axis not in axes])[:2]) if rank > 2 else axes
    before = [axis for axis in range(rank) if axis < min(axes)]
    after = [axis for axis in range(rank) if axis not in (*before, *axes)]
    order = (*before, *axes, *after)
    size = (*(slot.shape.shape[axis] for axis in axes), *(1,) * (2 - len(axes)))
    images = transposed(slot, order)
    images = reshaped(images, (_size(slot, before), *size, _size(slot, after)))
    pair = lambda values, fill: (*(values[axis] for axis in axes), *(fill,) * (2 - len(axes)))  # noqa: E731
    settings: dict[str, Any] = {
        "window": tuple(map(int, pair(window, 1))),
        "strides": tuple(map(int, pair(strides, 1))),
        "padding": tuple((int(low), int(high)) for low, high in pair(padding, (0, 0))),
    }
    pooled = operation(primitives.max_pool, images, size=size, **settings)
    pooled = reshaped(pooled, tuple(equation.shape.shape[axis] for axis in order))
    return transposed(pooled, tuple(order.index(axis) for axis in range(rank)))


def _reduce_window_sum(equation: Equation, x: Value) -> Slot:
    """Sums of windows, which become means where they are divided."""
    params = equation.params
    return _sums_of_windows(slot_of(x), params["window_dimensions"], params["window_strides"], params["padding"])


def _cumsum(equation: Equation, x: Value) -> Slot:
    """Sums of windows that begin, or end, outside."""
    slot, params = slot_of(x), equation.params
    length, ones = slot.shape.shape[params["axis"]], [1] * len(slot.shape.shape)
    outside = (0, length - 1) if params["reverse"] else (length - 1, 0)
    window, padding = ones.copy(), [(0, 0)] * len(ones)
    window[params["axis"]], padding[params["axis"]] = length, outside
    return _sums_of_windows(slot, window, ones, padding)


def _sums_of_windows(slot: Slot, window: Sequence[int], strides: Sequence[int], padding: Any) -> Slot:
    settings: dict[str, Any] = {
        "window": tuple(map(int, window)),
        "strides": tuple(map(int, strides)),
        "padding": tuple((int(low), int(high)) for low, high in padding),
    }
    return operation(primitives.average_pool, slot, size=slot.shape.shape, factor=1.0, **settings)


def _scatter_add(equation: Equation, x: Value, indices: Value, updates: Value) -> Slot:
    """What integers of data say is added, as sums for each place, and these to what was there."""
    params, shape = equation.params, equation.shape
    settings = params["dimension_numbers"], params["mode"]
    inputs = slot_of(updates), slot_of(indices)
    sums = operation(primitives.scatter_sum, *inputs, shape=shape, size=shape.shape, settings=settings)
    return sums if number_of(x) == 0 else operation(primitives.add, slot_of(x), sums, shape=shape)


# Entries in their order.


def _sort(equation: Equation, x: Value, *others: Value) -> list[Value]:
    """Sorted values; the indices that are taken along in their order, and no other value."""
    axis = equation.params["dimension"]
    along = [_taken_along(equation, x, known(other), axis) for other in others]
    last = _with_axis_moved(slot_of(x), axis, -1)
    found = operation(primitives.largest, last, shape=last.shape, count=last.shape.shape[-1])
    ascending = select("rev", lambda array: array[..., ::-1], {}, found.shape, found)
    return [_with_axis_moved(ascending, -1, axis), *along]


def _taken_along(equation: Equation, x: Value, numbers: Any, axis: int) -> Indices:
    """What ``jnp.argsort`` sorts beside the values: their places, or with ``descending`` those from the end."""
    shape = equation.shapes[1]
    if numbers is not None and equation.params["num_keys"] == 1:
        places = np.indices(shape.shape)[axis]
        if np.array_equal(numbers, places):
            return _indices(equation, shape, _with_axis_moved(_negated(x), axis, -1), places, axis)
        if np.array_equal(numbers, np.flip(places, axis)):
            reverse = functools.partial(jnp.flip, axis=axis)
            scores = select("rev", reverse, {}, slot_of(x).shape, slot_of(x))
            return _indices(equation, shape, _with_axis_moved(scores, axis, -1), np.flip(places, axis), axis)
    return _indices(equation, shape)


def _top_k(equation: Equation, x: Value) -> list[Value]:
    values, indices = equation.shapes
    count, axis = equation.params["k"], equation.params.get("axis", -1) % len(values.shape)
    last = _with_axis_moved(slot_of(x), axis, -1)
    shape = Shape((*last.shape.shape[:-1], count), last.shape.dtype)
    found = operation(primitives.largest, last, shape=shape, count=count)
    ranks = np.moveaxis(np.arange(count).reshape((1,) * (len(shape.shape) - 1) + (count,)), -1, axis)
    return [_with_axis_moved(found, -1, axis), _indices(equation, indices, last, ranks, axis)]


def _argmax(equation: Equation, x: Value) -> Value:
    (axis,) = equation.params["axes"]
    if isinstance(x, Truth) and x.name == "along" and x.of[0] == axis:
        made = f"the number of the first condition on values that holds, of {equation.where()}"
        return Indices(made, "such numbers choose by jnp.select alone", equation.shape, first=x.of[1:])
    if conditions.is_condition(x):
        raise NotImplementedError(refusal(equation))
    return _indices(equation, equation.shape, _with_axis_moved(slot_of(x), axis, -1))


def _argmin(equation: Equation, x: Value) -> Value:
    return _argmax(equation, _negated(x))


def _negated(x: Value) -> Slot:
    slot, scale = _term(x)
    return slot if scale == -1 else operation(primitives.signed_sum, slot, coefficients=(-scale,))


def _with_axis_moved(slot: Slot, source: int, destination: int) -> Slot:
    """As :func:`jax.numpy.moveaxis`."""
    axes = list(range(len(slot.shape.shape)))
    axes.insert(destination % len(axes), axes.pop(source))
    return transposed(slot, tuple(axes))


def _indices(
    equation: Equation, shape: Shape, scores: Slot | None = None, ranks: Any = 0, axis: int | None = None
) -> Indices:
    """The indices of the ranks among scores along the last axis; those of several, along ``axis``, have the same."""
    made = f"the indices that {equation.words} of values that depend on parameters gives in {equation.where()}"
    if scores is not None and axis is not None:
        *rows, count = scores.shape.shape
        scores = broadcast_to(reshaped(scores, (*rows, 1, count)), (*rows, shape.shape[axis], count))
        scores = _with_axis_moved(scores, len(rows), axis)
    ranks = broadcast_to(constant(np.asarray(ranks, shape.dtype)), shape.shape)
    return Indices(made, _WITHOUT_INDICES, shape, scores, ranks)


_WITHOUT_INDICES = (
    "such indices choose by x[i], jnp.take_along_axis, jax.nn.one_hot or lax.switch, and are no numbers: take the "
    "largest values themselves by jnp.max, jnp.sort or lax.top_k, choose by jnp.where(a > b, x, y), or weigh all by "
    "jax.nn.softmax"
)


# Functions of the elements of a value and of data.


def with_data(equation: Equation, inputs: Sequence[Value]) -> Slot | None:
    """A function of each element of one value, that data of its shape say; None for others."""
    places = [place for place, value in enumerate(inputs) if not is_fixed(value)]
    shape, function = equation.shape, equation.bind()
    if equation.name not in names.BINARY or len(places) != 1 or not jnp.issubdtype(shape.dtype, jnp.floating):
        return None
    slots = [slot_of(value) for value in inputs]
    x = slots.pop(places[0])
    if x.shape.shape != shape.shape:
        return None

    def of_elements(x: Array, *data: Array) -> Array:
        arrays = [array.astype(x.dtype) for array in data]
        return function(*arrays[: places[0]], x, *arrays[places[0] :])

    return operation(primitives.elementwise(of_elements, equation.name), x, *slots, shape=shape)


# Views that become others, or none.


def _transpose(equation: Equation, x: Value) -> Slot:
    return transposed(slot_of(x), tuple(equation.params["permutation"]))


# What has none.


def refusal(equation: Equation) -> str:
    """Why an equation has no projection, and what to do."""
    return (
        f"{equation.words} of truth values or integers that depend on parameters has no projection; these choose by "
        "jnp.where alone; truth values may be joined by &, |, ~, jnp.any and jnp.all, and made numbers by "
        "astype(float); indices must be data"
    )


RULES: dict[str, Rule] = {
    call_p.name: _call,
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "max": _max,
    "min": _min,
    "reduce_window_max": _reduce_window_max,
    "reduce_window_sum": _reduce_window_sum,
    "cumsum": _cumsum,
    "transpose": _transpose,
    "scatter-add": _scatter_add,
    "sort": _sort,
    "top_k": _top_k,
    "argmax": _argmax,
    "argmin": _argmin,
    **conditions.RULES,
    **conditions.CHOICES,
}
