"""``project_layer`` of a matrix product beside a gradient step of the layer."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows

ROWS = kernel_rows(pk.project_layer, {"gradients": gradient_step(jnp.matmul)})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_layer(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
