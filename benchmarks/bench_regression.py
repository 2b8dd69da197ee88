"""The proximal operators of errors and the projection onto a box beside gradient steps of the same losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, descend, kernel_rows


def step_of(error: Callable[[jax.Array], jax.Array]) -> Callable[..., list[jax.Array]]:
    """Down the sum of errors of a prediction."""
    return lambda prediction, target: descend(lambda x: jnp.sum(error(x[0] - target)), [prediction])


def step_into_box(value: jax.Array) -> list[jax.Array]:
    return descend(lambda x: jnp.sum((x[0] - jnp.clip(x[0], -0.5, 0.5)) ** 2), [value])


ROWS = [
    *kernel_rows(pk.prox_squared_error, {"gradients": step_of(jnp.square)}),
    *kernel_rows(pk.prox_absolute_error, {"gradients": step_of(jnp.abs)}),
    *kernel_rows(pk.project_box, {"gradients": step_into_box}),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_regression(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
