"""Projections onto tangents, as directions take them: what small residuals are projected to, for large ones too."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.copies.changes import project_tangent_of_products
from pjax_core.operations import primitives
from pjax_core.operations.primitive import Primitive
from pjax_core.operations.smooth import smooth_function

NORMAL = np.random.default_rng(12).normal
TINY = 1e-7


class Case(NamedTuple):
    """An operation, and its inputs."""

    primitive: Primitive
    arrays: tuple[np.ndarray, ...]
    settings: dict[str, Any] = {}


CASES = {
    "tanh": Case(primitives.elementwise("tanh"), (NORMAL(size=(4, 3)),)),
    "softplus": Case(primitives.elementwise("softplus"), (NORMAL(size=(4, 3)),)),
    "any function": Case(primitives.elementwise(lambda x, c: jnp.sin(c * x)), (NORMAL(size=5), NORMAL(size=5))),
    "affine": Case(primitives.affine, (NORMAL(size=(4, 3)), NORMAL(size=3), NORMAL(size=(4, 1)))),
    "divide": Case(primitives.divide, (NORMAL(size=(4, 3)), 2 + NORMAL(size=3) ** 2)),
    "matmul": Case(primitives.matmul, (NORMAL(size=(4, 3)), NORMAL(size=(3, 5)))),
    "transposed": Case(primitives.matmul_transposed, (NORMAL(size=(4, 3)), NORMAL(size=(5, 3)))),
    "multiply": Case(primitives.multiply, (NORMAL(size=(4, 3)), NORMAL(size=3))),
    "einsum": Case(primitives.einsum, (NORMAL(size=(2, 4, 3)), NORMAL(size=(3, 5))), {"equation": "bti,io->bto"}),
    "convolution": Case(
        primitives.conv2d,
        (NORMAL(size=(2, 5, 4, 3)), NORMAL(size=(3, 3, 3, 2))),
        {"strides": (2, 1), "padding": "SAME"},
    ),
    "at a rank": Case(primitives.at_rank, (NORMAL(size=(6, 4)), NORMAL(size=(6, 4, 3)), np.arange(6) % 4)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CASES)
def test_tangents_take_small_residuals_as_graphs_do(name: str) -> None:
    primitive, arrays, settings = CASES[name]
    inputs = tuple(map(jnp.asarray, arrays))
    output = primitive.forward(*inputs, **settings)
    residual = NORMAL(size=output.shape)
    project = primitive.project_tangent
    if project is None:
        found = project_tangent_of_products(primitive, inputs, residual, **settings)
    else:
        found = project(inputs, residual, **settings)
    expected = primitive.project(inputs, output + TINY * residual, TINY * residual, **settings)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other / TINY, rtol=1e-5, atol=1e-6 * np.abs(one).max())


@pytest.mark.usefixtures("float64")
def test_rows_of_smooth_functions_are_asked_evenly() -> None:
    """Each hands on what its derivatives let through, over what they let through in the mean."""
    x, residual = jnp.asarray(NORMAL(size=(5, 3))), NORMAL(size=(5, 3))
    softmax = smooth_function("softmax", jax.nn.softmax)
    (change,), _ = softmax.project_tangent((x,), residual)
    passed = jnp.einsum("rij,ri->rj", jax.vmap(jax.jacobian(jax.nn.softmax))(x), residual)
    np.testing.assert_allclose(change, passed * softmax.shares(x)[0], rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("x", [0.0, np.inf, -np.inf])
def test_where_a_slope_is_none_or_infinite_nothing_but_the_output_moves_or_nothing(x: float) -> None:
    function = jnp.tanh if np.isinf(x) else jnp.square
    (change,), output_change = primitives.elementwise(function).project_tangent((np.full(1, x),), np.ones(1))
    assert (change, output_change) == (0, -1)
    (change,), output_change = primitives.elementwise(jnp.sqrt).project_tangent((np.zeros(1),), np.ones(1))
    assert (change, output_change) == (0, 0)


def test_directions_search_for_no_nearest_points() -> None:
    """Their far residuals go along tangents: with exact projections most of the program is that search."""

    def network(params: Any, x: Any, y: Any) -> Any:
        h = jnp.tanh(x @ params["w"])
        for _ in range(3):
            h = jax.nn.silu(2 * h)
        return pj.cross_entropy(jax.nn.softmax(h) @ params["out"], y)

    params = {"w": NORMAL(size=(4, 5)), "out": NORMAL(size=(5, 3))}
    arguments = params, NORMAL(size=(6, 4)), np.arange(6) % 3

    def loops(algorithm: Any) -> int:
        problem = pj.feasibility(network)
        lowered = jax.jit(lambda *a: pj.direction(problem, *a, algorithm=algorithm)).lower(*arguments)
        return lowered.as_text().count("stablehlo.while")

    def of_steps() -> int:
        algorithm = pj.alternating_projections()
        problem = pj.feasibility(network)
        start = jax.eval_shape(lambda *a: algorithm.init(problem, *a), *arguments)
        return jax.jit(lambda state: algorithm.step(problem, state)).lower(start).as_text().count("stablehlo.while")

    assert loops(None) < of_steps() / 2
