"""``project_margin`` and ``prox_cross_entropy`` beside gradient steps of the hinge and the cross-entropy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

import pjax_kernels as pk
from rows import Row, descend, kernel_rows


def hinge_step(logits: jax.Array, labels: jax.Array) -> list[jax.Array]:
    """Down the squared distance from a margin."""
    signs = jnp.where(labels > 0, -1, 1)
    return descend(lambda x: jnp.sum(jax.nn.relu(signs * x[0] + labels) ** 2), [logits])


def cross_entropy_step(logits: jax.Array, labels: jax.Array) -> list[jax.Array]:
    return descend(lambda x: -jnp.sum(labels * jax.nn.log_softmax(x[0])), [logits])


ROWS = [
    *kernel_rows(pk.project_margin, {"gradients": hinge_step}),
    *kernel_rows(pk.prox_cross_entropy, {"gradients": cross_entropy_step}),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_output(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
