"""The Triton kernel of ``project_bilinear``, interpreted: the cases and bounds of :mod:`test_bilinear`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from . import oracles
from .test_bilinear import (
    CASES,
    Triple,
    as_float64,
    case_inputs,
    changes_of,
    compute_eps,
    condition,
    difference,
    dot,
    expected_changes,
    length,
    move,
    project,
)

pytestmark = pytest.mark.usefixtures("triton_interpreted")

Array = np.ndarray
Generator = np.random.Generator

ULPS = 3


def all_cases(dtype: DTypeLike) -> tuple[Triple, Triple]:
    """Inputs and expected changes of every case, one below the other."""
    inputs = zip(*(case_inputs(case, dtype) for case in CASES), strict=True)
    expected = zip(*(expected_changes(case, dtype) for case in CASES), strict=True)
    return tuple(map(np.concatenate, inputs)), tuple(map(np.concatenate, expected))  # type: ignore[return-value]


def random_inputs(rng: Generator, shape: tuple[int, ...], residual: float, dtype: DTypeLike) -> Triple:
    a, b = rng.normal(size=(2, *shape)).astype(dtype)
    wide_a, wide_b = as_float64((a, b, a))[:2]
    noise = residual * rng.normal(size=shape[:-1]) * (1 + dot(wide_a, wide_a) + dot(wide_b, wide_b))
    return a, b, (dot(wide_a, wide_b) + noise).astype(dtype)


def test_changes_agree_with_mpmath(dtype: DTypeLike) -> None:
    inputs, expected = all_cases(dtype)
    error = difference(changes_of(inputs, "triton"), expected) / length(expected)
    assert (error < ULPS * compute_eps(dtype) * condition(inputs)).all()


def test_new_values_are_rounded_once(dtype: DTypeLike) -> None:
    inputs, changes = all_cases(dtype)
    change_error = 2 * ULPS * compute_eps(dtype) * condition(inputs) * length(changes)
    for result, expected in zip(project(*inputs, implementation="triton"), move(inputs, changes), strict=True):
        assert result.dtype == dtype
        limits = jnp.finfo(dtype)
        rounding = 0.51 * float(limits.eps) * abs(expected) + float(limits.smallest_subnormal)
        row_error = change_error.reshape(-1, *[1] * (expected.ndim - 1))
        assert (abs(np.asarray(result).astype(np.float64) - expected) <= rounding + row_error).all()


@pytest.mark.parametrize("residual", [0.01, 3.0])
@pytest.mark.parametrize("shape", [(1,), (33,), (5, 1), (2, 3, 4), (1, 3, 700), (2, 8193)])
def test_any_shape(shape: tuple[int, ...], residual: float, rng: Generator) -> None:
    """Rows in registers, and in blocks; no multiple of either."""
    a, b, z = random_inputs(rng, shape, residual, np.float32)
    flat = a.reshape(-1, shape[-1]), b.reshape(-1, shape[-1]), z.reshape(-1)
    oracle = oracles.bilinear_changes if shape[-1] < 1000 else reference_changes
    expected = oracle(*as_float64(flat))
    changes = project(a, b, z, increments=True, implementation="triton")
    assert [change.shape for change in changes] == [shape, shape, shape[:-1]]
    rows = as_float64(tuple(np.asarray(change).reshape(x.shape) for change, x in zip(changes, flat, strict=True)))
    assert (difference(rows, expected) < ULPS * compute_eps(np.float32) * condition(flat) * length(expected)).all()


def reference_changes(a: Array, b: Array, z: Array) -> Triple:
    return as_float64(project(a, b, z, increments=True, implementation="reference"))


def test_long_rows_of_new_values(rng: Generator) -> None:
    inputs = random_inputs(rng, (2, 8193), 3.0, np.float32)
    new = project(*inputs, implementation="triton")
    for result, expected in zip(new, move(inputs, reference_changes(*as_float64(inputs))), strict=True):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=2e-7, atol=2e-6)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 4)])
@pytest.mark.parametrize("increments", [False, True])
def test_empty_inputs(shape: tuple[int, ...], increments: bool) -> None:
    """As for any zero vectors, ``z`` comes to 0."""
    a, z = np.ones(shape, np.float16), np.full(shape[:-1], 0.5, np.float16)
    new_a, new_b, new_z = project(a, a, z, increments=increments, implementation="triton")
    assert (new_a.shape, new_b.shape, new_z.shape) == (shape, shape, shape[:-1])
    assert {x.dtype for x in (new_a, new_b, new_z)} == {jnp.dtype(np.float32 if increments else np.float16)}
    np.testing.assert_allclose(new_z, -0.5 if increments else 0.0, atol=1e-6)


def test_dtypes_may_differ(rng: Generator) -> None:
    a, b, z = random_inputs(rng, (4, 9), 0.3, np.float16)
    inputs = a, b.astype(np.float32), z.astype(jnp.bfloat16)
    new = project(*inputs, implementation="triton")
    assert [x.dtype for x in new] == [x.dtype for x in inputs]
    for result, expected in zip(new, project(*inputs, implementation="xla"), strict=True):
        np.testing.assert_allclose(*(np.asarray(x).astype(np.float64) for x in (result, expected)), rtol=1e-5)


def test_jit_and_vmap(rng: Generator) -> None:
    """Mapped twice, one argument not mapped."""
    a, b, z = random_inputs(rng, (2, 3, 4, 5), 0.3, np.float32)

    def call(implementation: str) -> tuple[jax.Array, ...]:
        def mapped(a: Array, b: Array, z: Array) -> tuple[jax.Array, ...]:
            return pk.project_bilinear(a, b, z, increments=True, implementation=implementation)

        return jax.jit(jax.vmap(jax.vmap(mapped), in_axes=(1, None, 1), out_axes=1))(a, b[:, 0], z)

    for result, expected in zip(call("triton"), call("xla"), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_no_nan_leaks_from_one_row_to_another(rng: Generator) -> None:
    a, b, z = random_inputs(rng, (6, 5), 0.3, np.float32)
    z[2], a[4, 1] = np.nan, np.inf
    new = project(a, b, z, implementation="triton")
    finite = [np.isfinite(x).reshape(6, -1).all(axis=1) for x in new]
    np.testing.assert_array_equal(finite, [[True, True, False, True, False, True]] * 3)
