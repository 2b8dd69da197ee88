"""The TPU kernel of ``project_bilinear``, interpreted: the cases and bounds of :mod:`test_bilinear`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk
from pjax_kernels.bilinear import tpu as kernel

from .test_bilinear import as_float64, changes_of, compute_eps, condition, difference, length, move, project
from .test_triton_bilinear import all_cases, random_inputs

pytestmark = pytest.mark.usefixtures("tpu_interpreted")

Array = np.ndarray
Generator = np.random.Generator

ULPS = 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_changes_agree_with_mpmath(dtype: str) -> None:
    inputs, expected = all_cases(jnp.dtype(dtype))
    error = difference(changes_of(inputs, "tpu"), expected) / length(expected)
    assert (error < ULPS * compute_eps(dtype) * condition(inputs)).all()


def test_new_values_are_rounded_once() -> None:
    dtype = "bfloat16"
    inputs, changes = all_cases(jnp.dtype(dtype))
    change_error = 2 * ULPS * compute_eps(dtype) * condition(inputs) * length(changes)
    for result, expected in zip(project(*inputs, implementation="tpu"), move(inputs, changes), strict=True):
        assert result.dtype == jnp.dtype(dtype)
        limits = jnp.finfo(dtype)
        rounding = 0.51 * float(limits.eps) * abs(expected) + float(limits.smallest_subnormal)
        row_error = change_error.reshape(-1, *[1] * (expected.ndim - 1))
        assert (abs(np.asarray(result).astype(np.float64) - expected) <= rounding + row_error).all()


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((1, 1), None),
        ((300, 200), kernel.Blocks(256, 256)),  # a block in part beyond the rows, its last register in part beyond them
        ((150, 300), kernel.Blocks(128, 128)),  # rows in three blocks, read twice
    ],
)
def test_any_shape(shape: tuple[int, int], blocks: kernel.Blocks | None, rng: Generator) -> None:
    """Near roots in most groups of 128 rows, far ones among the last."""
    a, b, z = random_inputs(rng, shape, 0.01, np.float32)
    z[-3:] *= 50
    expected = as_float64(project(*as_float64((a, b, z)), increments=True, implementation="reference"))
    changes = as_float64(jax.jit(partial(kernel.project_bilinear, increments=True, blocks=blocks))(a, b, z))
    bound = ULPS * compute_eps(np.float32) * condition((a, b, z)) * length(expected)
    assert (difference(changes, expected) < bound).all()


@pytest.mark.usefixtures("tpu_interpreted_under_vmap")
def test_jit_and_vmap(rng: Generator) -> None:
    """Mapped twice, one argument not mapped, dtypes different."""
    a, b, z = random_inputs(rng, (2, 3, 4, 5), 0.3, np.float32)
    b = b[:, 0].astype(jnp.bfloat16)

    def call(implementation: str) -> tuple[jax.Array, ...]:
        def mapped(a: Array, b: Array, z: Array) -> tuple[jax.Array, ...]:
            return pk.project_bilinear(a, b, z, implementation=implementation)

        return jax.jit(jax.vmap(jax.vmap(mapped), in_axes=(1, None, 1), out_axes=1))(a, b, z)

    for result, expected in zip(call("tpu"), call("xla"), strict=True):
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(*as_float64((result, expected, z))[:2], rtol=1e-5, atol=1e-6)


def test_no_nan_leaks_from_one_row_to_another(rng: Generator) -> None:
    a, b, z = random_inputs(rng, (6, 5), 0.3, np.float32)
    z[2], a[4, 1] = np.nan, np.inf
    new = project(a, b, z, implementation="tpu")
    finite = [np.isfinite(x).reshape(6, -1).all(axis=1) for x in new]
    np.testing.assert_array_equal(finite, [[True, True, False, True, False, True]] * 3)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0, 4)])
def test_empty_inputs(shape: tuple[int, ...]) -> None:
    """As for any zero vectors, ``z`` comes to 0."""
    a, z = np.ones(shape, np.float32), np.full(shape[:-1], 0.5, np.float32)
    new_a, new_b, new_z = project(a, a, z, increments=True, implementation="tpu")
    assert (new_a.shape, new_b.shape, new_z.shape) == (shape, shape, shape[:-1])
    np.testing.assert_allclose(new_z, np.full(shape[:-1], -0.5), atol=1e-6)
