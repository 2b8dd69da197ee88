"""Sums, and the rectified sum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.arrays.meshes import like
from pjax_core.operations import costs
from pjax_core.operations.primitive import Batching, Primitive, Projected, by_kernel, moved
from pjax_core.operations.smooth import widened


def _broadcast(*inputs: Array, **_: Any) -> tuple[Array, ...]:
    """Each element of an input enters every element of the output that it broadcasts to."""
    return tuple(jnp.broadcast_arrays(*inputs))


def _total(*inputs: Array) -> Array:
    return jnp.asarray(sum(inputs))


def _sum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    total = jax.eval_shape(_total, *starts)
    return like(jnp.broadcast_to(sum(change for change in changes if change is not None), total.shape), total)


def _project_sum(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
    return pk.project_sum(inputs, output, residual=residual, increments=True)


def _equal_shares(*inputs: Array, **_: Any) -> tuple[float, ...]:
    """A residual is shared by all inputs and the output."""
    return (1 / (len(inputs) + 1),) * len(inputs)


add = Primitive(
    "sum",
    _total,
    _project_sum,
    spread=_broadcast,
    increment=_sum_increment,
    batching=Batching.BROADCAST,
    shares=_equal_shares,
    project_with_costs=costs.project_sum,
)
identity = replace(add, name="identity")


def _signed_total(*inputs: Array, coefficients: tuple[float, ...]) -> Array:
    return _total(*(c * x for x, c in zip(inputs, coefficients, strict=True)))


def _project_signed_sum(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, coefficients: tuple[float, ...]
) -> Projected:
    return pk.project_sum(inputs, output, coefficients=coefficients, residual=residual, increments=True)


def _signed_sum_increment(
    starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, coefficients: tuple[float, ...]
) -> Array:
    scaled = (None if d is None else c * d for d, c in zip(changes, coefficients, strict=True))
    return _sum_increment(starts, tuple(scaled))


def _shares_of_signed_sum(*inputs: Array, coefficients: tuple[float, ...]) -> tuple[float, ...]:
    return (1 / (sum(c * c for c in coefficients) + 1),) * len(inputs)


signed_sum = Primitive(
    "signed_sum",
    _signed_total,
    _project_signed_sum,
    spread=_broadcast,
    increment=_signed_sum_increment,
    shares=_shares_of_signed_sum,
    batching=Batching.BROADCAST,
    project_with_costs=costs.project_sum,
)
"""``z = c_1 x_1 + ... + c_n x_n``; setting ``coefficients``, one number for each input: differences, negations."""


def _sum_over(x: Array, *, axis: tuple[int, ...], factor: float = 1.0) -> Array:
    total = jnp.sum(x, axis)
    return total if factor == 1 else factor * total


sum_over = Primitive(
    "sum over axes",
    forward=_sum_over,
    project=by_kernel(pk.project_sum_over),
    increment=lambda _, changes, **settings: _sum_over(jnp.asarray(changes[0]), **settings),
    shares=lambda x, *, axis, factor=1.0: (1 / (factor**2 * x.size / max(jnp.sum(x, axis).size, 1) + 1),),
)
"""``z = factor sum(x)`` over ``axis``; the mean for a ``factor`` of 1/n."""


def _scatter_sum(updates: Array, indices: Array, *, size: tuple[int, ...], settings: tuple[Any, Any]) -> Array:
    numbers, mode = settings
    return lax.scatter_add(jnp.zeros(size, updates.dtype), indices, updates, numbers, mode=mode)


def _project_scatter_sum(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any
) -> Projected:
    """Each update enters one sum at most, so that a residual is shared by its updates and its output."""
    updates, indices = map(widened, inputs)
    if residual is None:
        residual = output - _scatter_sum(updates, indices, **settings)

    def sums(updates: Array) -> Array:
        return _scatter_sum(updates, indices, **settings)

    count = sums(jnp.ones(updates.shape, residual.dtype))
    share = residual / (1 + count)
    (change,) = jax.linear_transpose(sums, jax.ShapeDtypeStruct(updates.shape, residual.dtype))(share)
    return (change,), -share


scatter_sum = Primitive(
    "scatter_sum",
    _scatter_sum,
    _project_scatter_sum,
    increment=lambda starts, changes, **settings: _scatter_sum(jnp.asarray(changes[0]), starts[1], **settings),
    shares=lambda updates, indices, *, size, settings: (1 / (1 + updates.size / max(math.prod(size), 1)),) * 2,
    moving=1,
)
"""Sums of the updates that integers, which are data, send to each place of an array of a ``size``, 0 for none; the
``settings`` are the dimension numbers and the mode of :func:`jax.lax.scatter_add`."""


def _project_sum_relu(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
    return pk.project_sum_relu(inputs, output, residual=residual, increments=True)


def _common_move(inputs: tuple[Array, ...], changes: tuple[Array, ...]) -> Array | None:
    """All inputs move by the same amount, which is seen where one has the shape of the output."""
    shape = jnp.broadcast_shapes(*(x.shape for x in inputs))
    return next((change for x, change in zip(inputs, changes, strict=True) if x.shape == shape), None)


def _sum_relu_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    before, growth = _total(*starts), _sum_increment(starts, changes)
    after = _total(*map(moved, starts, changes))
    return jnp.where((before > 0) & (after > 0), growth, jnp.maximum(after, 0) - jnp.maximum(before, 0))


sum_relu = Primitive(
    "sum_relu",
    forward=lambda *inputs: jnp.maximum(_total(*inputs), 0),
    project=_project_sum_relu,
    spread=_broadcast,
    increment=_sum_relu_increment,
    common_move=_common_move,
    shares=_equal_shares,
    batching=Batching.BROADCAST,
    project_with_costs=costs.project_sum_relu,
)
