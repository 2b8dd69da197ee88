"""Batches of one sample, whose axis has length 1 like those that broadcasting adds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj

SHAPES = {"a": (6, 6), "b": (6, 6), "pos": (4, 6), "other": (4, 6), "w": (6, 3)}


NETWORKS = {
    "positions": ("a b pos w", lambda p, x: jnp.tanh((x @ p["a"] + p["pos"]).sum(1) / 3 + x[:, 0] @ p["b"]) @ p["w"]),
    "differences": ("a pos w", lambda p, x: (x @ p["a"] - p["pos"]).sum(1) @ p["w"]),
    "products": ("a pos w", lambda p, x: jnp.tanh((x @ p["a"]) * p["pos"]).mean(1) @ p["w"]),
    "quotients": ("a pos w", lambda p, x: ((x @ p["a"]) / (3 + jnp.tanh(p["pos"]))).max(1) @ p["w"]),
    "rectified sums": ("a pos w", lambda p, x: jax.nn.relu(x @ p["a"] + p["pos"]).sum(1) @ p["w"]),
    "sums of parameters": ("a pos other w", lambda p, x: (x @ p["a"] + (p["pos"] + p["other"])[None]).sum(1) @ p["w"]),
    "parameters": ("pos other w", lambda p, x: (x + jax.nn.relu(p["pos"][None] + p["other"][None])).sum(1) @ p["w"]),
    "their products": ("pos other w", lambda p, x: (x + p["pos"][None] * p["other"][None]).sum(1) @ p["w"]),
    "prototypes": ("pos", lambda p, x: -jnp.sum((x[:, None, 0] - p["pos"]) ** 2, -1)[:, :3]),
    "larger of two": ("a pos w", lambda p, x: jnp.maximum(x @ p["a"], p["pos"][None]).sum(1) @ p["w"]),
    "comparisons": ("a b pos w", lambda p, x: jnp.where(x @ p["a"] > p["pos"], x @ p["b"], 0.1).sum(1) @ p["w"]),
    "columns": ("a pos w", lambda p, x: jnp.tanh(x @ p["a"] + p["pos"]).transpose(0, 2, 1)[..., 0] @ p["w"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_sample_counts_as_much_as_two_that_equal_it(name: str, generator: np.random.Generator) -> None:
    used, network = NETWORKS[name]
    problem = pj.feasibility(lambda p, x, y: pj.squared_error(network(p, x), y, strength=0.01))
    params = {key: np.float32(0.4 * generator.normal(size=SHAPES[key])) for key in used.split()}
    x, y = np.float32(generator.normal(size=(1, 4, 6))), np.float32(generator.normal(size=(1, 3)))
    value, found = pj.value_and_direction(problem, params, x, y)
    both, expected = pj.value_and_direction(problem, params, np.repeat(x, 2, 0), np.repeat(y, 2, 0))
    np.testing.assert_allclose(value, both, rtol=1e-5)
    for key in params:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-4 * np.abs(expected[key]).max())
