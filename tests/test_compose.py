"""The page for those who build on the kernels: its code runs, and what it says holds."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
import pjax_kernels as pk
from pjax_kernels import compose

ROOT = Path(pj.__file__).parents[1]
CODE = re.findall(r"```python\n(.*?)```", (ROOT / "kernels" / "COMPOSE.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec("\n".join(CODE), names)
    return names


@pytest.fixture
def arrays() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    params = {"w0": rng.normal(size=(8, 12)), "b": rng.normal(size=12), "w1": rng.normal(size=(12, 3))}
    return jax.tree.map(jnp.float32, (params, rng.normal(size=(16, 8)), np.eye(3)[rng.integers(3, size=16)]))


STEPS = 20


def test_a_network_on_kernels_alone(page: dict[str, Any], arrays: Any) -> None:
    def network(p: Any, x: Any, y: Any) -> Any:
        return pj.cross_entropy(pj.matmul(pj.sum_relu(pj.matmul(x, p["w0"]), p["b"]), p["w1"]), y)

    problem = pj.feasibility(network)
    with jax.enable_x64(True):  # in float32 rounding alone takes 1e-6 after some steps
        arrays = jax.tree.map(jnp.float64, arrays)
        found = jax.jit(page["train"], static_argnums=3)(*arrays, STEPS)
        expected = pj.solve(problem, *arrays, algorithm=pj.alternating_projections(), steps=STEPS).change
    for name, change in expected.items():
        assert np.linalg.norm(found[name] - change) <= 1e-12 * np.linalg.norm(change)


def test_in_float32_parameters_are_those_of_solve(page: dict[str, Any], arrays: Any) -> None:
    """To 1e-6; changes have the rounding of the larger values that they are differences of, which solve avoids."""
    problem = pj.feasibility(lambda p, x, y: pj.cross_entropy(jax.nn.relu(x @ p["w0"] + p["b"]) @ p["w1"], y))
    algorithm = pj.alternating_projections()
    found = jax.jit(page["train"], static_argnums=3)(*arrays, STEPS)
    solved = pj.solve(problem, *arrays, algorithm=algorithm, steps=STEPS).change
    with jax.enable_x64(True):
        exact = pj.solve(problem, *jax.tree.map(np.float64, arrays), algorithm=algorithm, steps=STEPS).change
    exact = jax.tree.map(np.asarray, exact)
    for name, change in exact.items():
        new = arrays[0][name] + np.float64(solved[name])
        assert np.linalg.norm(np.float64(found[name]) - solved[name]) <= 1e-6 * np.linalg.norm(new)
        assert np.linalg.norm(np.float64(found[name]) - change) < 1e-5 * np.linalg.norm(change)
        assert np.linalg.norm(np.float64(solved[name]) - change) < 1e-6 * np.linalg.norm(change)


def test_the_network_takes_at_most_forty_lines() -> None:
    (train,) = (code for code in CODE if code.startswith("def train"))
    assert len(train.splitlines()) <= 40


def losses(loss: Any, layers: Any, steps: int = 30, rate: float = 1.0) -> list[float]:
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    found = []
    for _ in range(steps):
        value, gradient = value_and_grad(layers)
        layers = jax.tree.map(lambda w, g: w - rate * g, layers, gradient)
        found.append(float(value))
    return found


def squared_error(outputs: Any, wanted: Any) -> Any:
    return 0.5 * jnp.sum((outputs - wanted) ** 2)


@pytest.fixture
def regression(arrays: Any) -> tuple[Any, Any, Any]:
    params, x, _ = arrays
    return [params["w0"], params["w1"]], x, jnp.tanh(x[:, :3])


def test_a_projection_as_the_backward_pass(page: dict[str, Any], arrays: Any) -> None:
    params, x, _ = arrays
    w, estimate = params["w0"], jnp.float32(np.random.default_rng(4).normal(size=(16, 12)))
    output, pull_back = jax.vjp(page["dense"], x, w)
    changes = pk.project_dense(x, w, estimate, increments=True)
    for cotangent, change in zip(pull_back(output - estimate), changes[:2], strict=True):
        assert np.linalg.norm(cotangent + change) < 1e-5 * np.linalg.norm(change)


def test_layers_of_plain_jax_learn_by_projections(page: dict[str, Any], regression: Any) -> None:
    weights, x, wanted = regression

    def loss(weights: Any) -> Any:
        first, second = map(page["Dense"], weights)
        return squared_error(second(jax.nn.relu(first(x))), wanted)

    found = losses(loss, weights)
    assert found[-1] < 0.5 * found[0]


def test_layers_of_equinox_learn_by_projections(page: dict[str, Any], regression: Any) -> None:
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    weights, x, wanted = regression

    class Dense(eqx.Module):
        w: Any

        def __call__(self, x: Any) -> Any:
            return page["dense"](x, self.w)

    def loss(layers: Any) -> Any:
        return squared_error(layers[1](jax.nn.relu(layers[0](x))), wanted)

    found = losses(loss, [Dense(w) for w in weights])
    assert found[-1] < 0.5 * found[0]


def test_layers_of_flax_learn_by_projections(page: dict[str, Any], regression: Any) -> None:
    nn = pytest.importorskip("flax.linen", reason="Flax is not installed")
    weights, x, wanted = regression

    class Dense(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x: Any) -> Any:
            shape = (x.shape[-1], self.features)
            return page["dense"](x, self.param("w", nn.initializers.normal(1.0), shape))

    network = nn.Sequential([Dense(12), nn.relu, Dense(3)])
    variables = network.init(jax.random.key(0), x)
    for leaf in jax.tree.leaves(variables):
        assert leaf.shape in [w.shape for w in weights]
    found = losses(lambda variables: squared_error(network.apply(variables, x), wanted), variables)
    assert found[-1] < 0.5 * found[0]


def test_core_imports_no_private_module_of_the_kernels() -> None:
    public = {"pjax_kernels": set(pk.__all__) | {"compose"}, "pjax_kernels.compose": set(compose.__all__)}
    for path in sorted((ROOT / "pjax_core").rglob("*.py")):
        aliases: dict[str, set[str]] = {}
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    assert name.name in public or not name.name.startswith("pjax_kernels"), (path, name.name)
                    aliases |= {name.asname or name.name: public[name.name]} if name.name in public else {}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pjax_kernels"):
                assert node.module in public, (path, node.module)
                assert {name.name for name in node.names} <= public[node.module], (path, node.module)
                if any(name.name == "compose" for name in node.names):
                    aliases["compose"] = public["pjax_kernels.compose"]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                assert node.attr in aliases[node.value.id], (path, node.value.id, node.attr)


def test_public_names_are_documented() -> None:
    assert importlib.util.find_spec("pjax_kernels.compose")
    for name in compose.__all__:
        assert getattr(compose, name).__doc__, name
