"""What an operation is: how it computes, how it projects, and how many copies of its inputs it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import pjax_kernels as pk


def _as_they_are(*inputs: Array) -> tuple[Array, ...]:
    """One copy of each element."""
    return inputs


@dataclass(frozen=True)
class Primitive:
    """An operation, declared once.

    Attributes:
        name: what graphs and error messages call it.
        forward: ``forward(*inputs, **settings)`` computes the output.
        project: ``project(inputs, output, **settings)`` projects onto the operation's graph, from the values that
            all copies of each input share and the estimate of the output.  It returns the mean changes of the
            copies, one array for each input, and the new output.  The output of an output constraint is None.
        spread: ``spread(*inputs)`` lays each input out with one element for each copy that the operation holds.
        copywise: the same constraint between inputs laid out like that; None if ``project`` takes them as well.
        dense_copies: a kernel with the signature of :func:`pjax_kernels.project_dense_copies` for stored copies.
        factored_copies: one with that of :func:`pjax_kernels.project_dense_factored`.
        constrains_output: whether the operation is an output constraint.  All inputs but the first are then data.
    """

    name: str
    forward: Callable[..., Array]
    project: Callable[..., tuple[tuple[Array, ...], Array | None]]
    spread: Callable[..., tuple[Array, ...]] = _as_they_are
    copywise: Primitive | None = None
    dense_copies: Callable[..., Any] | None = None
    factored_copies: Callable[..., Any] | None = None
    constrains_output: bool = False

    def copies(self, *shapes: jax.ShapeDtypeStruct) -> tuple[int, ...]:
        """The number of copies that the operation holds of an element of each input."""
        laid_out = jax.eval_shape(self.spread, *shapes)
        return tuple(copies.size // max(shape.size, 1) for copies, shape in zip(laid_out, shapes, strict=True))


def _project_dot(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    a, b = inputs
    a_change, b_change, z_change = pk.project_bilinear(a, b, output, increments=True)
    return (a_change, b_change), output + z_change


dot = Primitive("dot", forward=lambda a, b: jnp.sum(a * b, axis=-1), project=_project_dot)


def _project_matmul(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    x, w = inputs
    x_change, w_change, z_change = pk.project_dense(x, w, output, increments=True)
    return (x_change, w_change), output + z_change


def _dot_products(x: Array, w: Array) -> tuple[Array, Array]:
    """Each dot product with its own row of ``x`` and column of ``w``."""
    copies = (x.shape[0], w.shape[1], x.shape[1])
    return jnp.broadcast_to(x[:, None, :], copies), jnp.broadcast_to(w.T[None, :, :], copies)


matmul = Primitive(
    "matmul",
    forward=jnp.matmul,
    project=_project_matmul,
    spread=_dot_products,
    copywise=dot,
    dense_copies=pk.project_dense_copies,
    factored_copies=pk.project_dense_factored,
)


def _broadcast(*inputs: Array) -> tuple[Array, ...]:
    """Each element of an input enters every element of the output that it broadcasts to."""
    return tuple(jnp.broadcast_arrays(*inputs))


def _total(*inputs: Array) -> Array:
    return jnp.asarray(sum(inputs))


def _project_sum(inputs: tuple[Array, ...], output: Array) -> tuple[tuple[Array, ...], Array]:
    changes, output_change = pk.project_sum(inputs, output, increments=True)
    return changes, output + output_change


sum_ = Primitive("sum", forward=_total, project=_project_sum, spread=_broadcast)
identity = Primitive("identity", forward=_total, project=_project_sum, spread=_broadcast)


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
    spread=_broadcast,
)


def _margin_violation(logits: Array, labels: Array) -> Array:
    change = pk.project_margin(logits, labels, increments=True)
    return jnp.mean(jnp.sum(change * change, axis=-1))


def _project_margin(inputs: tuple[Array, ...], output: None) -> tuple[tuple[Array, ...], None]:
    logits, labels = inputs
    return (pk.project_margin(logits, labels, increments=True),), None


margin_loss = Primitive("margin_loss", _margin_violation, _project_margin, constrains_output=True)


def _mean_cross_entropy(logits: Array, labels: Array, *, strength: float) -> Array:
    del strength  # it weighs the loss against the movement of the logits, and there is no movement here
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits, axis=-1), axis=-1))


def _project_cross_entropy(inputs: tuple[Array, ...], output: None, **settings: Any) -> tuple[tuple[Array, ...], None]:
    logits, labels = inputs
    return (pk.prox_cross_entropy(logits, labels, increments=True, **settings),), None


cross_entropy = Primitive("cross_entropy", _mean_cross_entropy, _project_cross_entropy, constrains_output=True)
