"""Textbook projections onto output constraints."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

BISECTIONS = 200

_TINY = 1e-30
"""In the place of a strength of 0."""


def margin_increment(logits: Array, labels: Array) -> Array:
    """The change of the logits."""
    nearest = jnp.where(labels > 0, jnp.maximum(logits, labels), jnp.minimum(logits, 0))
    return nearest - logits


def cross_entropy_increment(logits: Array, labels: Array, strength: Array) -> Array:
    """The change of the logits, by nested bisection on the optimality conditions.

    With ``log_normaliser = logsumexp(x)``, each ``x`` solves ``x + strength exp(x - log_normaliser) = target``; the
    normaliser is right when these exponentials add up to 1.
    """
    strength = jnp.asarray(strength, logits.dtype)[..., None]  # one number, or one for each row
    target = logits + strength * labels
    top = jnp.max(target, axis=-1, keepdims=True)

    def solve_x(log_normaliser: Array) -> Array:
        low = jnp.minimum(target, log_normaliser) - strength - 1
        high = jnp.minimum(target, log_normaliser + jnp.log1p((top - low) / jnp.maximum(strength, _TINY)) + 1)
        return _bisect(lambda x: x + strength * jnp.exp(x - log_normaliser) > target, low, high)

    def normaliser_too_large(log_normaliser: Array) -> Array:
        x = solve_x(log_normaliser)
        return jnp.sum(jnp.exp(x - log_normaliser), axis=-1, keepdims=True) < 1

    count = logits.shape[-1]
    log_normaliser = _bisect(normaliser_too_large, top - strength - 1, top + jnp.log(count) + 1)
    return strength * (labels - jax.nn.softmax(solve_x(log_normaliser), axis=-1))


def _bisect(too_large, low: Array, high: Array) -> Array:  # type: ignore[no-untyped-def]
    """The elementwise boundary of an increasing condition."""

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = too_large(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return (low + high) / 2
