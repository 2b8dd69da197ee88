"""Operations with constants, scalar functions and normalisation pass the check; output constraints pull as they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj
import pjax_kernels as pk
from pjax_core.copies import consensus
from pjax_core.graph.nodes import Operation
from pjax_core.operations import primitives
from pjax_core.operations.call import call
from pjax_core.trace.jaxpr import trace

Array = np.ndarray


def operation(primitive: Any, *constants: Any, **settings: Any) -> Callable[..., Any]:
    return lambda *inputs: call(primitive, *inputs, *constants, **settings)


def project_normalized(inputs: Any, z: Any) -> Any:
    x, z = pk.project_normalize(inputs[0], z, epsilon=0.1)
    return (x,), z


normalize = pj.primitive(
    "normalize",
    forward=lambda x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 0.1),
    project=project_normalized,
)
POOL: dict[str, Any] = {"size": (4,), "window": (2,), "strides": (1,), "padding": ((0, 1),), "factor": None}
OPERATIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "difference": (operation(primitives.signed_sum, coefficients=(1.0, -1.0)), 2),
    "mean": (operation(primitives.sum_over, axis=(0,), factor=0.25), 1),
    "affine": (operation(primitives.affine, 2.0, np.array([1.0, 2, 3, 4])), 1),
    "min": (operation(primitives.minimum, axis=(0,)), 1),
    "clip": (operation(primitives.clip, -0.3, np.inf), 1),
    "average_pool": (operation(primitives.average_pool, **POOL), 1),
    "power": (operation(primitives.elementwise("power"), exponent=3), 1),
    "with constants": (operation(primitives.elementwise(lambda x, c: c * jnp.sin(x)), np.arange(1.0, 5)), 1),
    **{
        name: (operation(primitives.elementwise(name)), 1)
        for name in ("tanh", "gelu", "silu", "softplus", "exp", "abs")
    },
    "normalize": (normalize, 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_projection_is_one(name: str, generator: np.random.Generator) -> None:
    call, count = OPERATIONS[name]
    pj.check_projection(call, list(generator.normal(size=(count, 4))), samples=50)


def batch_statistics(p: Any, x: Any, y: Any) -> Any:
    h = x @ p["w"]
    h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5) * p["s"] + p["b"]
    return pj.squared_error(h, y)


def batch_statistics_by_squares(p: Any, x: Any, y: Any) -> Any:
    """As Flax computes them."""
    h = x @ p["w"]
    variance = jnp.maximum((h * h).mean(0) - h.mean(0) ** 2, 0)
    return pj.squared_error((h - h.mean(0)) * lax.rsqrt(variance + 1e-5) * p["s"] + p["b"], y)


def attention(p: Any, x: Any, y: Any) -> Any:
    queries, keys = x @ p["w"] + p["b"], x @ p["w"][:, ::-1]
    return pj.squared_error(jax.nn.softmax(queries @ keys.T / 2) @ (p["s"] * x), y)


@pytest.mark.parametrize("network", [batch_statistics, batch_statistics_by_squares, attention])
def test_each_constraint_of_what_becomes_several(network: Callable[..., Any], generator: np.random.Generator) -> None:
    """Normalisation by the batch and softmax attention: where the network is, and with outputs asked for elsewhere."""
    params = {"w": generator.normal(size=(2, 2)), "s": np.ones(2) + 0.1, "b": np.zeros(2) + 0.1}
    x, y = generator.normal(size=(2, 3, 2))
    checked = set()
    with jax.enable_x64(True):
        graph = trace(network, params, (x, y))
        values = consensus.start(graph, params, (x, y))
        for node in graph.nodes:
            if isinstance(node, Operation) and not node.primitive.constrains_output:
                inputs = [np.asarray(slot.read(values)) for slot in node.slots]
                moving = node.primitive.moving_inputs(len(inputs))
                call = operation(node.primitive, *inputs[moving:], **node.settings)
                target = np.asarray(node.start(values)) + 0.1 * generator.normal(size=node.shape.shape)
                pj.check_projection(call, inputs[:moving], target, samples=20)
                checked.add(node.primitive.name)
    assert len(checked) > 3
    assert any(name.startswith("block (") for name in checked)


LOSSES: dict[str, Callable[..., Any]] = {
    "class numbers": lambda z, y, w: pj.cross_entropy(z, jnp.asarray(np.arange(12) % 3 - 1), class_weights=[1, 2, 0.5]),
    "weights": lambda z, y, w: pj.cross_entropy(z, np.eye(3, dtype=np.float32)[np.arange(12) % 3], weights=w),
    "margin": lambda z, y, w: pj.margin_loss(z, np.eye(3, dtype=np.float32)[np.arange(12) % 3], weights=w),
    "squared": lambda z, y, w: pj.squared_error(z, y, strength=10.0),
    "absolute": lambda z, y, w: pj.absolute_error(z, y),
    "box": lambda z, y, w: pj.within(z, pj.Box(-0.1, 0.1)),
    "own": lambda z, y, w: pj.output("own", loss=lambda z, y: jnp.mean((z - y) ** 2), prox=lambda z, y: (z + y) / 2)(
        z, y
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("algorithm", [pj.alternating_projections(), pj.douglas_rachford()], ids=["ap", "dr"])
def test_output_constraints_lower_their_loss(name: str, algorithm: Any, generator: np.random.Generator) -> None:
    x, y = (generator.normal(size=(12, n)).astype(np.float32) for n in (4, 3))
    weights = np.float32(np.arange(12) % 2)

    def network(params: Array, x: Any, y: Any, weights: Any) -> Any:
        return LOSSES[name](pj.matmul(x, params), y, weights)

    params = generator.normal(size=(4, 3)).astype(np.float32)
    solved = pj.solve(pj.feasibility(network), params, x, y, weights, algorithm=algorithm, steps=30)
    assert float(network(solved.params, x, y, weights)) < 0.9 * float(network(params, x, y, weights))


def test_rows_that_do_not_count_have_no_influence(generator: np.random.Generator) -> None:
    x, params = (generator.normal(size=shape).astype(np.float32) for shape in ((6, 4), (4, 3)))
    numbers = np.array([0, -1, 2, -1, 1, 0])

    def network(params: Array, x: Any, labels: Any) -> Any:
        return pj.cross_entropy(pj.matmul(x, params), labels)

    counted = numbers >= 0
    whole, part = network(params, x, numbers), network(params, x[counted], numbers[counted])
    np.testing.assert_allclose(whole, part, rtol=1e-6)


def test_weights_and_limits_must_be_data() -> None:
    x = np.ones((2, 3), np.float32)
    problem = pj.feasibility(lambda p, x: pj.squared_error(pj.matmul(x, p["w"]), x, weights=p["s"]))
    params = {"w": np.eye(3, dtype=np.float32), "s": np.ones(3, np.float32)}
    with pytest.raises(
        ValueError, match=r"squared_error: weights or strength come from params\['s'\]; they must be data"
    ):
        pj.solve(problem, params, x, algorithm=pj.alternating_projections(), steps=1)
    with pytest.raises(ValueError, match=r"within: low has shape \(2,\)"):
        pj.within(x, pj.Box(np.zeros(2)))
    with pytest.raises(TypeError, match="pass one, such as pj.Box"):
        pj.within(x, (0, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("constraint", "weighted"),
    [(pj.cross_entropy, True), (pj.squared_error, False), (pj.absolute_error, True), (pj.cross_entropy, False)],
)
def test_a_strength_that_is_traced_is_that_strength(constraint: Any, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(5, 3)), rng.normal(size=(8, 5))
    y, weights = rng.dirichlet(np.ones(3), size=8), rng.uniform(0.5, 2, size=(8,))
    if constraint is not pj.cross_entropy:
        weights = weights[:, None]

    def solved(problem: pj.Problem, w: Any, *data: Any) -> Any:
        return pj.solve(problem, w, *data, algorithm=pj.alternating_projections(), steps=3, tolerance=np.inf).params

    def network(w: Any, x: Any, y: Any, strength: Any) -> Any:
        return constraint(x @ w, y, strength=strength, weights=weights if weighted else None)

    @jax.jit
    def captured(w: Any, strength: Any) -> Any:
        return solved(pj.feasibility(lambda w, x, y: network(w, x, y, strength)), w, x, y)

    for strength in (0.5, 2.0):
        expected = solved(pj.feasibility(lambda w, x, y, s=strength: network(w, x, y, s)), w, x, y)
        assert np.abs(expected - w).max() > 1e-3
        for found in (solved(pj.feasibility(network), w, x, y, np.asarray(strength)), captured(w, strength)):
            np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6 * np.abs(expected - w).max())
    assert captured._cache_size() == 1


@pytest.mark.parametrize(
    "kind", [jnp.float32, np.float32, np.asarray, jnp.asarray], ids=["jnp", "np", "0-d", "jnp 0-d"]
)
def test_numbers_may_be_arrays_of_known_content(kind: Any) -> None:
    """FOUND 10: comparisons of arrays of JAX are traced, inside a network."""

    def network(number: Any) -> Any:
        scale, strength = number(0.5), number(5.0)

        def loss(w: Any, x: Any, y: Any) -> Any:
            return pj.cross_entropy(pj.quantize(x @ w, 3, scale=scale), y, strength=strength)

        return trace(loss, np.ones((4, 3), np.float32), (np.ones((2, 4), np.float32), np.eye(2, 3, dtype=np.float32)))

    settings = [
        [node.settings for node in graph.nodes if isinstance(node, Operation)] for graph in map(network, (float, kind))
    ]
    assert settings[0] == settings[1]
