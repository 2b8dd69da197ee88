"""Proximal operators of the errors of regression, and the projection onto a box, in jax.numpy: any platform."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def squared_error_increment(prediction: Array, target: Array, pull: Array) -> Array:
    """The change of the prediction; ``pull`` is the strength times the weight, which may be infinite."""
    # In the form that is smooth for a pull of 0, or for an infinite one.
    weak = pull < 1
    double, half = 2 * jnp.where(weak, pull, 1), 0.5 / jnp.where(weak, 1, pull)
    return (target - prediction) * jnp.where(weak, double / (1 + double), 1 / (1 + half))


def absolute_error_increment(prediction: Array, target: Array, pull: Array) -> Array:
    """The change of the prediction."""
    return jnp.clip(target - prediction, -pull, pull)


def box_increment(value: Array, low: Array, high: Array) -> Array:
    """The change of the value."""
    return jnp.maximum(low - value, 0) + jnp.minimum(high - value, 0)
