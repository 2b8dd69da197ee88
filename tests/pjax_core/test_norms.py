"""Root mean squares of what is far from 1, in either precision and of arrays of both."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_core.arrays.norms import Norms, rms, rms_of

from ..pjax_kernels.code_generation import AS_FOR_USERS


def _themselves(*arrays: Any) -> Any:
    return arrays


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1.0, 1e25, 1e36])
@pytest.mark.parametrize("wide", [False, True], ids=["x64 off", "x64 on"])
def test_float32_of_any_size(scale: float, wide: bool, generator: np.random.Generator) -> None:
    x = np.float32(scale * generator.normal(size=(3, 50)))
    with jax.enable_x64(wide):
        found = rms(_themselves, jnp.asarray(x[0]), jnp.asarray(x[1:]))
        by_parts = rms(lambda x: [x[0], Norms(jnp.linalg.norm(x[1:] / scale, axis=1) * scale, 100)], jnp.asarray(x))
        of_one = rms_of(jnp.asarray(x))
    assert found.dtype == of_one.dtype == np.float32
    expected = np.sqrt(np.mean(np.square(x, dtype=np.float64)))
    np.testing.assert_allclose([found, by_parts, of_one], expected, rtol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0])
def test_arrays_of_both_precisions(scale: float, generator: np.random.Generator) -> None:
    narrow, wide = np.float32(scale * generator.normal(size=40)), scale * generator.normal(size=70)
    expected = np.sqrt(np.mean(np.concatenate([narrow, wide]) ** 2))
    np.testing.assert_allclose(rms(_themselves, jnp.asarray(narrow), jnp.asarray(wide)), expected, rtol=1e-12)


def test_no_difference_is_stored(generator: np.random.Generator) -> None:
    new, old = jnp.float32(generator.normal(size=(2, 4, 100, 100)))
    found = jax.jit(lambda new, old: rms(lambda *arrays: [a - b for a, b in zip(*arrays, strict=True)], new, old))
    used: Any = found.lower(list(new), list(old)).compile(dict(AS_FOR_USERS)).memory_analysis()
    assert used.temp_size_in_bytes <= 1.5 * new[0].nbytes


@pytest.mark.parametrize("worst", [np.inf, np.nan])
def test_what_is_no_number_ends(worst: float) -> None:
    found = jax.jit(lambda x: rms(_themselves, x))(np.float32([1.0, worst]))
    np.testing.assert_array_equal(found, worst)


@pytest.mark.usefixtures("float64")
def test_derivatives(generator: np.random.Generator) -> None:
    x, direction = generator.normal(size=(2, 30))
    function = lambda x: rms(_themselves, 1e-3 * x)  # noqa: E731
    expected = 1e-3 * np.mean(x * direction) / np.sqrt(np.mean(x**2))
    np.testing.assert_allclose(jax.grad(function)(x) @ direction, expected, rtol=1e-12)
    np.testing.assert_array_equal(jax.grad(function)(0 * x), 0 * x)
    mapped = jax.vmap(function)(jnp.stack([x, 1e-170 * x]))
    np.testing.assert_allclose(mapped, np.array([1, 1e-170]) * function(x), rtol=1e-12)
