"""The projection onto a dense layer that moves the weights where they are."""

from __future__ import annotations

import functools

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


@pytest.mark.parametrize("residual", RESIDUALS)
# Of 6 images, weights are moved in blocks of 128 rows if that divides their number, or 64 to 127 do, and else at once.
@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 512, 3), (6, 200, 2), (6, 131, 2), (300, 5, 40)])
def test_changes_agree_with_mpmath(shape: tuple[int, int, int], residual: str, rng: Generator) -> None:
    x, w, z = layer(rng, *shape, residual, np.float32)
    errors = relative_errors(project(x, w, np.zeros_like(w), z), oracles.dense_changes(*as_float64((x, w, z))))
    assert max(errors) < ULPS * compute_eps(np.float32) * condition((x, w, z))


@pytest.mark.parametrize("shape", [(6, 512, 3), (300, 5, 40)])
def test_adds_to_an_earlier_change(shape: tuple[int, int, int], rng: Generator) -> None:
    """The products are those of the weights as changed; with a residual none is formed, and little is not lost."""
    x, w, z = layer(rng, *shape, "near", np.float64)
    before = 1e-2 * rng.normal(size=w.shape)
    residual = 1e-10 * rng.normal(size=z.shape)
    z = x @ (w + before) + residual
    expected = oracles.dense_changes(x, w + before, z)
    x_change, after, z_change = jax.jit(project_dense_in_place)(*map(np.float32, (x, w, before, z, residual)))
    errors = relative_errors((x_change, np.float64(after) - np.float32(before), z_change), expected)
    assert errors[0] < 1e-5
    assert errors[2] < 1e-5


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_takes_every_precision(precision: str, rng: Generator) -> None:
    x, w, z = layer(rng, 5, 4, 3, "mixed", np.float32)
    call = functools.partial(project_dense_in_place, precision=precision)
    expected = jax.make_jaxpr(functools.partial(jnp.matmul, precision=precision))(x, w).eqns[0].params["precision"]
    assert precisions(jax.make_jaxpr(call)(x, w, np.zeros_like(w), z)) == [expected] * 3


def test_without_x_the_rest_is_the_same(rng: Generator) -> None:
    x, w, z = layer(rng, 6, 512, 3, "mixed", np.float32)
    _, *rest = project(x, w, np.zeros_like(w), z)
    nothing, *alone = project(x, w, np.zeros_like(w), z, moves_x=False)
    assert nothing is None
    for found, expected in zip(alone, rest, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_not_a_number_ends(rng: Generator) -> None:
    """It waits for nothing that never comes."""
    x, w, z = layer(rng, 6, 512, 3, "near", np.float32)
    x[0, 0] = np.nan
    _, w_change, z_change = project(x, w, np.zeros_like(w), z)
    assert np.isnan(z_change[0]).all()
    assert np.isnan(w_change).all()
    assert np.isfinite(jnp.asarray(z_change)[1:]).all()
