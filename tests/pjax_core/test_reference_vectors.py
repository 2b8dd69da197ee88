"""Algorithms against what the paper's published implementation computes.

Two of the published projections are not onto the nearest point, and iterates differ where ours are.  So the
comparison runs with the published rules as operations of their own, wherever the difference matters.  Everything else
of an iteration (tracing, colours, averages, hidden dense layers, output constraint) is the package's.

The published ``sum_relu``: where the sum of the inputs ``s`` and the output estimate ``z`` are both negative and
``(z - s)^2 / (n + 1) < z^2``, the nearest point leaves the inputs alone and sets the output to 0; the published rule
moves the inputs to ``s = 0`` as well.

The published root of bilinear constraints takes plain Newton steps from 0.  In Douglas-Rachford they leave the
interval (-1, 1), in which the nearest point lies, at the output layer (there alone, from the second step on), and end
at a root outside.  With the nearest point there, the changes of parameters differ by a fifth to two thirds.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import pjax_core as pj
import pjax_kernels as pk
from pjax_core.operations.call import call
from pjax_core.operations.primitive import Primitive

from .networks import changes_by_step
from .stored_copies import StoredCopies

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("PJAX_DATA") or REPOSITORY.parent / "shared" / "data")
REFERENCE = DATA.parent / "reference" / "reference_float64.npz"
PARAMETERS = ("w0", "w1", "w2", "b0", "b1")
STEPS = 7

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    if not REFERENCE.is_file():
        pytest.skip(f"reference vectors not found at {REFERENCE}")
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file if name.startswith(("bilinear/", "mlp/", "sum_relu/"))}


def published_sum_relu(inputs: tuple[Array, ...], z: Array) -> tuple[tuple[Array, ...], Array]:
    """The published rule: the change of each copy of the inputs, and of the output."""
    count, total = len(inputs), sum(inputs)
    share = (z - total) / (count + 1)
    excess = jnp.maximum(total, 0) / count
    active = (count + 1) * share**2 < count * excess**2 + z**2
    allowed = total + count * share >= 0
    change = jnp.where(active, jnp.where(allowed, share, -total / count), -excess)
    return (jnp.broadcast_to(change, z.shape),) * count, jnp.where(active & allowed, -share, -z)


def published_root(p: Array, q: Array, z: Array) -> Array:
    """The published root for ``p = a . b`` and ``q = |a|^2 + |b|^2``."""
    t = jnp.zeros_like(p)
    for _ in range(10):
        u = 1 - t * t
        n = (1 + t * t) * p + t * q
        t = t - (n / u**2 + t - z) / ((2 * t * p + q) / u**2 + 4 * t * n / u**3 + 1)
    return t


def published_bilinear(inputs: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Array]:
    """The published rule: the change of each input (..., N), and of the output (...)."""
    a, b = inputs
    t = published_root(product(a, b), product(a, a) + product(b, b), z)
    beta = (t / (1 - t * t))[..., None]
    gamma = t[..., None] * beta
    return (gamma * a + beta * b, gamma * b + beta * a), -t


def product(a: Array, b: Array) -> Array:
    return (a * b).sum(axis=-1)


def rectified_sum(*inputs: Array) -> Array:
    return jnp.maximum(sum(inputs), 0)


def rule(name: str, forward: Any, changes: Any) -> Primitive:
    """An operation that holds one copy of each element of its slots, projected by a published rule."""

    def project(inputs: tuple[Array, ...], z: Array, residual: Array | None) -> tuple[tuple[Array, ...], Array]:
        del residual  # the published rules subtract
        return changes(inputs, z)

    return Primitive(name, forward, project)


SUM_RELU = rule("published_sum_relu", rectified_sum, published_sum_relu)
BILINEAR = rule("published_bilinear", product, published_bilinear)


def operation_of_package(primitive: Primitive, *operands: Array) -> Array:
    return call(primitive, *operands)


def operation_of_oracle(oracle: StoredCopies, primitive: Primitive, *operands: Any) -> Any:
    def project(copies: list[Any], z: Any) -> tuple[list[Any], Any]:
        changes, z_change = primitive.project(tuple(copies), z, None)
        return [old + change for old, change in zip(copies, changes, strict=True)], z + z_change

    return oracle.operation(project, primitive.forward, *operands)


def network(ops: Any, operation: Any, published_output: bool, params: dict[str, Any], x: Any, y: Any) -> Any:
    """The network of the reference, with published rules on views that hold one copy of each element."""
    h = x
    for w, b in (("w0", "b0"), ("w1", "b1")):
        z = ops.matmul(h, params[w])
        h = operation(SUM_RELU, z, ops.broadcast_to(params[b], z.shape))
    if not published_output:
        return ops.margin_loss(ops.matmul(h, params["w2"]), y)
    rows, columns = h.reshape(h.shape[0], 1, -1), params["w2"].T
    shape = (h.shape[0], *columns.shape)
    return ops.margin_loss(operation(BILINEAR, ops.broadcast_to(rows, shape), ops.broadcast_to(columns, shape)), y)


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


def test_the_published_root_is_the_one_of_the_reference(reference: dict[str, np.ndarray]) -> None:
    inputs = (reference["bilinear/a"], reference["bilinear/b"])
    changes, _ = published_bilinear(inputs, reference["bilinear/z"])
    for name, old, change in zip("ab", inputs, changes, strict=True):
        np.testing.assert_allclose(old + change, reference[f"bilinear/{name}_new"], rtol=0, atol=1e-14)


def test_the_published_root_is_farther_outside_the_interval(generator: np.random.Generator) -> None:
    inputs, z = tuple(generator.normal(size=(2, 5000, 3))), generator.normal(scale=5, size=5000)
    published = published_bilinear(inputs, z)
    *changes, z_change = pk.project_bilinear(*inputs, z, increments=True)
    farther = squared_length(*published) - squared_length(changes, z_change)
    # Newton steps may also end nowhere.
    on_constraint = (
        np.abs(product(*(x + c for x, c in zip(inputs, published[0], strict=True))) - z - published[1]) < 1e-9
    )
    inside = np.abs(published[1]) < 1
    np.testing.assert_allclose(farther[on_constraint & inside], 0, rtol=0, atol=1e-9)
    assert np.sum(on_constraint & ~inside) > 100
    assert np.all(farther[on_constraint & ~inside] > 1e-3)


def squared_length(changes: Sequence[Array], z_change: Array) -> np.ndarray:
    return sum(np.sum(np.square(change), axis=-1) for change in changes) + np.square(z_change)


@pytest.mark.parametrize(
    ("key", "algorithm", "published_output"),
    [("ap", "alternating_projections", False), ("dr", "douglas_rachford", True)],
)
def test_stored_copies(
    key: str, algorithm: str, published_output: bool, reference: dict[str, np.ndarray], relative_error: Any
) -> None:
    oracle = StoredCopies()
    start = {name: reference[f"mlp/init/{name}"] for name in PARAMETERS}
    elements = {name: oracle.parameter(values) for name, values in start.items()}
    x, y = (oracle.data(reference[f"mlp/{name}"]) for name in "xy")
    network(oracle, functools.partial(operation_of_oracle, oracle), published_output, elements, x, y)
    found = [
        {name: values - start[name] for name, values in zip(PARAMETERS, parameters, strict=True)}
        for parameters in oracle.run(algorithm, STEPS)
    ]
    assert_published(found, key, reference, relative_error)


def changes_of_package(
    algorithm: pj.Algorithm, published_output: bool, reference: dict[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    start = {name: reference[f"mlp/init/{name}"] for name in PARAMETERS}
    problem = pj.feasibility(functools.partial(network, pj, operation_of_package, published_output))
    return changes_by_step(problem, algorithm, STEPS, start, reference["mlp/x"], reference["mlp/y"])


def test_alternating_projections(reference: dict[str, np.ndarray], relative_error: Any) -> None:
    found = changes_of_package(pj.alternating_projections(), False, reference)
    assert_published(found, "ap", reference, relative_error)


@pytest.mark.parametrize("factored", [False, True])
def test_douglas_rachford(factored: bool, reference: dict[str, np.ndarray], relative_error: Any) -> None:
    algorithm = pj.douglas_rachford(copies=pj.Factored(history=STEPS) if factored else "dense")
    assert_published(changes_of_package(algorithm, True, reference), "dr", reference, relative_error)


def assert_published(
    found: list[dict[str, np.ndarray]], key: str, reference: dict[str, np.ndarray], relative_error: Any
) -> None:
    """Compare the changes of the parameters by steps with those that the published code reports."""
    for steps, name in itertools.product((6, 7), PARAMETERS):
        # The published code reads weights, which are of colour A, one step late.
        read_at = steps - 1 if name.startswith("w") else steps
        expected = reference[f"mlp/{key}/steps{steps}/{name}"] - reference[f"mlp/init/{name}"]
        assert relative_error(found[read_at][name], expected) < 1e-9, (steps, name)
