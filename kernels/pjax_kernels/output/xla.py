"""Projections onto output constraints in jax.numpy: any platform."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from pjax_kernels import sums
from pjax_kernels.meshes import shards

MAX_NEWTON_STEPS = 60
"""A stop for inputs that are not finite; the largest strengths that float32 holds need about 20 steps."""

FEW_CLASSES = 128
"""Sums over a last axis as short as this vectorise badly: classes come first then."""

BLOCK = 1 << 17
"""Entries that are computed at a time: few enough that what is in between stays in the cache of a CPU."""

SMALL = 1 << 13
"""Entries of arrays of few classes for which one pass for several sums is faster than one for each."""

SERIES = 0.25
"""Down to minus this, ``exp(u) - 1`` comes from its series."""


def margin_increment(logits: Array, labels: Array) -> Array:
    """The change of the logits."""
    return jnp.where(labels > 0, jnp.maximum(labels - logits, 0), -jnp.maximum(logits, 0))


def cross_entropy_increment(logits: Array, labels: Array, strength: Array) -> Array:
    """The change of the logits: of blocks of rows, one after the other, where there are many."""
    batch, classes = math.prod(logits.shape[:-1]), logits.shape[-1]
    if is_symbolic_dim(batch) or classes <= FEW_CLASSES or batch * classes <= BLOCK:
        return _increment_of_rows(logits, labels, strength)
    parts = shards(batch)
    rows, most = batch // parts, max(1, BLOCK // (classes * parts))
    block = max(count for count in range(1, most + 1) if rows % count == 0)
    if block <= most // 4:
        return _increment_of_rows(logits, labels, strength)
    strength = jnp.broadcast_to(strength, logits.shape[:-1])
    # Some rows of each part in turn: no row moves to another device.
    operands = [array.reshape(parts, rows, *array.shape[logits.ndim - 1 :]) for array in (logits, labels, strength)]

    def advance(k: Array, changes: Array) -> Array:
        some = (lax.dynamic_slice_in_dim(array, k * block, block, 1) for array in operands)
        return lax.dynamic_update_slice_in_dim(changes, _increment_of_rows(*some), k * block, 1)

    return lax.fori_loop(0, rows // block, advance, jnp.zeros_like(operands[0])).reshape(logits.shape)


class _State(NamedTuple):
    """Of the steps towards the solution."""

    step_number: Array
    u: Array
    pull: Array
    """``labels - exp(u)``."""
    log_normaliser: Array
    step: Array
    """The next change of ``log_normaliser``, from which that of ``u`` follows."""
    unfinished: Array
    """Whether the next step is not the last one of a row."""


def _increment_of_rows(logits: Array, labels: Array, strength: Array) -> Array:
    """The change of the logits, by Newton steps on the optimality conditions.

    The unknowns are ``u = log softmax(x)`` and ``L = logsumexp(x)``: ``u + L = logits + strength (labels - exp(u))``
    for each class and ``sum exp(u) = 1``.  The Jacobian is an arrow, so a step is O(C).  In these unknowns, unlike
    in ``x``, Newton's method converges for every strength: the equations are convex, their Jacobian never flat.  Their
    second derivatives make it of third order; far away, where changes of ``u`` are larger than 1, they count as
    though these were 1.  A row stops by itself: no other row tells in its result.
    """
    rows = _Rows(logits.shape)
    labels, strength = rows.cut(labels), jnp.reshape(jnp.broadcast_to(strength, logits.shape[:-1]), rows.one_each)
    below = below_largest(rows.cut(logits), labels, rows.axes)
    tolerance = 0.1 * float(jnp.finfo(below.dtype).eps)

    def change_alone(u: Array, pull: Array, log_normaliser: Array) -> Array:
        """What solves the linear equation of each class while ``log_normaliser`` stays."""
        return ((below - u) - log_normaliser + strength * pull) / (1 + strength * (labels - pull))

    def moved(state: _State) -> Array:
        """``u`` after the step: only the largest can overshoot 0, the limit of a log-probability, and only at first."""
        inverse = 1 / (1 + strength * (labels - state.pull))
        change = change_alone(state.u, state.pull, state.log_normaliser) - state.step * inverse
        return jnp.minimum(state.u + change / (1 + 0.5 * (1 - inverse) * jnp.clip(change, -1, 1)), 0)

    def advance(state: _State) -> _State:
        # Rows that were finished stay: their results depend on no other row.
        u = jnp.where(state.unfinished, moved(state), state.u)
        log_normaliser = state.log_normaliser + jnp.where(state.unfinished, state.step, 0)
        pull = _labels_less_exp(labels, u)
        p = labels - pull
        change, inverse = change_alone(u, pull, log_normaliser), 1 / (1 + strength * p)
        slope, bounded = p * inverse, jnp.clip(change, -1, 1)
        # -sum(pull) is sum(p) - 1 for labels that add up to 1.
        excess, slopes, curvature = rows.total(
            p * change + 0.5 * slope * bounded * bounded - pull,
            slope * (1 + inverse * bounded),
            0.5 * slope * inverse * inverse,
        )
        # What is left after the step is about a probability times the cube of its change.  Of NaN, nothing is larger.
        left, scale = rows.total(p * jnp.abs(change * change * change), jnp.abs(pull))
        step = _smaller_root(excess, slopes, curvature)
        unfinished = state.unfinished & (4 * (left + jnp.abs(step * step * step)) > tolerance * scale)
        return _State(state.step_number + 1, u, pull, log_normaliser, step, unfinished)

    log_normaliser = jnp.log(jnp.sum(jnp.exp(below), axis=rows.axes, keepdims=True))
    u = below - log_normaliser
    start = _State(
        step_number=jnp.zeros((), jnp.int32),
        u=u,
        pull=_labels_less_exp(labels, u),
        log_normaliser=log_normaliser,
        step=jnp.zeros_like(log_normaliser),
        unfinished=(log_normaliser > -jnp.inf) & (strength > 0),  # of no strength, labels need not add up to 1
    )
    last = lax.while_loop(
        lambda state: (state.step_number < MAX_NEWTON_STEPS) & jnp.any(state.unfinished), advance, start
    )
    return rows.joined(strength * _labels_less_exp(labels, moved(last)))


class _Rows:
    """How rows are cut so that sums over their classes vectorise."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        *self._batch, self._classes = shape
        self._first = self._classes <= FEW_CLASSES
        self._parts = sums.parts_of(self._classes)
        self.axes = (0,) if self._first else (-2, -1)
        self.one_each = (1, *self._batch) if self._first else (*self._batch, 1, 1)

    def cut(self, array: Array) -> Array:
        """Classes first, or last in parts."""
        if self._first:
            return jnp.moveaxis(array, -1, 0)
        return array.reshape(*self._batch, self._parts, self._classes // self._parts)

    def joined(self, array: Array) -> Array:
        """In the shape there was."""
        return jnp.moveaxis(array, 0, -1) if self._first else array.reshape(*self._batch, self._classes)

    def total(self, *terms: Array) -> list[Array]:
        """The sums over all classes."""
        if self._first:
            few = not is_symbolic_dim(terms[0].size) and terms[0].size <= SMALL
            totals = sums.over_axis(terms, 0) if few else [jnp.sum(term, axis=0) for term in terms]
            return [total[None] for total in totals]
        # In one pass: but XLA vectorises none of more than three.
        return [total[..., None, None] for total in sums.over_axis(sums.over_axis(terms, -2), -1)]


def _smaller_root(constant: Array, slope: Array, curvature: Array) -> Array:
    """Of ``constant - slope x + curvature x^2``, or of its linear part where that is far away."""
    linear = constant / slope
    discriminant = jnp.maximum(1 - 4 * curvature * (linear / slope), 0)
    return jnp.where(jnp.abs(linear) < 4, 2 * linear / (1 + jnp.sqrt(discriminant)), linear)


def _labels_less_exp(labels: Array, u: Array) -> Array:
    """``labels - exp(u)``, without cancellation where a one-hot label is nearly reached."""
    # The same as of expm1, which takes several times as long.
    degree = 6 if jnp.finfo(u.dtype).bits <= 32 else 12
    series = functools.reduce(lambda rest, k: 1 + (u * (1 / k)) * rest, range(degree, 1, -1), jnp.ones_like(u))
    return jnp.where(u > -SERIES, (labels - 1) - u * series, labels - jnp.exp(u))


def below_largest(logits: Array, labels: Array, axis: int | tuple[int, ...]) -> Array:
    """The logits less the largest of their row, bounded, so that sums of a few of them are finite.

    A class at the bound has no probability.  A label at a class that is masked, at -inf, makes its row NaN.
    """
    below = logits - jnp.max(logits, axis=axis, keepdims=True)
    bounded = jnp.maximum(below, -float(jnp.finfo(logits.dtype).max) / 8)
    return jnp.where(jnp.isneginf(logits) & (labels != 0), jnp.nan, bounded)
