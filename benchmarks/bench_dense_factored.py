"""``project_dense_factored`` beside a gradient step of the layer, and the textbook's projection of stored copies."""

from collections.abc import Callable

import jax.numpy as jnp
import pytest
from jax import Array

import naive
import pjax_kernels as pk
from rows import Row, gradient_step, kernel_rows


def gradients(x: Array, _x: Array, w: Array, *others: Array) -> list[Array]:
    return gradient_step(jnp.matmul)(x, w, others[-1])


def stored_copies(x: Array, x_1: Array, w: Array, w_1: Array, *others: Array) -> tuple[Array, ...]:
    """Projects the copies that the coefficients of the case stand for, and averages them."""
    u_x, u_w, v_x, v_w = (coefficient[..., None] for coefficient in others[:4])
    z = others[4]
    u = x[:, None] + u_x * x_1[:, None] + u_w * w_1.T
    v = w.T + v_x * x_1[:, None] + v_w * w_1.T
    new_u, new_v, new_z = naive.project_dot(u, v, z)
    return new_u, new_v, jnp.mean(new_u, axis=1), jnp.mean(new_v, axis=0).T, new_z


ROWS = kernel_rows(pk.project_dense_factored, {"gradients": gradients, "naive": stored_copies})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_dense_factored(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
