"""Projections onto scalar functions, affine maps, means and normalisation beside gradient steps of the same."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows


def average(x: jax.Array) -> jax.Array:
    """Of windows of 2 x 2."""
    zero = np.zeros((), x.dtype)
    return jax.lax.reduce_window(x, zero, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def normalised(x: jax.Array) -> jax.Array:
    """Layer normalisation without scale and bias."""
    entries = x - jnp.mean(x, axis=-1, keepdims=True)
    return entries * jax.lax.rsqrt(jnp.mean(entries**2, axis=-1, keepdims=True) + 1e-5)


ROWS = [
    *kernel_rows(pk.project_elementwise, {"gradients": gradient_step(jnp.tanh)}),
    *kernel_rows(pk.project_affine, {"gradients": gradient_step(lambda x: 2 * x)}),
    *kernel_rows(pk.project_average_pool, {"gradients": gradient_step(average)}),
    *kernel_rows(pk.project_min, {"gradients": gradient_step(lambda x: jnp.min(x, axis=-1))}),
    *kernel_rows(pk.project_normalize, {"gradients": gradient_step(normalised)}),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_elementwise(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
