"""The derivative of the proximal operator of cross-entropy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_jvp
def cross_entropy_formula(change: Array, logits: Array, labels: Array, strength: Array) -> Array:
    """The known change of the logits, as a function of the others alone."""
    del logits, labels, strength
    return change


@cross_entropy_formula.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """By the conditions of the minimiser ``x = logits + strength (labels - p)``, ``p = softmax(x)``.

    They move by ``(I + strength (diag(p) - p p^T)) dx = d_logits + strength d_labels + d_strength (labels - p)``, whose
    matrix is diagonal but for one product: the inverse is that of Sherman and Morrison, in O(C).
    """
    change, logits, labels, strength = primals
    _, d_logits, d_labels, d_strength = tangents
    strength, d_strength = strength[..., None], d_strength[..., None]  # one number, or one for each row
    p = jax.nn.softmax(logits + change, axis=-1)
    pull = strength * d_labels + d_strength * (labels - p)
    diagonal = 1 + strength * p
    d_target = (d_logits + pull) / diagonal
    # 1 - strength sum(p p/diagonal), in the form that does not cancel.
    correction = jnp.sum(p * d_target, axis=-1, keepdims=True) / jnp.sum(p / diagonal, axis=-1, keepdims=True)
    d_x = d_target + (strength * correction) * (p / diagonal)
    d_p = p * (d_x - jnp.sum(p * d_x, axis=-1, keepdims=True))
    return cross_entropy_formula(*primals), pull - strength * d_p
