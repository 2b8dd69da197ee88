"""``project_recurrence`` beside back-propagation through all time steps."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from jax import Array

import pjax_kernels as pk
from bilinear import hidden_states
from rows import Row, descend, kernel_rows


def back_propagation(x: Array, h: Array, w_x: Array, w_h: Array, z: Array) -> list[Array]:
    """A gradient step of the weights, for half the squared error of all hidden states."""
    del h  # computed, one after the other

    def loss(weights: list[Array]) -> Array:
        w_x, w_h = weights
        return jnp.sum((hidden_states(x, w_x, w_h, jnp.zeros(z.shape[-1], z.dtype)) - z) ** 2) / 2

    return descend(loss, [w_x, w_h])


ROWS = kernel_rows(pk.project_recurrence, {"gradients": back_propagation})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_recurrence(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
