"""The baseline with stored copies agrees with the published implementation and with pjax_core."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import Array
from jax.typing import ArrayLike

import pjax_core as pj
import pjax_kernels as pk
from benchmarks.measure import naive

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("PJAX_DATA") or REPOSITORY.parent / "shared" / "data")
REFERENCE = DATA.parent / "reference" / "reference_float64.npz"


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    if not REFERENCE.is_file():
        pytest.skip(f"reference vectors not found at {REFERENCE}")
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file if name.startswith("mlp/")}


def change_error(new: ArrayLike, expected: ArrayLike, start: ArrayLike) -> float:
    """Error of new - start, relative to expected - start."""
    new, expected, start = (np.asarray(array) for array in (new, expected, start))
    return float(np.linalg.norm(new - expected) / np.linalg.norm(expected - start))


init, parameters = jax.jit(naive.init), jax.jit(naive.parameters)


@pytest.mark.parametrize("name", ["ap", "dr"])
def test_agrees_with_published_implementation(reference: dict[str, np.ndarray], name: str) -> None:
    x, y = reference["mlp/x"], reference["mlp/y"]
    start_w = [reference[f"mlp/init/w{i}"] for i in range(3)]
    start_b = [reference[f"mlp/init/b{i}"] for i in range(2)]
    algorithms = {"ap": naive.alternating_projections, "dr": naive.douglas_rachford}
    step = jax.jit(algorithms[name], static_argnums=3)
    state = init(start_w, start_b, x)
    for _ in range(6):
        state = step(state, x, y, naive.margin)
    weights, biases = parameters(state)
    # The published code reads weights, which are of colour A, one step late.
    for i, (w, start) in enumerate(zip(weights, start_w, strict=True)):
        assert change_error(w, reference[f"mlp/{name}/steps7/w{i}"], start) < 1e-9
    for i, (b, start) in enumerate(zip(biases, start_b, strict=True)):
        assert change_error(b, reference[f"mlp/{name}/steps6/b{i}"], start) < 1e-9


def nearest_sum_relu(a: Array, b: Array, z: Array) -> tuple[Array, Array, Array]:
    """The projection onto z = relu(a + b), in the signature of the published rule."""
    (a, b), z = pk.project_sum_relu((a, b), z, implementation="reference")
    return a, b, z


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_agrees_with_consensus_form(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ReLUs projected to the nearest point: the published rule that naive.py has is not quite that."""
    monkeypatch.setattr(naive, "project_sum_relu", nearest_sum_relu)
    generator = np.random.default_rng(7)
    # Wide enough for the baseline's plain Newton steps, which leave (-1, 1) in narrow layers.
    sizes, batch, steps = (30, 24, 20, 6), 11, 5
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    weights = [generator.normal(size=shape) / np.sqrt(shape[0]) for shape in shapes]
    biases = [0.1 * generator.normal(size=size) for size in sizes[1:-1]]
    x = generator.normal(size=(batch, sizes[0]))
    y = np.eye(sizes[-1])[generator.integers(sizes[-1], size=batch)]

    step = jax.jit(naive.alternating_projections, static_argnums=3)
    state = init(weights, biases, x)
    for _ in range(steps):
        state = step(state, x, y, getattr(naive, loss))

    def constraint(params: list[list[jax.Array]], x: jax.Array, y: jax.Array) -> Any:
        h = x
        for w, b in zip(params[0][:-1], params[1], strict=True):
            h = jax.nn.relu(h @ w + b)
        logits = h @ params[0][-1]
        return pj.margin_loss(logits, y) if loss == "margin" else pj.cross_entropy(logits, y, strength=5.0)

    start = [weights, biases]
    problem, algorithm = pj.feasibility(constraint), pj.alternating_projections()
    solution = pj.solve(problem, start, x, y, algorithm=algorithm, steps=steps)
    errors = jax.tree.map(change_error, solution.params, list(parameters(state)), start)
    assert max(jax.tree.leaves(errors)) < 1e-9
