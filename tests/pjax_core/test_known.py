"""Tracing a network compiles nothing: what is known meanwhile is computed by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj

from ..compilations import compilations


def attention(params: Any, x: jax.Array) -> jax.Array:
    queries, keys, values = jnp.split(x @ params["in"], 3, -1)
    angles = jnp.arange(6.0)[:, None] * jnp.array([1.0, 0.1])
    queries, keys = (a * jnp.repeat(jnp.cos(angles), 2, -1) for a in (queries, keys))
    allowed = jnp.tril(jnp.ones((6, 6), bool))
    scores = jax.nn.softmax(jnp.where(allowed, queries @ keys.swapaxes(1, 2) / 2, -jnp.inf))
    return (scores @ values) @ params["out"]


def recurrent(params: Any, x: jax.Array) -> jax.Array:
    def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        gate, new = jnp.split(row @ params["in"][:, :8] + state @ params["out"].repeat(2, 1)[:, :8], 2, -1)
        return jax.nn.sigmoid(gate) * state + jax.nn.gelu(new), None

    return lax.scan(step, jnp.zeros((3, 4)), x.swapaxes(0, 1))[0] @ params["out"]


@pytest.mark.parametrize("network", [attention, recurrent])
def test_tracing_compiles_next_to_nothing(network: Callable[..., jax.Array], generator: np.random.Generator) -> None:
    """The functions of known angles are JAX's own: nothing else takes a program."""
    params = {"in": generator.normal(size=(4, 12)), "out": generator.normal(size=(4, 4))}
    x = generator.normal(size=(3, 6, 4))
    y = np.zeros(jax.eval_shape(network, params, x).shape)
    problem = pj.feasibility(lambda params, x, y: pj.squared_error(network(params, x), y))
    traced = jax.jit(lambda params, x, y: pj.value_and_direction(problem, params, x, y))
    with compilations() as seen:
        traced.trace(params, x, y)
    assert sum("backend_compile" in event for event in seen) <= (1 if network is attention else 0)
