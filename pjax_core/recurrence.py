"""Recurrences over time, all of whose time steps are projected at once."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from pjax_core import primitives
from pjax_core.graph import Value, as_value, feed_back, of_node, operation_node
from pjax_core.operand import Operand, Result, any_traced, shape_of
from pjax_core.ops import matmul, sum_relu
from pjax_core.views import broadcast_to, concatenate, expand_dims, index, stack


def recurrence(
    x: Operand, w_x: Operand, w_h: Operand, b: Operand | None = None, *, h0: Operand | None = None
) -> Result:
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
    operands = [x, w_x, w_h, *([] if b is None else [b]), *([] if h0 is None else [h0])]
    if not any_traced(operands):
        arrays = [jnp.asarray(a) for a in (x, w_x, w_h)]
        before = jnp.zeros((arrays[0].shape[0], arrays[2].shape[0]), arrays[0].dtype) if h0 is None else jnp.asarray(h0)
        bias = jnp.zeros((), arrays[0].dtype) if b is None else jnp.asarray(b)
        return jnp.maximum(_unroll(arrays[0], arrays[1], arrays[2], bias, before) + bias, 0)
    if any(isinstance(operand, Value) and operand.levels for operand in operands):
        return _step_by_step(x, w_x, w_h, b, h0)
    return _tied(as_value(x), as_value(w_x), as_value(w_h), b, h0)


def _require_recurrence(x: Operand, w_x: Operand, w_h: Operand, b: Operand | None, h0: Operand | None) -> None:
    """Raise ``ValueError`` unless the shapes fit."""
    shapes = {"x": shape_of(x), "w_x": shape_of(w_x), "w_h": shape_of(w_h)}
    fits = len(shapes["x"]) == 3 and len(shapes["w_x"]) == 2 and shapes["x"][2] == shapes["w_x"][0]
    width = shapes["w_x"][-1] if fits else 0
    fits = fits and shapes["w_h"] == (width, width) and shapes["x"][1] > 0
    if fits and h0 is not None:
        shapes["h0"] = shape_of(h0)
        fits = shapes["h0"] == (shapes["x"][0], width)
    if fits and b is not None:
        shapes["b"] = shape_of(b)
        try:
            fits = jnp.broadcast_shapes(shapes["b"], (*shapes["x"][:2], width)) == (*shapes["x"][:2], width)
        except ValueError:
            fits = False
    if not fits:
        came = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"recurrence: shapes are {came}; pass x (B, T, N) with T > 0, w_x (N, M), w_h (M, M), b (M,), h0 (B, M)"
        )


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


def _tied(x: Value, w_x: Value, w_h: Value, b: Operand | None, h0: Operand | None) -> Value:
    """The hidden states as two operations, each of which reads the other's output."""
    batch, steps, width = *x.shape[:2], w_x.shape[1]
    dtype = jnp.result_type(x.dtype, w_x.dtype, w_h.dtype)
    first = as_value(jnp.zeros((batch, width), dtype) if h0 is None else h0)
    bias = as_value(jnp.zeros((), dtype) if b is None else b)
    # A stand-in for the states before, which do not exist yet, has their shape.
    states = as_value(jnp.zeros((batch, steps, width), dtype))
    product = operation_node(primitives.recurrence, x, states, w_x, w_h)
    summands = [of_node(product), *([] if b is None else [bias])]
    output = operation_node(primitives.sum_relu, *summands)
    before = concatenate([expand_dims(first, 1), index(of_node(output), (slice(None), slice(None, -1)))], axis=1)
    feed_back(
        product,
        output,
        slots=(x.slot, before.slot, w_x.slot, w_h.slot),
        unrolled=(tuple(value.slot for value in (x, w_x, w_h, bias, first)), _unroll),
    )
    return of_node(output)


def _step_by_step(x: Operand, w_x: Operand, w_h: Operand, b: Operand | None, h0: Operand | None) -> Result:
    """The hidden states by operations for each time step, as :func:`vmap` can map them."""
    batch, steps = shape_of(x)[:2]
    width = shape_of(w_x)[1]
    h = h0
    states = []
    for step in range(steps):
        rows = index(x, (slice(None), step))
        weights = w_x
        if h is not None:
            rows, weights = concatenate([rows, h], axis=1), concatenate([w_x, w_h], axis=0)
        terms = [] if b is None else [index(broadcast_to(b, (batch, steps, width)), (slice(None), step))]
        h = sum_relu(matmul(rows, weights), *terms)
        states.append(h)
    return stack(states, axis=1)
