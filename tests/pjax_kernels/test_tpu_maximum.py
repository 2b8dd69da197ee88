"""The TPU kernel of ``project_max_pool``, interpreted, against every copy sorted in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

from . import oracles

pytestmark = pytest.mark.usefixtures("tpu_interpreted")

Array = np.ndarray
Generator = np.random.Generator

WINDOWS = {
    "side by side": ((2, 3), (2, 3), ((0, 0), (0, 0))),
    "overlapping, padded": ((3, 3), (1, 2), ((1, 1), (1, 1))),
    "apart": ((2, 1), (3, 2), ((0, 0), (0, 0))),
}


def images(windows: str, rng: Generator, channels: int = 3) -> tuple[Array, Array]:
    """With ties in one channel, and estimates above and below the maxima."""
    window, strides, padding = WINDOWS[windows]
    x = rng.normal(size=(2, 8, 9, channels))
    x[..., 0] = np.round(x[..., 0])
    counts = [
        (low + size + high - length) // stride + 1
        for (low, high), size, length, stride in zip(padding, x.shape[1:3], window, strides, strict=True)
    ]
    return x.astype(np.float32), (1 + rng.normal(size=(2, *counts, channels))).astype(np.float32)


def pool(windows: str, implementation: str, increments: bool = True) -> partial[tuple[jax.Array, jax.Array]]:
    window, strides, padding = WINDOWS[windows]
    settings = {"window": window, "strides": strides, "padding": padding, "increments": increments}
    return partial(pk.project_max_pool, implementation=implementation, **settings)


@pytest.mark.parametrize("windows", WINDOWS)
def test_windows_take_the_mean_of_their_copies(windows: str, rng: Generator) -> None:
    x, z = images(windows, rng)
    expected = oracles.max_pool_changes(x.astype(np.float64), z.astype(np.float64), *WINDOWS[windows])
    for change, right in zip(jax.jit(pool(windows, "tpu"))(x, z), expected, strict=True):
        np.testing.assert_allclose(change, right, rtol=0, atol=1e-6)


def test_more_channels_than_lanes_in_bfloat16(rng: Generator) -> None:
    x, z = (array.astype(jnp.bfloat16) for array in images("overlapping, padded", rng, 130))
    new, expected = (jax.jit(pool("overlapping, padded", name, increments=False))(x, z) for name in ("tpu", "xla"))
    for result, right in zip(new, expected, strict=True):
        assert result.dtype == jnp.bfloat16
        np.testing.assert_allclose(*(np.asarray(y).astype(np.float64) for y in (result, right)), rtol=0.01, atol=1e-3)


@pytest.mark.usefixtures("tpu_interpreted_under_vmap")
def test_vmap(rng: Generator) -> None:
    x, z = images("apart", rng)
    new, expected = (jax.jit(jax.vmap(pool("apart", name)))(x[:, None], z[:, None]) for name in ("tpu", "xla"))
    for result, right in zip(new, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-6)


def test_nan_reaches_the_window_and_its_entries_only(rng: Generator) -> None:
    x, z = images("side by side", rng)
    x[0, 0, 4, 1] = np.nan
    new_x, new_z = jax.jit(pool("side by side", "tpu", increments=False))(x, z)
    assert np.argwhere(np.isnan(new_z)).tolist() == [[0, 0, 1, 1]]
    assert np.argwhere(np.isnan(new_x)).tolist() == [[0, i, j, 1] for i in (0, 1) for j in (3, 4, 5)]


def test_empty_batches() -> None:
    x, z = np.ones((0, 4, 6, 3), np.float32), np.ones((0, 2, 3, 3), np.float32)
    new = pk.project_max_pool(x, z, window=(2, 2), implementation="tpu")
    assert [array.shape for array in new] == [x.shape, z.shape]
