"""``project_bilinear`` beside a gradient step of the dot products, and the textbook's Newton iteration."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from jax import Array

import naive
import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows


def dot_products(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


ROWS = kernel_rows(pk.project_bilinear, {"gradients": gradient_step(dot_products), "naive": naive.project_dot})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bilinear(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
