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

pytestmark = pytest.mark.usefixtures("quick_compilation")

Generator = np.random.Generator

project = jax.jit(project_dense_in_place, static_argnames="moves_x", compiler_options=AS_FOR_USERS)


def sum_of_pair(high: Any, low: Any) -> np.ndarray:
    return np.float64(high) + np.float64(low)


@pytest.mark.parametrize("residual", RESIDUALS)
# Of 6 images, weights are moved in blocks of 128 rows if that divides their number, or 64 to 127 do, and else at once.
@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 512, 3), (6, 200, 2), (6, 131, 2), (300, 5, 40)])
def test_changes_agree_with_mpmath(shape: tuple[int, int, int], residual: str, rng: Generator) -> None:
    batch, length, width = shape
    times = (
        5 if batch > 100 else 1
    )  # images that come again move as before, and so does the mean of the weights' copies
    x, w, z = layer(rng, batch // times, length, width, residual, np.float32)
    expected = list(oracles.dense_changes(*as_float64((x, w, z))))
    x, z, expected[0], expected[2] = (np.tile(array, (times, 1)) for array in (x, z, expected[0], expected[2]))
    low = np.float32(np.spacing(w) * rng.uniform(-0.5, 0.5, w.shape))
    x_change, (new_w, new_low), new_z = project(x, w, low, z)
    w_change = sum_of_pair(new_w, new_low) - sum_of_pair(w, low)
    errors = relative_errors((x_change, w_change, new_z - z), expected)
    # The new z is rounded to its own dtype, as its caller wants it.
    errors[2] -= np.linalg.norm(np.spacing(new_z)) / np.linalg.norm(new_z - z)
    assert max(errors) < ULPS * compute_eps(np.float32) * condition((x, w, z))
    np.testing.assert_array_equal(np.float32(sum_of_pair(new_w, new_low)), new_w)


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_takes_every_precision(precision: str, rng: Generator) -> None:
    x, w, z = layer(rng, 5, 4, 3, "mixed", np.float32)
    call = functools.partial(project_dense_in_place, precision=precision)
    expected = jax.make_jaxpr(functools.partial(jnp.matmul, precision=precision))(x, w).eqns[0].params["precision"]
    assert precisions(jax.make_jaxpr(call)(x, w, np.zeros_like(w), z)) == [expected] * 3


def test_without_x_the_rest_is_the_same(rng: Generator) -> None:
    x, w, z = layer(rng, 6, 512, 3, "mixed", np.float32)
    _, pair, new_z = project(x, w, np.zeros_like(w), z)
    nothing, pair_alone, new_z_alone = project(x, w, np.zeros_like(w), z, moves_x=False)
    assert nothing is None
    for found, expected in zip((*pair_alone, new_z_alone), (*pair, new_z), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_not_a_number_ends(rng: Generator) -> None:
    """It waits for nothing that never comes."""
    x, w, z = layer(rng, 6, 512, 3, "near", np.float32)
    x[0, 0] = np.nan
    _, (new_w, _), new_z = project(x, w, np.zeros_like(w), z)
    assert np.isnan(new_z[0]).all()
    assert np.isnan(new_w).all()
    assert np.isfinite(jnp.asarray(new_z)[1:]).all()
