"""Recurrences over time, all of whose time steps are projected at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from pjax_core.arrays.meshes import Shape, varying, varying_axes
from pjax_core.graph.nodes import Feedback, Operation, Slot, Unrolled, of_node, select
from pjax_core.operations import primitives
from pjax_core.operations.call import Composite, call
from pjax_core.trace.operations import filled, operation_node


def recurrence(
    x: ArrayLike, w_x: ArrayLike, w_h: ArrayLike, b: ArrayLike | None = None, *, h0: ArrayLike | None = None
) -> Array:
    """Hidden states ``h_t = relu(x_t w_x + h_{t-1} w_h + b)`` of all time steps.

    Two constraints: each time step's dot products ``[x_t, h_{t-1}] . [w_x, w_h]``, and its rectified sum.  All time
    steps are projected at once; they agree on ``h_t`` as any two operations on a value that they share.

    Args:
        x: ``(B, T, N)``, a sequence of ``T`` time steps for each of ``B`` samples.
        w_x: ``(N, M)``.
        w_h: ``(M, M)``.
        b: ``(M,)``, or anything that broadcasts to ``(B, T, M)``; None for no bias.
        h0: ``(B, M)``, the hidden state before the first time step; None for zero.

    Returns:
        ``(B, T, M)``.

    Raises:
        ValueError: the shapes do not fit.

    Source: paper, section 5; the projections are :func:`pjax_kernels.project_recurrence` and
        :func:`pjax_kernels.project_sum_relu`.
    """
    _require_recurrence(x, w_x, w_h, b, h0)
    optional = [operand for operand in (b, h0) if operand is not None]
    return call(_RECURRENCE, x, w_x, w_h, *optional, has_bias=b is not None, has_state=h0 is not None)


def _require_recurrence(
    x: ArrayLike, w_x: ArrayLike, w_h: ArrayLike, b: ArrayLike | None, h0: ArrayLike | None
) -> None:
    """Raise ``ValueError`` unless the shapes fit."""
    shapes = {"x": np.shape(x), "w_x": np.shape(w_x), "w_h": np.shape(w_h)}
    fits = len(shapes["x"]) == 3 and len(shapes["w_x"]) == 2 and shapes["x"][2] == shapes["w_x"][0]
    width = shapes["w_x"][-1] if fits else 0
    fits = fits and shapes["w_h"] == (width, width) and shapes["x"][1] > 0
    if fits and h0 is not None:
        shapes["h0"] = np.shape(h0)
        fits = shapes["h0"] == (shapes["x"][0], width)
    if fits and b is not None:
        shapes["b"] = np.shape(b)
        try:
            fits = jnp.broadcast_shapes(shapes["b"], (*shapes["x"][:2], width)) == (*shapes["x"][:2], width)
        except ValueError:
            fits = False
    if not fits:
        came = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"recurrence: shapes are {came}; pass x (B, T, N) with T > 0, w_x (N, M), w_h (M, M), b (M,), h0 (B, M)"
        )


def _arguments(operands: tuple[Any, ...], has_bias: bool, has_state: bool) -> tuple[Any, Any]:
    """Bias and first state of those given, None where there is none."""
    remaining = list(operands)
    return remaining.pop(0) if has_bias else None, remaining.pop(0) if has_state else None


def _forward(x: Array, w_x: Array, w_h: Array, *operands: Array, has_bias: bool, has_state: bool) -> Array:
    """The hidden states."""
    b, h0 = _arguments(operands, has_bias, has_state)
    before = jnp.zeros((x.shape[0], w_h.shape[0]), x.dtype) if h0 is None else h0
    bias = jnp.zeros((), x.dtype) if b is None else b
    return _rectify(_unroll(x, w_x, w_h, before, bias, activation=_rectify) + bias)


def _step_by_step(x: Array, w_x: Array, w_h: Array, *operands: Array, has_bias: bool, has_state: bool) -> Array:
    """The hidden states by operations for each time step, as ``jax.vmap`` can map them."""
    b, h = _arguments(operands, has_bias, has_state)
    biases = None if b is None else jnp.broadcast_to(b, (*x.shape[:2], w_x.shape[1]))
    states = []
    for step in range(x.shape[1]):
        rows, weights = x[:, step], w_x
        if h is not None:
            rows, weights = jnp.concatenate([rows, h], axis=1), jnp.concatenate([w_x, w_h], axis=0)
        product = rows @ weights
        h = jax.nn.relu(product if biases is None else product + biases[:, step])
        states.append(h)
    return jnp.stack(states, axis=1)


def _rectify(x: Array) -> Array:
    return jnp.maximum(x, 0)


def _unroll(x: Any, w_x: Any, w_h: Any, h0: Any, *biases: Any, activation: Callable[[Array], Array]) -> Any:
    """The products ``x_t w_x + h_{t-1} w_h`` of all time steps, one after the other."""
    inputs = jnp.moveaxis(jnp.matmul(x, w_x), 1, 0)
    bias = jnp.asarray(sum(biases, jnp.zeros((), inputs.dtype)))
    biases_of_steps = jnp.moveaxis(jnp.broadcast_to(bias, jnp.moveaxis(inputs, 0, 1).shape), 1, 0)

    def step(h: Any, at_step: Any) -> tuple[Any, Any]:
        from_input, bias = at_step
        product = from_input + jnp.matmul(h, w_h)
        return activation(product + bias).astype(h.dtype), product

    start = jnp.asarray(h0, jnp.result_type(inputs, w_h, h0))
    start = varying(start, varying_axes((start, inputs, w_h)))
    return jnp.moveaxis(lax.scan(step, start, (inputs, biases_of_steps))[1], 0, 1)


def _tied(x: Slot, w_x: Slot, w_h: Slot, *operands: Slot, has_bias: bool, has_state: bool) -> Slot:
    """The hidden states as two operations, each of which reads the other's output."""
    b, h0 = _arguments(operands, has_bias, has_state)
    biases = () if b is None else (b,)
    dtype = jnp.result_type(x.shape.dtype, w_x.shape.dtype, w_h.shape.dtype)
    first = filled(0, Shape((x.shape.shape[0], w_x.shape.shape[1]), dtype)) if h0 is None else h0

    def rectified(product: Slot) -> Operation:
        return operation_node(primitives.sum_relu, product, *biases, shape=product.shape)

    return tied(x, w_x, w_h, first, biases, rectified, _rectify)


def tied(
    x: Slot,
    w_x: Slot,
    w_h: Slot,
    first: Slot,
    biases: Sequence[Slot],
    close: Callable[[Slot], Operation],
    activation: Callable[[Array], Array],
) -> Slot:
    """The hidden states ``activation(x_t w_x + h_{t-1} w_h + biases)``: a product, and what ``close`` makes of it.

    The product reads the output of the last of these operations.
    """
    dtype = jnp.result_type(x.shape.dtype, w_x.shape.dtype, w_h.shape.dtype)
    states = Shape((*x.shape.shape[:2], w_x.shape.shape[1]), dtype)
    later = Feedback("hidden states", states)
    before = select("concatenate", _states_before, {}, states, first, of_node(later))
    product = replace(
        operation_node(primitives.recurrence, x, before, w_x, w_h, shape=states),
        unrolled=Unrolled((x, w_x, w_h, first, *biases), lambda *arrays: (_unroll(*arrays, activation=activation),)),
    )
    return of_node(replace(close(of_node(product)), tag=later.tag))


def _states_before(first: Array, states: Array) -> Array:
    """The state before each time step."""
    return jnp.concatenate([jnp.expand_dims(first, 1), states[:, :-1]], axis=1)


_RECURRENCE = Composite("recurrence", _forward, _tied, _step_by_step)
