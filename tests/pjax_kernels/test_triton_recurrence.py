"""The Triton kernels of ``project_recurrence``, interpreted: against explicit copies of joined operands."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import gpu

from .test_recurrence import RESIDUALS, SHAPES, Array, Generator, assert_close, make_problem, project_copies

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")


project_by_xla = jax.jit(partial(pk.project_recurrence, increments=True, implementation="xla"))


def project(*problem: Array, precision: str = "high") -> tuple[jax.Array, ...]:
    return pk.project_recurrence(*problem, increments=True, precision=precision, implementation="triton")


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_changes_are_means_over_explicit_copies(residual: str, precision: str, rng: Generator) -> None:
    problem = make_problem(rng, residual, np.float32)
    assert_close(project(*problem, precision=precision), project_copies(*problem), 1e-5)


def test_every_dtype(dtype: DTypeLike, rng: Generator) -> None:
    problem = make_problem(rng, "mixed", dtype)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    assert_close([np.asarray(c, np.float64) for c in project(*problem)], project_copies(*problem), tolerance)


def test_zero_operands_take_the_free_part(rng: Generator) -> None:
    """Equal entries over inputs and hidden states together."""
    z = rng.uniform(1.5, 9, SHAPES[-1]) * rng.choice([-1, 1], SHAPES[-1])
    problem = tuple(array.astype(np.float32) for array in (*(np.zeros(shape) for shape in SHAPES[:-1]), z))
    assert_close(project(*problem), project_copies(*problem), 1e-5)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_all_time_steps_of_all_lanes_are_one_launch(precision: str, launches: list[gpu.Launch], rng: Generator) -> None:
    """Several tiles, and several terms of both products at a time; no multiples."""
    lanes, batch, steps, inputs, hidden, width = 2, 3, 22, 35, 37, 9
    shapes = (batch, steps, inputs), (batch, steps, hidden), (inputs, width), (hidden, width), (batch, steps, width)
    stacked = [rng.normal(size=(lanes, *shape)).astype(np.float32) for shape in shapes]
    changes = jax.vmap(lambda *problem: project(*problem, precision=precision))(*stacked)
    assert [launch.grid for launch in launches if launch.grid[1] > 1] == [(2, lanes)]
    for lane in range(lanes):
        expected = project_by_xla(*(x[lane] for x in stacked))
        assert_close([change[lane] for change in changes], expected, 1e-6)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("sizes", [(0, 3, 2, 4, 5), (2, 3, 0, 4, 5), (2, 3, 2, 4, 0)])
def test_empty_axes(sizes: tuple[int, ...], precision: str, rng: Generator) -> None:
    batch, steps, inputs, hidden, width = sizes
    shapes = (batch, steps, inputs), (batch, steps, hidden), (inputs, width), (hidden, width), (batch, steps, width)
    problem = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    expected = project_by_xla(*problem)
    assert_close(project(*problem, precision=precision), expected, 1e-5)
