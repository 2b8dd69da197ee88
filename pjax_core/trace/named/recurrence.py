"""Recurrences over time, all of whose time steps are projected at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from pjax_core.arrays.meshes import Shape
from pjax_core.graph.nodes import Slot, complete, of_node, select
from pjax_core.operations import primitives
from pjax_core.operations.call import Composite, call
from pjax_core.trace.operations import constant, number, operation_node


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
    return jnp.maximum(_unroll(x, w_x, w_h, bias, before) + bias, 0)


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


def _unroll(x: Any, w_x: Any, w_h: Any, b: Any, h0: Any) -> Any:
    """The products ``x_t w_x + h_{t-1} w_h`` of all time steps, one after the other."""
    inputs = jnp.moveaxis(jnp.matmul(x, w_x), 1, 0)
    biases = jnp.moveaxis(jnp.broadcast_to(b, jnp.moveaxis(inputs, 0, 1).shape), 1, 0)

    def step(h: Any, at_step: Any) -> tuple[Any, Any]:
        from_input, bias = at_step
        product = from_input + jnp.matmul(h, w_h)
        return jnp.maximum(product + bias, 0).astype(h.dtype), product

    start = jnp.asarray(h0, jnp.result_type(inputs, w_h, h0))
    return jnp.moveaxis(lax.scan(step, start, (inputs, biases))[1], 0, 1)


def _tied(x: Slot, w_x: Slot, w_h: Slot, *operands: Slot, has_bias: bool, has_state: bool) -> Slot:
    """The hidden states as two operations, each of which reads the other's output."""
    b, h0 = _arguments(operands, has_bias, has_state)
    (batch, steps, _), width = x.shape.shape, w_x.shape.shape[1]
    dtype = jnp.result_type(x.shape.dtype, w_x.shape.dtype, w_h.shape.dtype)
    states = Shape((batch, steps, width), dtype)
    first = constant(np.zeros((batch, width), dtype)) if h0 is None else h0
    bias = number(0, states) if b is None else b
    # A stand-in for the states before, which do not exist yet, has their shape.
    product = operation_node(primitives.recurrence, x, constant(np.zeros(states.shape, dtype)), w_x, w_h, shape=states)
    output = operation_node(primitives.sum_relu, of_node(product), *([] if b is None else [b]), shape=states)
    before = select("concatenate", _states_before, {}, states, first, of_node(output))
    complete(
        product,
        replace(
            product,
            slots=(x, before, w_x, w_h),
            feedback=output,
            unrolled=((x, w_x, w_h, bias, first), _unroll),
        ),
    )
    return of_node(output)


def _states_before(first: Array, states: Array) -> Array:
    """The state before each time step."""
    return jnp.concatenate([jnp.expand_dims(first, 1), states[:, :-1]], axis=1)


_RECURRENCE = Composite("recurrence", _forward, _tied, _step_by_step)
