"""The projection onto sums over axes of one array: against constraint geometry, by optimality and by symmetries."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from ..pairs import pairwise
from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator

project = jax.jit(
    pk.project_sum_over, static_argnames=("axis", "increments", "implementation"), compiler_options=AS_FOR_USERS
)

ULPS = 8
"""Rounding errors allowed in a change, relative to the sum of the sizes of the terms."""

AXES = [None, 0, -1, (0, 2), (2, 1)]
SHAPE = (3, 4, 5)
DTYPES = [jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64")]


def places(axis: Any) -> tuple[int, ...]:
    if axis is None:
        return (0, 1, 2)
    return tuple(sorted(a % 3 for a in ((axis,) if isinstance(axis, int) else axis)))


def point(rng: Generator, axis: Any, dtype: DTypeLike) -> tuple[Array, Array]:
    x = rng.normal(size=SHAPE).astype(dtype)
    return x, rng.normal(size=np.sum(x, places(axis)).shape).astype(dtype)


@pytest.mark.parametrize(("axis", "implementation", "dtype"), pairwise(AXES, ["reference", "xla"], DTYPES))
def test_changes_agree_with_geometry(axis: Any, implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    x, z = point(rng, axis, dtype)
    found = project(x, z, axis=axis, increments=True, implementation=implementation)
    wide_x, wide_z = np.float64(x), np.float64(z)
    rows = np.moveaxis(wide_x, places(axis), range(len(places(axis)))).reshape(-1, *z.shape)
    changes, z_change = oracles.sum_changes(list(rows), wide_z)
    assert found[0].shape == SHAPE
    eps = float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)
    allowed = ULPS * eps * (np.abs(wide_x).sum() + np.abs(wide_z).max())
    np.testing.assert_allclose(np.float64(found[1]), z_change, rtol=0, atol=allowed)
    moved = np.moveaxis(np.float64(found[0]), places(axis), range(len(places(axis)))).reshape(rows.shape)
    np.testing.assert_allclose(moved, np.stack(changes), rtol=0, atol=allowed)


@pytest.mark.parametrize("axis", [0, (0, 2)])
def test_result_is_feasible_nearest_and_stays(axis: Any, implementation: str, rng: Generator) -> None:
    x, z = point(rng, axis, np.float64)
    new_x, new_z = (np.asarray(a) for a in project(x, z, axis=axis, implementation=implementation))
    np.testing.assert_allclose(new_x.sum(axis), new_z, rtol=0, atol=1e-13)
    again = project(new_x, new_z, axis=axis, implementation=implementation)
    np.testing.assert_allclose(again[0], new_x, rtol=0, atol=1e-13)
    distance = np.sum((new_x - x) ** 2) + np.sum((new_z - z) ** 2)
    for scale in (1e-4, 1e-2, 1.0):
        samples = new_x + scale * rng.normal(size=(500, *SHAPE))
        sums = samples.sum(axis=tuple(a + 1 for a in places(axis)))
        nearer = np.sum((samples - x) ** 2, axis=(1, 2, 3)) + np.sum((sums - z) ** 2, axis=tuple(range(1, sums.ndim)))
        assert np.all(nearer >= distance - 1e-12)


def test_under_vmap_and_with_the_dtypes_given(implementation: str, rng: Generator) -> None:
    x, z = point(rng, 1, np.float32)
    call = partial(project, axis=0, implementation=implementation)
    new_x, new_z = jax.vmap(call)(x.astype(np.float16), z.astype(jnp.bfloat16))
    assert (new_x.dtype, new_z.dtype) == (np.float16, jnp.bfloat16)
    expected = project(x.astype(np.float16), z.astype(jnp.bfloat16), axis=1, implementation=implementation)
    np.testing.assert_allclose(new_x, expected[0], rtol=1e-2)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5)])
def test_empty_arrays(shape: tuple[int, ...], implementation: str, rng: Generator) -> None:
    """The sum of nothing is zero, halfway to which ``z`` stays: it is the only one that moves."""
    z = rng.normal(size=(shape[0], shape[2])).astype(np.float32)
    new_x, new_z = project(np.ones(shape, np.float32), z, axis=1, implementation=implementation)
    assert new_x.shape == shape
    np.testing.assert_allclose(new_z, 0 * z, atol=1e-7)


@pytest.mark.parametrize(
    ("x", "z", "axis", "error", "message"),
    [
        (np.ones((3, 4)), np.ones(3), 2, ValueError, r"project_sum_over: axis is 2 for x of shape \(3, 4\)"),
        (np.ones((3, 4)), np.ones(3), (1, 1), ValueError, "several different ones"),
        (np.ones((3, 4)), np.ones(3), 0, ValueError, r"z has shape \(3,\), but x of shape \(3, 4\) .* needs \(4,\)"),
        (np.ones((3, 4), int), np.ones(4), 0, TypeError, "project_sum_over: x has dtype int"),
    ],
)
def test_what_does_not_fit(x: Array, z: Array, axis: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pk.project_sum_over(x, z, axis=axis)
    with pytest.raises(NotImplementedError, match="there is no 'triton' implementation"):
        pk.project_sum_over(np.ones((3, 4)), np.ones(3), axis=1, implementation="triton")
