"""Operations of slots: what their inputs are read as, and what they are named."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_core.arrays.meshes import Shape, shape_of_type
from pjax_core.graph.nodes import STOPPED, Constant, Operation, Slot, is_fixed, of_node, select
from pjax_core.operations import primitives
from pjax_core.operations.primitive import Primitive
from pjax_core.trace.functions import recognised
from pjax_core.trace.values import Arraywise, Elementwise, Loss, Value


def operation(primitive: Primitive, *slots: Slot, shape: Shape | None = None, **settings: Any) -> Slot:
    """The output of a primitive applied to slots."""
    return of_node(operation_node(primitive, *slots, shape=shape, **settings))


def operation_node(primitive: Primitive, *slots: Slot, shape: Shape | None = None, **settings: Any) -> Operation:
    """A primitive applied to slots."""
    slots = tuple(_without_conversion(slot) for slot in slots)
    moving = primitive.moving_inputs(len(slots))
    dtypes = [slot.shape.dtype for slot in slots if jnp.issubdtype(slot.shape.dtype, jnp.floating)]
    slots = (*(_of_numbers(slot, dtypes) for slot in slots[:moving]), *slots[moving:])
    for place, slot in enumerate(slots[moving:], moving):
        sources = [source.name for source in slot.sources if not is_fixed(source)]
        if sources:
            of_outputs = {1: "labels", 2: "weights or strength"} if primitive.constrains_output else {}
            what = of_outputs.get(place, f"arguments {place}")
            other = ", or go into a loss of one prediction, by pj.output" if of_outputs else ""
            raise ValueError(
                f"{primitive.name}: {what} come from {', '.join(sources)}; they must be data, given after params{other}"
            )
    for slot in slots[:moving]:
        if not jnp.issubdtype(slot.shape.dtype, jnp.floating):
            names = ", ".join(source.name for source in slot.sources)
            raise TypeError(
                f"{primitive.name}: {names} has dtype {slot.shape.dtype}; projections move values continuously, so "
                "pass floating-point arrays (class labels as jax.nn.one_hot), and integers as indices only"
            )
    if shape is None:
        shape = jax.eval_shape(lambda *inputs: primitive.forward(*inputs, **settings), *(slot.shape for slot in slots))
    return Operation(primitive.name, shape, primitive, slots, settings)


def _without_conversion(slot: Slot) -> Slot:
    """The slot before it changed its precision, which operations choose for themselves."""
    while slot.last is not None and slot.last.name == "convert_element_type":
        before = slot.before_last()
        if not all(jnp.issubdtype(s.shape.dtype, jnp.floating) for s in (slot, before)):
            break
        slot = before
    return slot


def _of_numbers(slot: Slot, dtypes: Sequence[Any]) -> Slot:
    """Integers that never move as floating-point numbers, as JAX takes them beside those of these dtypes."""
    if jnp.issubdtype(slot.shape.dtype, jnp.floating) or not slot.is_fixed or not dtypes:
        return slot
    shape = shape_of_type(slot.shape, jnp.result_type(*dtypes))
    return select("convert_element_type", lambda array: array.astype(shape.dtype), {}, shape, slot)


def slot_of(value: Value) -> Slot:
    """The value as the output of an operation, or a view of such."""
    if isinstance(value, Slot):
        return value
    if isinstance(value, Loss):
        raise ValueError(
            f"{', '.join(node.name for node in value.nodes)} is used in the network; an output constraint is what the "
            "function given to feasibility returns"
        )
    if not isinstance(value, (Elementwise, Arraywise)):
        raise NotImplementedError("truth values or integers that depend on parameters are used as numbers")
    if value.slot is None:
        value.slot = _computed(value) if isinstance(value, Elementwise) else value.make(value)
    return value.slot


def _computed(value: Elementwise) -> Slot:
    """The output of the operation that an elementwise function is."""
    if value.name == "relu":
        return operation(primitives.sum_relu, slot_of(value.rectified or value.base), shape=value.shape)
    if value.free is not None:
        return operation(primitives.straight_through(value.function, value.free), value.base, shape=value.shape)
    if value.name != "affine":
        function, settings = recognised(value.function)
        if function == "relu":
            return operation(primitives.sum_relu, value.base, shape=value.shape)
        operation_of = primitives.elementwise(function, value.name)
        return operation(operation_of, value.base, shape=value.shape, **settings)
    if (value.scale, value.offset) == (1, 0):
        return value.base
    scale, offset = (number(coefficient, value.shape) for coefficient in (value.scale, value.offset))
    if value.scale == 1:
        return operation(primitives.add, value.base, offset, shape=value.shape)
    return operation(primitives.affine, value.base, scale, offset, shape=value.shape)


def number(value: float, like: Shape) -> Slot:
    """A constant."""
    return constant(np.asarray(value, like.dtype))


def constant(array: Any) -> Slot:
    """The slot of an array that the function brought along."""
    return of_node(Constant("constant", shape_of_type(array), array))


def filled(value: float, shape: Shape) -> Slot:
    """A constant that is one number, of this shape."""
    return broadcast_to(number(value, shape), shape.shape)


def broadcast_by_operation(*slots: Slot) -> list[Slot]:
    """The slots before they got axes of length 1, for an operation that broadcasts its inputs as NumPy does.

    One has all axes that the output is to have, which with one sample may all be of length 1.
    """
    found = list(map(_before_new_axes, slots))
    ranks = [len(slot.shape.shape) for slot in slots]
    if all(len(slot.shape.shape) < max(ranks) for slot in found):
        place = ranks.index(max(ranks))
        found[place] = _without_conversion(slots[place])
    return found


def _before_new_axes(slot: Slot) -> Slot:
    """The slot before it got first axes of length 1."""
    slot = _without_conversion(slot)
    while slot.last is not None and slot.last.name in ("broadcast_in_dim", "reshape") and len(slot.last.places) == 1:
        before = slot.before_last()
        new_axes = len(slot.shape.shape) - len(before.shape.shape)
        if slot.shape.shape != (1,) * new_axes + before.shape.shape:
            break
        slot = before
    return slot


def stopped_view(slot: Slot) -> Slot:
    """The slot, through which directions ask nothing."""
    return select(STOPPED, lambda array: array, {}, slot.shape, slot)


def reshaped(slot: Slot, shape: tuple[int, ...]) -> Slot:
    """The slot in another shape."""
    if slot.shape.shape == shape:
        return slot
    return select(
        "reshape", lambda array: jnp.reshape(array, shape), {"new_sizes": shape}, Shape(shape, slot.shape.dtype), slot
    )


def transposed(slot: Slot, permutation: tuple[int, ...]) -> Slot:
    """The slot with its axes permuted; two permutations become one."""
    if slot.last is not None and slot.last.name == "transpose":
        inner = slot.last.settings["permutation"]
        return transposed(slot.before_last(), tuple(inner[axis] for axis in permutation))
    if permutation == tuple(range(len(permutation))):
        return slot
    shape = Shape(tuple(slot.shape.shape[axis] for axis in permutation), slot.shape.dtype)
    return select(
        "transpose", lambda array: lax.transpose(array, permutation), {"permutation": permutation}, shape, slot
    )


def stacked(slots: Sequence[Slot], shape: Shape) -> Slot:
    """Slots one after the other along a new first axis."""
    return select("stack", lambda *arrays: jnp.stack(arrays), {"axis": 0}, shape, *slots)


def joined(slots: Sequence[Slot]) -> tuple[Slot, Callable[[Array], Sequence[Array]]]:
    """Slots as one, side by side where they have one shape, else with all entries in a row; and what takes it apart."""
    shapes = [slot.shape.shape for slot in slots]
    dtype = jnp.result_type(*(slot.shape.dtype for slot in slots))
    if len(slots) == 1:
        return slots[0], lambda x: (x,)
    if len(set(shapes)) == 1:
        return stacked(slots, Shape((len(slots), *shapes[0]), dtype)), list
    ends = list(itertools.accumulate(map(math.prod, shapes)))

    def parts(x: Array) -> Sequence[Array]:
        return [part.reshape(shape) for part, shape in zip(jnp.split(x, ends[:-1]), shapes, strict=True)]

    flat = [reshaped(slot, (math.prod(slot.shape.shape),)) for slot in slots]
    shape = Shape((ends[-1],), dtype)
    return select("concatenate", lambda *arrays: jnp.concatenate(arrays), {"dimension": 0}, shape, *flat), parts


def broadcast_to(slot: Slot, shape: tuple[int, ...]) -> Slot:
    """The slot repeated to a larger shape."""
    if slot.shape.shape == shape:
        return slot
    return select(
        "broadcast_in_dim", lambda array: jnp.broadcast_to(array, shape), {}, Shape(shape, slot.shape.dtype), slot
    )
