"""The projection onto the dot products of a recurrence: against explicit copies of joined operands."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from . import oracles

Array = np.ndarray
Generator = np.random.Generator

BATCH, STEPS, INPUTS, HIDDEN, WIDTH = 2, 3, 2, 3, 4
SHAPES = (
    (BATCH, STEPS, INPUTS),
    (BATCH, STEPS, HIDDEN),
    (INPUTS, WIDTH),
    (HIDDEN, WIDTH),
    (BATCH, STEPS, WIDTH),
)
RESIDUALS = {"near": 0.05, "mixed": 0.5, "far": 10.0}
"""Largest ``|z - x w_x - h w_h|`` over 1 + the squared norms."""

project = jax.jit(pk.project_recurrence, static_argnames=("increments", "implementation"))


def make_problem(rng: Generator, residual: str, dtype: DTypeLike = np.float64) -> tuple[Array, ...]:
    x, h, w_x, w_h, _ = (rng.normal(size=shape).astype(dtype) for shape in SHAPES)
    rows, columns = joined(x, h, w_x, w_h)
    scale = 1 + np.sum(rows**2, axis=1)[:, None] + np.sum(columns**2, axis=0)
    z = rows @ columns + scale * rng.uniform(-1, 1, scale.shape) * RESIDUALS[residual]
    return x, h, w_x, w_h, z.reshape(SHAPES[-1]).astype(dtype)


def joined(x: Array, h: Array, w_x: Array, w_h: Array) -> tuple[Array, Array]:
    """``[x, h]`` with a row for each batch entry and time step, and ``[w_x, w_h]``, in float64."""
    rows = np.concatenate([x, h], axis=2).reshape(BATCH * STEPS, -1)
    return rows.astype(np.float64), np.concatenate([w_x, w_h]).astype(np.float64)


def project_copies(x: Array, h: Array, w_x: Array, w_h: Array, z: Array) -> list[Array]:
    flat_z = z.reshape(-1, WIDTH).astype(np.float64)
    rows, columns, z_change = oracles.dense_changes(*joined(x, h, w_x, w_h), flat_z)
    parts = rows[:, :INPUTS], rows[:, INPUTS:], columns[:INPUTS], columns[INPUTS:], z_change
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def assert_close(results: Any, expected: Any, tolerance: float) -> None:
    for result, right in zip(results, expected, strict=True):
        assert result.shape == right.shape
        assert np.linalg.norm(result - right) <= tolerance * np.linalg.norm(right)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_changes_are_means_over_explicit_copies(
    residual: str, dtype: str, tolerance: float, implementation: str, rng: Generator
) -> None:
    problem = make_problem(rng, residual, dtype)
    changes = project(*problem, increments=True, implementation=implementation)
    assert_close(changes, project_copies(*problem), tolerance)


def test_zero_operands_take_the_free_part(implementation: str, rng: Generator) -> None:
    """Set-valued where ``|z| > 1``: equal entries over inputs and hidden states together."""
    z = rng.uniform(1.5, 9, SHAPES[-1]) * rng.choice([-1, 1], SHAPES[-1])
    problem = *(np.zeros(shape) for shape in SHAPES[:-1]), z
    assert_close(project(*problem, increments=True, implementation=implementation), project_copies(*problem), 1e-12)


def test_is_the_bilinear_map(rng: Generator) -> None:
    x, h, w_x, w_h, z = problem = make_problem(rng, "mixed")

    @jax.jit
    def project_map(x: Any, w: Any, z: Array) -> Any:
        return pk.project_bilinear_map(lambda x, w: x[0] @ w[0] + x[1] @ w[1], x, w, z, increments=True)

    expected = jax.tree.leaves(project_map((x, h), (w_x, w_h), z))
    assert_close(project(*problem, increments=True), expected, 1e-13)


def test_one_pass_over_all_time_steps() -> None:
    """Six matrix products, no loop over time, and no joined array of inputs and hidden states."""
    shapes = (2, 50, 30), (2, 50, 40), (30, 40), (40, 40), (2, 50, 40)
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    text = str(jax.make_jaxpr(partial(pk.project_recurrence, implementation="xla"))(*arrays))
    assert text.count("dot_general[") == 6
    assert "concatenate" not in text.split("while[")[0]
    assert not any(f"[{shape}]" in text for shape in ("2,50,70", "100,70", "70,40"))


def test_gates_may_be_wider_than_the_hidden_state(rng: Generator) -> None:
    """``M`` need not be ``H``: the shapes of these tests, four outputs for three hidden units."""
    problem = make_problem(rng, "near", np.float32)
    results = project(*problem)
    assert [(a.shape, a.dtype) for a in results] == [(a.shape, a.dtype) for a in problem]
