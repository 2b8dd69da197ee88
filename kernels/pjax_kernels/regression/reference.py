"""Textbook proximal operators of the errors of regression, and the projection onto a box."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def squared_error_increment(prediction: Array, target: Array, pull: Array) -> Array:
    """The change of the prediction; ``pull`` is the strength times the weight."""
    share = 2 * pull / (1 + 2 * pull)
    return (1 - share) * prediction + share * target - prediction


def absolute_error_increment(prediction: Array, target: Array, pull: Array) -> Array:
    """The change of the prediction: its distance from the target shrinks by ``pull``, at most to 0."""
    error = prediction - target
    return -jnp.sign(error) * jnp.minimum(jnp.abs(error), pull)


def box_increment(value: Array, low: Array, high: Array) -> Array:
    """The change of the value."""
    return jnp.clip(value, low, high) - value
