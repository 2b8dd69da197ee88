"""Networks as their users write them learn digits by projections: plain JAX, Flax and Equinox."""

from __future__ import annotations

import functools
import importlib.util

import jax
import pytest

from benchmarks.studies.ten_networks import NETWORKS, digits, directions, train

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="the digits are scikit-learn's"),
]

MODULES = {"flax_nnx": "flax", "equinox": "equinox"}
"""What networks need that is not JAX."""


@pytest.mark.parametrize(
    ("name", "dot_products"),
    [
        *((name, ("each", "layer")[place % 2]) for place, name in enumerate(NETWORKS)),
        ("cnn", "layer"),
        ("attention", "layer"),
    ],
)
def test_a_network_learns(name: str, dot_products: str) -> None:
    if name in MODULES:
        pytest.importorskip(MODULES[name])
    network = NETWORKS[name](jax.random.key(0))
    rows = [array[:64] for array in digits(network)[0]]
    loss = jax.jit(functools.partial(network.loss))
    params, _ = train(network, directions(network)[dot_products], 25, 64, 1e-2, rows)
    assert float(loss(params, *rows)) < 0.8 * float(loss(network.params, *rows))
