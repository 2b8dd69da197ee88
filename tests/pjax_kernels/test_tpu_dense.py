"""The TPU kernel of ``project_dense`` and ``project_recurrence``, interpreted: against explicit copies."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk
from pjax_kernels.dense import tpu as kernel
from pjax_kernels.recurrence import tpu as recurrence_kernel

from . import oracles, test_recurrence
from .test_dense import ULPS, as_float64, compute_eps, condition, layer, relative_errors
from .test_dense import project_quickly as project  # on a TPU, Mosaic compiles

pytestmark = pytest.mark.usefixtures("tpu_interpreted")

Array = np.ndarray
Generator = np.random.Generator

project_recurrence = jax.jit(
    partial(recurrence_kernel.project_recurrence, increments=True, precision="highest"), static_argnames="blocks"
)


@pytest.mark.parametrize(("residual", "dtype"), [("near", "bfloat16"), ("near", "float32"), ("mixed", "float32")])
def test_changes_agree_with_mpmath(residual: str, dtype: str, rng: Generator) -> None:
    inputs = layer(rng, 5, 4, 3, residual, jnp.dtype(dtype))
    changes = project(*inputs, increments=True, implementation="tpu")
    errors = relative_errors(changes, oracles.dense_changes(*as_float64(inputs)))
    assert max(errors) < ULPS * compute_eps(dtype) * condition(inputs)


@pytest.mark.parametrize("shape", [(140, 150, 160), (3, 256, 130)])
def test_several_tiles_and_terms_at_a_time(shape: tuple[int, int, int], rng: Generator) -> None:
    """Far roots in one of four tiles only; no multiples, or one."""
    x, w, z = layer(rng, *shape, "near", np.float32)
    z[-2:, -1:] += 1000
    blocks = kernel.Blocks(128, 128, 128)
    changes = jax.jit(partial(kernel.project_dense, increments=True, precision="highest", blocks=blocks))(x, w, z)
    expected = as_float64(project(*as_float64((x, w, z)), increments=True, implementation="reference"))
    # 128 terms are added up at a time, so that sums are rounded more often than in a pairwise sum.
    assert max(relative_errors(changes, expected)) < 2 * ULPS * compute_eps(np.float32) * condition((x, w, z))


def test_new_values_keep_their_dtypes(rng: Generator) -> None:
    x, w, z = layer(rng, 5, 4, 3, "mixed", np.float32)
    inputs = x, w.astype(jnp.bfloat16), z.astype(jnp.bfloat16)
    new = project(*inputs, precision="default", implementation="tpu")
    changes = oracles.dense_changes(*as_float64(inputs))
    for result, old, change in zip(new, inputs, changes, strict=True):
        assert result.dtype == old.dtype
        expected = old.astype(np.float64) + change
        # Half a unit in the last place, and what the change is off.
        rounding = 0.51 * float(jnp.finfo(old.dtype).eps) * abs(expected)
        assert (abs(np.asarray(result).astype(np.float64) - expected) <= rounding + 1e-4 * abs(changes[2]).max()).all()


def test_set_valued_dot_products(rng: Generator) -> None:
    """Columns of ``w`` equal or opposite to every row of ``x``, zero or not, and ``z`` out of reach."""
    row, signs = 2 * rng.integers(1, 5, 4), np.array([1, -1, 1])
    x, w = np.tile(row, (5, 1)), np.outer(row, signs)
    z = x @ w - signs * (1 + row @ row) * rng.integers(2, 9, (5, 3))
    inputs = x.astype(np.float32), w.astype(np.float32), z.astype(np.float32)
    changes = project(*inputs, increments=True, implementation="tpu")
    assert max(relative_errors(changes, oracles.dense_changes(*as_float64(inputs)))) < ULPS * compute_eps(np.float32)


@pytest.mark.usefixtures("tpu_interpreted_under_vmap")
def test_layers_under_vmap(rng: Generator) -> None:
    layers = [layer(rng, 5, 4, 3, "mixed", np.float32) for _ in range(3)]
    stacked = [np.stack(arrays) for arrays in zip(*layers, strict=True)]
    changes = jax.jit(jax.vmap(partial(pk.project_dense, increments=True, implementation="tpu")))(*stacked)
    for i, inputs in enumerate(layers):
        expected = project(*inputs, increments=True, implementation="tpu")
        assert max(relative_errors([change[i] for change in changes], as_float64(expected))) < 1e-6


@pytest.mark.parametrize("residual", test_recurrence.RESIDUALS)
def test_changes_of_a_recurrence(residual: str, rng: Generator) -> None:
    problem = test_recurrence.make_problem(rng, residual, np.float32)
    changes = project_recurrence(*problem, blocks=None)
    test_recurrence.assert_close(changes, test_recurrence.project_copies(*problem), 1e-5)


def test_a_recurrence_in_several_blocks_of_either_operand(rng: Generator) -> None:
    shapes = (2, 3, 150), (2, 3, 260), (150, 4), (260, 4)
    x, h, w_x, w_h = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    z = (x @ w_x + h @ w_h + 100 * rng.normal(size=(2, 3, 4))).astype(np.float32)
    changes = project_recurrence(x, h, w_x, w_h, z, blocks=kernel.Blocks(128, 128, 128))
    wide = (array.astype(np.float64) for array in (x, h, w_x, w_h, z))
    expected = pk.project_recurrence(*wide, increments=True, implementation="reference")
    test_recurrence.assert_close(changes, expected, 1e-5)


def test_new_values_of_a_recurrence_keep_their_dtypes(rng: Generator) -> None:
    problem = test_recurrence.make_problem(rng, "near", jnp.bfloat16)
    new, expected = (jax.jit(partial(pk.project_recurrence, implementation=name))(*problem) for name in ("tpu", "xla"))
    for result, right, old in zip(new, expected, problem, strict=True):
        assert result.dtype == old.dtype
        np.testing.assert_allclose(*(np.asarray(y).astype(np.float64) for y in (result, right)), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 4, 0), (3, 0, 5)])
def test_empty_layers(shape: tuple[int, int, int]) -> None:
    batch, inner, width = shape
    x, w, z = (np.full(shape, 0.5, np.float32) for shape in ((batch, inner), (inner, width), (batch, width)))
    for change, expected in zip(
        project(x, w, z, increments=True, implementation="tpu"), (0 * x, 0 * w, -z), strict=True
    ):
        np.testing.assert_allclose(change, expected, atol=1e-6)


def test_empty_recurrences() -> None:
    shapes = (2, 0, 4), (2, 0, 5), (4, 6), (5, 6), (2, 0, 6)
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    new: Callable[..., Any] = partial(pk.project_recurrence, implementation="tpu")
    for result, array in zip(new(*arrays), arrays, strict=True):
        np.testing.assert_array_equal(result, array)
