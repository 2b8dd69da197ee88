"""Functions exported for any batch size agree with those called with one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import pjax_core as pj
import pjax_kernels as pk

RNG = np.random.default_rng(11)
W0, B0, W1, FILTERS = (np.float32(RNG.normal(size=shape)) for shape in ((8, 12), (12,), (12, 2), (3, 3, 1, 2)))
PARAMS = {"w0": W0, "b0": B0, "w1": W1}


def network(p: Any, x: Any) -> Any:
    return pj.matmul(pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"]), p["w1"])


PROBLEM = pj.feasibility(lambda p, x, y: pj.margin_loss(network(p, x), y))
AP = pj.alternating_projections()
MOVES = {"scale": (1.0, 1.0), "keep": (1.0, 1.0), "gain": (1.0, 1.0)}

FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "network": (lambda x: network(PARAMS, x), [(8,)]),
    "dense": (lambda x, z: pk.project_dense(x, W0, z), [(8,), (12,)]),
    "conv2d": (lambda x, z: pk.project_conv2d(x, FILTERS, z), [(4, 4, 1), (2, 2, 2)]),
    "dense_copies": (
        lambda x, u, v, z: pk.project_dense_copies(x, W0, u, v, z, **MOVES),
        [(8,), (12, 8), (12, 8), (12,)],
    ),
    "dense_factored": (
        lambda x, z: pk.project_dense_factored((x,), (W0,), ((1.0,), (0.5,)), ((0.5,), (1.0,)), z),
        [(8,), (12,)],
    ),
    "recurrence": (
        lambda x, h, z: pk.project_recurrence(x, h, W0, W0[:, :12].T @ W0, z),
        [(3, 8), (3, 12), (3, 12)],
    ),
    "solve": (lambda x, y: pj.solve(PROBLEM, PARAMS, x, jnp.abs(y), algorithm=AP, steps=2).params, [(8,), (2,)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_open_batch_sizes(name: str) -> None:
    """With near roots and with far ones."""
    function, shapes = FUNCTIONS[name]
    (batch,) = export.symbolic_shape("b")
    stored = export.export(jax.jit(function))(*(jax.ShapeDtypeStruct((batch, *s), jnp.float32) for s in shapes))
    for size, far in itertools.product((1, 5), (0.3, 30.0)):
        arrays = [np.float32(far * RNG.normal(size=(size, *shape))) for shape in shapes]
        expected, found = function(*arrays), stored.call(*arrays)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.linalg.norm(left - right) <= 1e-5 * np.linalg.norm(right)
