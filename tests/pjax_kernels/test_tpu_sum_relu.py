"""The TPU kernel of ``project_sum_relu``, interpreted: the oracle and bounds of :mod:`test_sum`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk
from pjax_kernels.sum_relu import tpu as kernel

from . import oracles
from .test_sum import SHAPES, ULPS, as_float64, compute_eps, differences, points, terms

pytestmark = pytest.mark.usefixtures("tpu_interpreted")

Array = np.ndarray
Generator = np.random.Generator


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_changes_agree_with_oracle(count: int, dtype: str, rng: Generator) -> None:
    point = points(rng, count, jnp.dtype(dtype))
    inputs, z = as_float64(*point)
    project = jax.jit(partial(pk.project_sum_relu, increments=True, implementation="tpu"))
    errors, z_error = differences(as_float64(*project(*point)), oracles.sum_relu_changes(inputs, z))
    bound = ULPS * compute_eps(dtype) * terms(inputs, z)
    assert all((abs(error) <= bound).all() for error in (*errors, z_error))


@pytest.mark.parametrize(("shapes", "increments"), [(shapes, place % 2 == 0) for place, shapes in enumerate(SHAPES)])
def test_broadcast_inputs_take_the_mean_of_their_copies(shapes: str, increments: bool, rng: Generator) -> None:
    input_shapes, shape = SHAPES[shapes]
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in input_shapes]
    z = rng.normal(size=shape).astype(np.float32)
    new, new_z = jax.jit(partial(pk.project_sum_relu, increments=increments, implementation="tpu"))(inputs, z)
    *wide, wide_z = (x.astype(np.float64) for x in (*inputs, z))
    copies, z_change = oracles.sum_relu_changes([np.broadcast_to(x, shape) for x in wide], wide_z)
    for result, x, change in zip((*new, new_z), (*wide, wide_z), (*copies, z_change), strict=True):
        mean = oracles.mean_over_copies(x, change)
        np.testing.assert_allclose(result, mean if increments else x + mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("increments", [False, True])
def test_several_blocks(increments: bool, rng: Generator) -> None:
    """The mean of a bias over blocks of rows, of which the last lies in part beyond them."""
    inputs = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((40, 200), (200,)))
    z = rng.normal(size=(40, 200)).astype(np.float32)
    blocks = kernel.Blocks(32, 128)
    new, new_z = jax.jit(partial(kernel.project_sum_relu, increments=increments, blocks=blocks))(inputs, z)
    # In float64, for that compares distances, which rounding can order the other way round.
    wide = [x.astype(np.float64) for x in (*inputs, z)]
    expected, expected_z = pk.project_sum_relu(wide[:2], wide[2], increments=increments, implementation="reference")
    for result, right in zip((*new, new_z), (*expected, expected_z), strict=True):
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("tpu_interpreted_under_vmap")
def test_dtypes_are_kept_under_vmap(rng: Generator) -> None:
    x, bias, z = (rng.normal(size=shape) for shape in ((3, 4, 5), (3, 5), (3, 4, 5)))
    inputs = (x.astype(jnp.bfloat16), bias.astype(np.float32)), z.astype(np.float32)
    new, expected = (
        jax.tree.leaves(jax.jit(jax.vmap(partial(pk.project_sum_relu, implementation=name)))(*inputs))
        for name in ("tpu", "xla")
    )
    for result, right in zip(new, expected, strict=True):
        assert result.dtype == right.dtype
        np.testing.assert_allclose(*(np.asarray(y).astype(np.float64) for y in (result, right)), rtol=0.01, atol=1e-6)


def test_empty_batches() -> None:
    x, bias = np.ones((0, 4), np.float32), np.ones(4, np.float32)
    (new_x, new_bias), new_z = pk.project_sum_relu((x, bias), x, implementation="tpu")
    assert (new_x.shape, new_z.shape) == ((0, 4), (0, 4))
    np.testing.assert_array_equal(new_bias, bias)
