"""``project_dense`` beside a gradient step of the layer."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows

ROWS = kernel_rows(pk.project_dense, {"gradients": gradient_step(jnp.matmul)})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_dense(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
