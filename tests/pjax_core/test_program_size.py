"""How much program each dense layer adds to a step: what compiling takes follows from it."""

import jax
import jax.numpy as jnp
import pytest

import pjax_core as pj


def network(params, x, y):
    for w in params[:-1]:
        x = pj.relu(pj.matmul(x, w))
    return pj.margin_loss(pj.matmul(x, params[-1]), y)


PROBLEM = pj.feasibility(network)


def lines(algorithm: pj.Algorithm, layers: int) -> int:
    """Of the StableHLO of a step, for layers of different widths."""
    sizes = [20 + k for k in range(layers + 1)]
    params = [jnp.ones(shape, jnp.float32) for shape in zip(sizes[:-1], sizes[1:], strict=True)]
    x, y = jnp.ones((4, sizes[0]), jnp.float32), jnp.eye(4, sizes[-1], dtype=jnp.float32)
    state = jax.eval_shape(lambda *a: algorithm.init(PROBLEM, *a), params, x, y)
    return jax.jit(lambda state: algorithm.step(PROBLEM, state)).lower(state).as_text().count("\n")


@pytest.mark.parametrize(
    ("algorithm", "most"),
    [
        (pj.alternating_projections(), 1200),
        (pj.cyclic_projections(), 1200),
        (pj.douglas_rachford(), 1500),
        (pj.difference_map(), 1500),
    ],
    ids=["AP", "CP", "DR", "DM"],
)
def test_a_layer_adds_few_lines(algorithm: pj.Algorithm, most: int) -> None:
    assert lines(algorithm, 4) - lines(algorithm, 3) <= most
