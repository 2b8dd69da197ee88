"""``project_quantize`` beside rounding with a straight-through gradient step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows


def straight_through(x: jax.Array) -> jax.Array:
    """The nearest of 4 levels from -1 to 1, with the derivative of the identity."""
    rounded = jnp.round((jnp.clip(x, -1, 1) + 1) * 1.5) / 1.5 - 1
    return x + jax.lax.stop_gradient(rounded - x)


ROWS = kernel_rows(pk.project_quantize, {"gradients": gradient_step(straight_through)})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_quantize(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
