"""``project_sum`` and ``project_sum_over`` beside gradient steps of the sums."""

import operator
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows

ROWS = [
    *kernel_rows(pk.project_sum, {"gradients": gradient_step(operator.add)}),
    *kernel_rows(pk.project_sum_over, {"gradients": gradient_step(partial(jnp.sum, axis=-1))}),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_sum(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
