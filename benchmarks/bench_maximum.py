"""``project_max`` and ``project_max_pool`` beside gradient steps of the maxima."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows


def max_pool(images: jax.Array) -> jax.Array:
    """The maxima of 2 x 2 windows."""
    return jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


ROWS = [
    *kernel_rows(pk.project_max, {"gradients": gradient_step(partial(jnp.max, axis=-1))}),
    *kernel_rows(pk.project_max_pool, {"gradients": gradient_step(max_pool)}),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_maximum(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
