"""Maxima, what is chosen by order or by a condition, and steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.operations.order import at_rank as case_at_rank
from pjax_core.operations.order import largest_of, project_at_rank, project_largest
from pjax_core.operations.primitive import Batching, Primitive, Projected, by_kernel
from pjax_core.operations.primitives.products import spread_matmul
from pjax_core.operations.smooth import widened
from pjax_kernels.compose import computed_once


def maximum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, axis: Any) -> Array:
    """The change of the maximum of one array over ``axis``."""
    (x,), (change,) = starts, changes
    assert change is not None
    x = computed_once(x)
    return jnp.max((x - jnp.max(x, axis, keepdims=True)) + change, axis)


maximum = Primitive(
    "max",
    forward=lambda x, *, axis: jnp.max(x, axis),
    project=by_kernel(pk.project_max),
    increment=maximum_increment,
)


def _minimum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, axis: Any) -> Array:
    return -maximum_increment((-starts[0],), (-jnp.asarray(changes[0]),), axis=axis)


minimum = Primitive(
    "min",
    forward=lambda x, *, axis: jnp.min(x, axis),
    project=by_kernel(pk.project_min),
    increment=_minimum_increment,
)


def _project_largest(inputs: tuple[Array, ...], output: Array, residual: Array | None, *, count: int) -> Projected:
    change, output_change = project_largest(widened(inputs[0]), output, residual, count)
    return (change,), output_change


def _largest_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, count: int) -> Array:
    (x,), (change,) = starts, changes
    assert change is not None
    before, after = (jnp.argsort(-array, axis=-1)[..., :count] for array in (x, x + change))
    taken = jnp.take_along_axis
    return (taken(x, after, -1) - taken(x, before, -1)) + taken(change, after, -1)


largest = Primitive(
    "largest",
    forward=lambda x, *, count: largest_of(x, count),
    project=_project_largest,
    increment=_largest_increment,
)
"""The ``count`` largest entries along the last axis, from the largest to the smallest: of all of them, sorting."""


def _project_at_rank(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
    scores, cases, ranks = map(widened, inputs)
    return project_at_rank(scores, cases, ranks, output, residual)


def _at_rank_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    scores, cases, ranks = starts
    moves, growth = (jnp.zeros_like(x) if d is None else d for x, d in zip(starts[:2], changes[:2], strict=True))
    new = scores + moves
    return (case_at_rank(new, cases, ranks) - case_at_rank(scores, cases, ranks)) + case_at_rank(new, growth, ranks)


def _at_rank_along_tangent(inputs: tuple[Array, ...], residual: Array) -> Projected:
    """Of a residual so small that the same case stays chosen: it takes half of it."""
    scores, cases, ranks = inputs
    places = jnp.arange(scores.shape[-1], dtype=residual.dtype)
    number = case_at_rank(scores, jnp.broadcast_to(places[:, None], (*scores.shape, 1)), ranks)
    half = residual / 2
    of_cases = jnp.where((places == number)[..., None], half[..., None, :], 0)
    return (jnp.zeros(scores.shape, half.dtype), of_cases), -half


at_rank = Primitive(
    "at_rank",
    case_at_rank,
    _project_at_rank,
    increment=_at_rank_increment,
    project_tangent=_at_rank_along_tangent,
    moving=2,
)
"""Of the cases ``(..., N, D)`` that whose score among ``(..., N)`` has the rank, 0 for the largest; data ``(...)``."""


def _chosen(score: Array, a: Array, b: Array, *, sign: int) -> Array:
    return jnp.where(sign * score > 0, a, b)


def _project_choice(inputs: tuple[Array, ...], output: Array, residual: Array | None, *, sign: int) -> Projected:
    """The nearer of two pieces: that of the branch that is taken, and the other, with the score at 0, between both."""
    score, a, b = map(widened, inputs)
    takes_a = sign * score > 0
    taken, other = jnp.where(takes_a, a, b), jnp.where(takes_a, b, a)
    beyond = output - taken if residual is None else residual
    beyond_other = (taken - other) + beyond
    switches = score**2 + beyond_other**2 / 2 < beyond**2 / 2
    half = jnp.where(switches, beyond_other, beyond) / 2
    to_a = takes_a != switches
    changes = jnp.where(switches, -score, 0), jnp.where(to_a, half, 0), jnp.where(to_a, 0, half)
    return changes, -half


def _choice_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, sign: int) -> Array:
    score, a, b = starts
    score_change, *of_branches = (jnp.zeros_like(x) if d is None else d for x, d in zip(starts, changes, strict=True))
    new = score + score_change
    return (_chosen(new, a, b, sign=sign) - _chosen(score, a, b, sign=sign)) + _chosen(new, *of_branches, sign=sign)


choice = Primitive("choice", _chosen, _project_choice, increment=_choice_increment)
"""``z = a`` where ``sign score > 0``, else ``b``: a union of two pieces, with their common border 0 in both."""


def _quantize(x: Array, *, levels: int, scale: float, relaxed: bool = False) -> Array:
    """The nearest of the levels."""
    del relaxed
    place = jnp.clip(jnp.round((x / scale + 1) * ((levels - 1) / 2)), 0, levels - 1)
    return (scale * (2 * place - (levels - 1)) / (levels - 1)).astype(x.dtype)


quantize = Primitive("quantize", forward=_quantize, project=by_kernel(pk.project_quantize), batching=Batching.BROADCAST)


def _signs(products: Array) -> Array:
    return jnp.where(products >= 0, 1, -1).astype(products.dtype)


def _project_threshold(inputs: tuple[Array, ...], output: Array, residual: None, *, margin: float) -> Projected:
    a, b = inputs
    *changes, z_change = pk.project_threshold(a, b, output, margin=margin, increments=True)
    return tuple(changes), z_change


def _project_threshold_layer(inputs: tuple[Array, ...], output: Array, residual: None, *, margin: float) -> Projected:
    x, w = inputs
    *changes, z_change = pk.project_threshold_dense(x, w, output, margin=margin, increments=True)
    return tuple(changes), z_change


threshold = Primitive(
    "threshold",
    forward=lambda x, w, *, margin: _signs(jnp.matmul(x, w, precision=lax.Precision.HIGHEST)),
    project=_project_threshold_layer,
    spread=lambda x, w, *, margin: spread_matmul(x, w),
    copywise=Primitive("threshold", lambda a, b, *, margin: _signs(jnp.sum(a * b, axis=-1)), _project_threshold),
    batching=Batching.ROWS,
)
"""``z = sgn(x w)`` with ``|x w| >= margin``, for the rows of ``x`` and the columns of ``w``."""
