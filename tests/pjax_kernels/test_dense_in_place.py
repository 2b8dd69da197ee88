"""The projection onto a dense layer that moves the weights where they are."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_kernels.dense.in_place import project_dense_in_place

from . import oracles
from .code_generation import AS_FOR_USERS
from .test_dense import (
    RESIDUALS,
    ULPS,
    as_float64,
    compute_eps,
    condition,
    layer,
    precisions,
    relative_errors,
)

Generator = np.random.Generator

project = jax.jit(project_dense_in_place, static_argnames="moves_x", compiler_options=AS_FOR_USERS)


def start_of(w: Any, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights and their change, which add up to ``w``."""
    change = np.float32(w * rng.uniform(-0.01, 0.01, w.shape))
    return np.float32(w - change), change


def residual_of(x: Any, w: Any, change: Any, z: Any) -> np.ndarray:
    x, w, change, z = as_float64((x, w, change, z))
    return np.float32(z - x @ (w + change))


@pytest.mark.parametrize("residual", RESIDUALS)
# Of 6 images, weights are moved in blocks of 128 rows if that divides their number, or 64 to 127 do, and else at once.
@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 512, 3), (6, 200, 2), (6, 131, 2), (300, 5, 40)])
def test_changes_agree_with_mpmath(shape: tuple[int, int, int], residual: str, rng: Generator) -> None:
    batch, length, width = shape
    # Images that come again move as before, and so does the mean of the weights' copies.
    times = 25 if batch > 100 else 1
    x, w, z = layer(rng, batch // times, length, width, residual, np.float32)
    start, change = start_of(w, rng)
    expected = list(oracles.dense_changes(*as_float64((x, np.float64(start) + np.float64(change), z))))
    x, z, expected[0], expected[2] = (np.tile(array, (times, 1)) for array in (x, z, expected[0], expected[2]))
    x_change, new_change, z_change = project(x, start, change, z, residual_of(x, start, change, z))
    w_change = np.float64(new_change) - np.float64(change)
    errors = relative_errors((x_change, w_change, z_change), expected)
    # The change of the weights is rounded in its sum with the one before.
    errors[1] -= np.linalg.norm(np.spacing(new_change)) / np.linalg.norm(w_change)
    assert max(errors) < ULPS * compute_eps(np.float32) * condition((x, w, z))


def test_products_are_precise(rng: Generator) -> None:
    x, w, z = layer(rng, 5, 4, 3, "mixed", np.float32)
    expected = jax.make_jaxpr(functools.partial(jnp.matmul, precision="highest"))(x, w).eqns[0].params["precision"]
    assert precisions(jax.make_jaxpr(project_dense_in_place)(x, w, np.zeros_like(w), z, z - x @ w)) == [expected] * 2


def test_without_x_the_rest_is_the_same(rng: Generator) -> None:
    x, w, z = layer(rng, 6, 512, 3, "mixed", np.float32)
    arguments = x, w, np.zeros_like(w), z, z - x @ w
    _, *rest = project(*arguments)
    nothing, *alone = project(*arguments, moves_x=False)
    assert nothing is None
    for found, expected in zip(alone, rest, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_not_a_number_ends(rng: Generator) -> None:
    """It waits for nothing that never comes."""
    x, w, z = layer(rng, 6, 512, 3, "near", np.float32)
    x[0, 0] = np.nan
    _, w_change, z_change = project(x, w, np.zeros_like(w), z, z - x @ w)
    assert np.isnan(z_change[0]).all()
    assert np.isnan(w_change).all()
    assert np.isfinite(jnp.asarray(z_change)[1:]).all()
