"""Projections onto output constraints in jax.numpy: any platform."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

MAX_NEWTON_STEPS = 60
"""A stop for inputs that are not finite; the largest strengths that float32 holds need about 25 steps."""

FEW_CLASSES = 128
"""Sums over a last axis as short as this vectorise badly: classes come first then."""


def margin_increment(logits: Array, labels: Array) -> Array:
    """The change of the logits."""
    return jnp.where(labels > 0, jnp.maximum(labels - logits, 0), -jnp.maximum(logits, 0))


def cross_entropy_increment(logits: Array, labels: Array, strength: Array) -> Array:
    """The change of the logits, by Newton steps on the optimality conditions.

    The unknowns are ``u = log softmax(x)`` and ``L = logsumexp(x)``: ``u + L = logits + strength (labels - exp(u))``
    for each class and ``sum exp(u) = 1``.  The Jacobian is an arrow, so a step is O(C).  In these unknowns, unlike
    in ``x``, Newton's method converges for every strength: the equations are convex, their Jacobian never flat.  A row
    stops by itself: no other row tells in its result.
    """
    axis = 0 if logits.shape[-1] <= FEW_CLASSES else -1
    logits, labels = jnp.moveaxis(logits, -1, axis), jnp.moveaxis(labels, -1, axis)
    strength = jnp.expand_dims(strength, axis) if jnp.ndim(strength) else strength
    total = functools.partial(jnp.sum, axis=axis, keepdims=True)
    limits = jnp.finfo(logits.dtype)
    tolerance = 0.01 * float(limits.eps)
    below = below_largest(logits, labels, axis)

    def some_unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        step_number, _, _, unfinished = carry
        return (step_number < MAX_NEWTON_STEPS) & jnp.any(unfinished)

    def newton(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        step_number, u, log_normaliser, unfinished = carry
        p = jnp.exp(u)
        slope = 1 + strength * p
        pull = _labels_less_exp(labels, u)
        residual = (u + log_normaliser - below) - strength * pull
        # -sum(pull) is sum(p) - 1 for labels that add up to 1.
        step = -total(pull + p * residual / slope) / total(p / slope)
        # Only the largest u can overshoot 0, the limit of a log-probability, and only in the first steps.
        down = (residual + step) / slope
        new_u = jnp.minimum(u - down, 0)
        scale = jnp.maximum(jnp.max(jnp.abs(pull), axis=axis, keepdims=True), limits.tiny)
        # Convergence is quadratic: what is left is about this, a probability times the square of its change in u.
        left = jnp.max(jnp.abs((jnp.exp(new_u) - p) * down), axis=axis, keepdims=True)
        # Rows that were finished stay: their results depend on no other row.  Of NaN, nothing is larger.
        return (
            step_number + 1,
            jnp.where(unfinished, new_u, u),
            jnp.where(unfinished, log_normaliser + step, log_normaliser),
            unfinished & (left > tolerance * scale),
        )

    log_normaliser = jnp.log(total(jnp.exp(below)))
    start = jnp.zeros((), jnp.int32), below - log_normaliser, log_normaliser, log_normaliser > -jnp.inf
    _, u, _, _ = lax.while_loop(some_unfinished, newton, start)
    return jnp.moveaxis(strength * _labels_less_exp(labels, u), axis, -1)


def _labels_less_exp(labels: Array, u: Array) -> Array:
    """``labels - exp(u)``, without cancellation where a one-hot label is nearly reached."""
    return -labels * jnp.expm1(u) - (1 - labels) * jnp.exp(u)


def below_largest(logits: Array, labels: Array, axis: int) -> Array:
    """The logits less the largest of their row, bounded, so that sums of a few of them are finite.

    A class at the bound has no probability.  A label at a class that is masked, at -inf, makes its row NaN.
    """
    below = logits - jnp.max(logits, axis=axis, keepdims=True)
    bounded = jnp.maximum(below, -float(jnp.finfo(logits.dtype).max) / 8)
    return jnp.where(jnp.isneginf(logits) & (labels != 0), jnp.nan, bounded)
