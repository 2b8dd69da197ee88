"""``project_sum_relu`` beside a gradient step of the rectified sum."""

from collections.abc import Callable

import jax
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows

ROWS = kernel_rows(pk.project_sum_relu, {"gradients": gradient_step(lambda x, bias: jax.nn.relu(x + bias))})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_sum_relu(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
