"""Projections onto output constraints in jax.numpy: any platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

MAX_NEWTON_STEPS = 60
"""A stop for inputs that are not finite; the largest strengths that float32 holds need about 25 steps."""


def margin_increment(logits: Array, labels: Array) -> Array:
    """The change of the logits."""
    return jnp.where(labels > 0, jnp.maximum(labels - logits, 0), -jnp.maximum(logits, 0))


def cross_entropy_increment(logits: Array, labels: Array, strength: Array) -> Array:
    """The change of the logits, by Newton steps on the optimality conditions.

    The unknowns are ``u = log softmax(x)`` and ``L = logsumexp(x)``: ``u + L = logits + strength (labels - exp(u))``
    for each class and ``sum exp(u) = 1``.  The Jacobian is an arrow, so a step is O(C).  In these unknowns, unlike
    in ``x``, Newton's method converges for every strength: the equations are convex, their Jacobian never flat.
    """
    # Classes first: sums over a short last axis do not vectorise.
    logits, labels = jnp.moveaxis(logits, -1, 0), jnp.moveaxis(labels, -1, 0)
    log_normaliser = jax.nn.logsumexp(logits, axis=0)
    limits = jnp.finfo(logits.dtype)
    tolerance = 0.1 * float(limits.eps) ** 0.5  # convergence is quadratic

    def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        step_number, _, _, change = carry
        return (step_number < MAX_NEWTON_STEPS) & (jnp.max(change, initial=0) > tolerance)

    def newton(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        step_number, u, log_normaliser, _ = carry
        p = jnp.exp(u)
        slope = 1 + strength * p
        pull = _labels_less_exp(labels, u)
        residual = (u + log_normaliser - logits) - strength * pull
        # -sum(pull) is sum(p) - 1 for labels that add up to 1.
        step = -jnp.sum(pull + p * residual / slope, axis=0) / jnp.sum(p / slope, axis=0)
        # Only the largest u can overshoot 0, the limit of a log-probability, and only in the first steps.
        new_u = jnp.minimum(u - (residual + step) / slope, 0)
        scale = jnp.maximum(jnp.max(jnp.abs(pull), axis=0), limits.tiny)
        change = jnp.max(jnp.abs(jnp.exp(new_u) - p), axis=0) / scale
        return step_number + 1, new_u, log_normaliser + step, change

    start = (
        jnp.zeros((), jnp.int32),
        logits - log_normaliser,
        log_normaliser,
        jnp.full_like(log_normaliser, jnp.inf),
    )
    _, u, _, _ = lax.while_loop(unfinished, newton, start)
    return jnp.moveaxis(strength * _labels_less_exp(labels, u), 0, -1)


def _labels_less_exp(labels: Array, u: Array) -> Array:
    """``labels - exp(u)``, without cancellation where a one-hot label is nearly reached."""
    return -labels * jnp.expm1(u) - (1 - labels) * jnp.exp(u)
