"""The projections onto threshold functions beside signs with a straight-through gradient step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows


def straight_through(x: jax.Array) -> jax.Array:
    """The sign, with the derivative of the identity."""
    return x + jax.lax.stop_gradient(jnp.sign(x) - x)


ROWS = kernel_rows(
    pk.project_threshold, {"gradients": gradient_step(lambda a, b: straight_through(jnp.sum(a * b, axis=0)))}
) + kernel_rows(pk.project_threshold_dense, {"gradients": gradient_step(lambda x, w: straight_through(x @ w))})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_threshold(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
