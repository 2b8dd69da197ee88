"""Proximal operators of the errors of regression, and the projection onto a box, in jax.numpy: any platform."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def squared_error_increment(prediction: Array, target: Array, pull: Array) -> Array:
    """The change of the prediction; ``pull`` is the strength times the weight, which may be infinite."""
    # 1 / (1 + 1 / y) and not y / (1 + y), which overflows in y.
    return (target - prediction) / (1 + 0.5 / pull)


def absolute_error_increment(prediction: Array, target: Array, pull: Array) -> Array:
    """The change of the prediction."""
    return jnp.clip(target - prediction, -pull, pull)


def box_increment(value: Array, low: Array, high: Array) -> Array:
    """The change of the value."""
    return jnp.maximum(low - value, 0) + jnp.minimum(high - value, 0)
