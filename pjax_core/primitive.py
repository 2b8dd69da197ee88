"""What an operation is: how it computes, how it projects, and how many copies of its inputs it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import pjax_kernels as pk

Shapes = tuple[jax.ShapeDtypeStruct, ...]


@dataclass(frozen=True)
class Primitive:
    """An operation, declared once.

    Attributes:
        name: what graphs and error messages call it.
        forward: ``forward(*inputs, **settings)`` computes the output.
        project: ``project(inputs, output, **settings)`` projects onto the operation's graph, from the values that
            all copies of each input share and the estimate of the output.  It returns the mean changes of the
            copies, one array for each input, and the new output.  The output of an output constraint is None.
        copies: ``copies(*shapes)`` is the number of copies that the operation holds of an element of each input.
        constrains_output: whether the operation is an output constraint.  All inputs but the first are then data.
    """

    name: str
    forward: Callable[..., Array]
    project: Callable[..., tuple[tuple[Array, ...], Array | None]]
    copies: Callable[..., tuple[int, ...]]
    constrains_output: bool = False


def _one_copy(*shapes: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return (1,) * len(shapes)


def _project_matmul(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    x, w = inputs
    x_change, w_change, z_change = pk.project_dense(x, w, output, increments=True)
    return (x_change, w_change), output + z_change


matmul = Primitive(
    "matmul",
    forward=jnp.matmul,
    project=_project_matmul,
    copies=lambda x, w: (w.shape[1], x.shape[0]),
)


def _project_dot(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    a, b = inputs
    a_change, b_change, z_change = pk.project_bilinear(a, b, output, increments=True)
    return (a_change, b_change), output + z_change


dot = Primitive("dot", forward=jnp.dot, project=_project_dot, copies=_one_copy)


def _broadcast_copies(*shapes: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """Each element of an input enters every element of the output that it broadcasts to."""
    size = _size(jnp.broadcast_shapes(*(shape.shape for shape in shapes)))
    return tuple(size // max(_size(shape.shape), 1) for shape in shapes)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _total(*inputs: Array) -> Array:
    return jnp.asarray(sum(inputs))


def _project_sum(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    changes, output_change = pk.project_sum(inputs, output, increments=True)
    return changes, output + output_change


sum_ = Primitive("sum", forward=_total, project=_project_sum, copies=_broadcast_copies)
identity = Primitive("identity", forward=_total, project=_project_sum, copies=_broadcast_copies)


def _project_sum_relu(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    changes, output_change = pk.project_sum_relu(inputs, output, increments=True)
    for x, change in zip(inputs, changes, strict=True):
        if x.shape == output.shape:
            # All inputs move by the same amount, so the new output follows from them, and has no rounding of the old.
            return changes, jnp.maximum(_total(*inputs) + len(inputs) * change, 0)
    return changes, output + output_change


sum_relu = Primitive(
    "sum_relu",
    forward=lambda *inputs: jnp.maximum(_total(*inputs), 0),
    project=_project_sum_relu,
    copies=_broadcast_copies,
)


def _margin_violation(logits: Array, labels: Array) -> Array:
    change = pk.project_margin(logits, labels, increments=True)
    return jnp.mean(jnp.sum(change * change, axis=-1))


def _project_margin(inputs: tuple[Array, ...], output: None) -> tuple[tuple[Array, ...], None]:
    logits, labels = inputs
    return (pk.project_margin(logits, labels, increments=True),), None


margin_loss = Primitive("margin_loss", _margin_violation, _project_margin, copies=_one_copy, constrains_output=True)


def _mean_cross_entropy(logits: Array, labels: Array, *, strength: float) -> Array:
    del strength  # it weighs the loss against the movement of the logits, and there is no movement here
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits, axis=-1), axis=-1))


def _project_cross_entropy(inputs: tuple[Array, ...], output: None, **settings: Any) -> tuple[tuple[Array, ...], None]:
    logits, labels = inputs
    return (pk.prox_cross_entropy(logits, labels, increments=True, **settings),), None


cross_entropy = Primitive(
    "cross_entropy", _mean_cross_entropy, _project_cross_entropy, copies=_one_copy, constrains_output=True
)
