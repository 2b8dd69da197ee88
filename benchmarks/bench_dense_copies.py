"""``project_dense_copies`` beside the textbook's projection and means of the same stored copies."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from jax import Array

import naive
import pjax_kernels as pk
from rows import Row, kernel_rows


def stored_copies(x: Array, w: Array, u: Array, v: Array, z: Array) -> tuple[Array, ...]:
    """The step of :func:`kernel_cases.layer_with_deviations`."""
    a, b = x[:, None] - u, w.T[None] - v
    new_a, new_b, new_z = naive.project_dot(a, b, z)
    change_a, change_b = new_a - a, new_b - b
    means = jnp.mean(change_a, axis=1), jnp.mean(change_b, axis=0).T
    return (0.4 * u + 0.6 * change_a, 0.4 * v + 0.6 * change_b, *means, new_z - z)


ROWS = kernel_rows(pk.project_dense_copies, {"naive": stored_copies})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_dense_copies(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
