"""Alternating projections against what the paper's published implementation computes.

The published ``sum_relu`` is not the projection onto the nearest point in one quadrant.  Where the sum of the inputs
``s`` and the output estimate ``z`` are both negative and ``(z - s)^2 / (n + 1) < z^2``, the nearest point leaves the
inputs alone and sets the output to 0; the published rule moves the inputs to ``s = 0`` as well.  Ours takes the
nearest point, so its iterates differ, and the comparison runs with the published rule as an operation of its own.
Everything else of an iteration (tracing, colours, averages, dense layers, output constraint) is the package's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import pjax_core as pj
import pjax_kernels as pk
from pjax_core.graph import Value, apply, of_node
from pjax_core.primitive import Primitive

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("PJAX_DATA") or REPOSITORY.parent / "shared" / "data")
REFERENCE = DATA.parent / "reference" / "reference_float64.npz"
PARAMETERS = ("w0", "w1", "w2", "b0", "b1")
STEPS = 6

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    if not REFERENCE.is_file():
        pytest.skip(f"reference vectors not found at {REFERENCE}")
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file if name.startswith(("mlp/", "sum_relu/"))}


def published_sum_relu(inputs: tuple[Array, ...], z: Array) -> tuple[tuple[Array, ...], Array]:
    """The published rule: the change of each copy of the inputs, and of the output."""
    count, total = len(inputs), sum(inputs)
    share = (z - total) / (count + 1)
    excess = jnp.maximum(total, 0) / count
    active = (count + 1) * share**2 < count * excess**2 + z**2
    allowed = total + count * share >= 0
    change = jnp.where(active, jnp.where(allowed, share, -total / count), -excess)
    return (jnp.broadcast_to(change, z.shape),) * count, jnp.where(active & allowed, -share, -z)


def project_published(inputs: tuple[Array, ...], z: Array) -> tuple[tuple[Array, ...], Array]:
    """The published rule for an activation (B, M) and a bias (M,), whose copies average over the batch."""
    (change, bias_change), z_change = published_sum_relu(inputs, z)
    return (change, jnp.mean(bias_change, axis=0)), z + z_change


SUM_RELU = Primitive(
    "published_sum_relu",
    forward=lambda *inputs: jnp.maximum(sum(inputs), 0),
    project=project_published,
    copies=lambda activation, bias: (1, activation.shape[0]),
)


def published_layer(activation: Value, bias: Value) -> Value:
    return of_node(apply(SUM_RELU, activation, bias))


def constraint(params: dict[str, Value], x: Value, y: Value) -> Any:
    h = published_layer(pj.matmul(x, params["w0"]), params["b0"])
    h = published_layer(pj.matmul(h, params["w1"]), params["b1"])
    return pj.margin_loss(pj.matmul(h, params["w2"]), y)


def test_the_published_rule_is_the_one_of_the_reference(reference: dict[str, np.ndarray]) -> None:
    inputs = (reference["sum_relu/a"], reference["sum_relu/b"])
    changes, _ = published_sum_relu(inputs, reference["sum_relu/z"])
    for name, old, change in zip("ab", inputs, changes, strict=True):
        np.testing.assert_allclose(old + change, reference[f"sum_relu/{name}_new"], rtol=0, atol=1e-14)


def test_the_published_rule_is_farther_in_one_quadrant(generator: np.random.Generator) -> None:
    inputs, z = tuple(generator.normal(size=(2, 5000))), generator.normal(size=5000)
    published, published_z = published_sum_relu(inputs, z)
    nearest, nearest_z = pk.project_sum_relu(inputs, z, increments=True)
    farther = sum(c**2 for c in published) + published_z**2 - sum(c**2 for c in nearest) - nearest_z**2
    total = sum(inputs)
    quadrant = (total < 0) & (z < 0) & ((z - total) ** 2 / 3 < z**2)
    np.testing.assert_allclose(farther[quadrant], total[quadrant] ** 2 / 2, rtol=0, atol=1e-12)
    np.testing.assert_allclose(farther[~quadrant], 0, rtol=0, atol=1e-12)


def test_alternating_projections(reference: dict[str, np.ndarray], change: Any, relative_error: Any) -> None:
    start = {name: reference[f"mlp/init/{name}"] for name in PARAMETERS}
    solution = pj.solve(
        pj.feasibility(constraint),
        start,
        reference["mlp/x"],
        reference["mlp/y"],
        algorithm=pj.alternating_projections(),
        steps=STEPS,
    )
    found = change(solution, start)
    for name in PARAMETERS:
        # The published code reads weights, which are of colour A, one step late.
        read_at = STEPS + 1 if name.startswith("w") else STEPS
        expected = reference[f"mlp/ap/steps{read_at}/{name}"] - start[name]
        assert relative_error(found[name], expected) < 1e-9, name
