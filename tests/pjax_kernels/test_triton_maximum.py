"""The Triton kernels of ``project_max`` and ``project_max_pool``, interpreted, against every copy sorted in NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

kernels = pytest.importorskip("pjax_kernels.maximum.triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")

Array = np.ndarray
Generator = np.random.Generator

ULPS = 4
"""Rounding errors allowed, relative to the largest change."""


class Windows(NamedTuple):
    length: int
    size: int
    stride: int
    low: int
    high: int

    @property
    def count(self) -> int:  # type: ignore[override]
        return (self.low + self.length + self.high - self.size) // self.stride + 1


WINDOWS = {
    "side by side": (Windows(8, 2, 2, 0, 0), Windows(9, 3, 3, 0, 0)),
    "remainder left over": (Windows(8, 3, 3, 0, 0), Windows(9, 2, 2, 0, 0)),
    "overlapping, padded": (Windows(8, 3, 1, 1, 1), Windows(9, 3, 2, 1, 1)),
    "apart": (Windows(8, 2, 3, 0, 0), Windows(9, 1, 2, 0, 0)),
    "large": (Windows(8, 6, 2, 1, 0), Windows(9, 5, 1, 2, 1)),
}


def max_changes(x: Array, z: Array) -> tuple[Array, Array]:
    """Of rows of ``x``: they go to the largest mean of ``z`` and the ``k`` largest; or the first largest rises."""
    ordered = -np.sort(-x, axis=1)
    means = (z[:, None] + np.cumsum(ordered, axis=1)) / np.arange(2, x.shape[1] + 2)
    level = means.max(axis=1)
    above = z > ordered[:, 0]
    lowered = np.minimum(level[:, None] - x, 0)
    raised = np.where(np.arange(x.shape[1]) == np.argmax(x, axis=1)[:, None], ((z - ordered[:, 0]) / 2)[:, None], 0)
    return np.where(above[:, None], raised, lowered), np.where(above, (ordered[:, 0] - z) / 2, level - z)


def points(rng: Generator, rows: int, count: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Ties, near values, estimates above and far below."""
    x, z = rng.normal(size=(rows, count)), rng.normal(size=rows)
    x[::3], z[::3] = np.round(2 * x[::3]), np.round(2 * z[::3])
    z[1::3] += 30 * rng.choice([-1, 1], z[1::3].shape)
    return x.astype(dtype), z.astype(dtype)


def as_float64(*arrays: Any) -> tuple[Array, ...]:
    return tuple(np.asarray(array).astype(np.float64) for array in arrays)


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


@pytest.mark.parametrize("shape", [(100, 5), (3, 1), (4, 784), (2, 3000)])
def test_changes_of_rows(shape: tuple[int, int], rng: Generator) -> None:
    x, z = points(rng, *shape, np.float32)
    changes, z_change = as_float64(*kernels.project_max(jnp.asarray(x), jnp.asarray(z)[:, None], (1,), increments=True))
    expected, expected_z = max_changes(*as_float64(x, z))
    # A sum of hundreds of terms is rounded more often.
    error = ULPS * compute_eps(np.float32) * (1 if shape[1] < 100 else 4)
    assert (abs(changes - expected) <= error * abs(expected).max(axis=1, keepdims=True)).all()
    assert (abs(z_change[:, 0] - expected_z) <= error * abs(expected_z)).all()


def test_new_values_in_every_dtype(dtype: DTypeLike, rng: Generator) -> None:
    x, z = points(rng, 40, 5, dtype)
    new = kernels.project_max(jnp.asarray(x), jnp.asarray(z)[:, None], (1,), increments=False)
    assert [array.dtype for array in new] == [dtype, dtype]
    changes, z_change = max_changes(*as_float64(x, z))
    olds = as_float64(x, z[:, None])
    for result, old, change in zip(as_float64(*new), olds, (changes, z_change[:, None]), strict=True):
        rounding = 0.51 * float(jnp.finfo(dtype).eps) * abs(old + change)
        assert (abs(result - (old + change)) <= rounding + ULPS * compute_eps(dtype) * 30).all()


def test_several_axes(rng: Generator) -> None:
    x = rng.integers(-2, 3, (3, 4, 5)).astype(np.float64)
    z = rng.integers(-2, 3, (1, 4, 1)).astype(np.float64)
    changes, z_change = kernels.project_max(jnp.asarray(x), jnp.asarray(z), (0, 2), increments=True)
    expected, expected_z = max_changes(x.transpose(1, 0, 2).reshape(4, 15), z.ravel())
    np.testing.assert_allclose(changes.transpose(1, 0, 2).reshape(4, 15), expected, atol=1e-14)
    np.testing.assert_allclose(z_change.ravel(), expected_z, atol=1e-14)


def test_nan_stays_in_its_row_and_minus_infinity_in_its_place() -> None:
    x = np.array([[1, 2, np.nan, 0], [1, -np.inf, 3, -np.inf], [1, 2, 3, 4], [-np.inf, 1, 1, 0]], np.float32)
    z = np.array([[0], [1], [np.nan], [3]], np.float32)
    new_x, new_z = as_float64(*kernels.project_max(jnp.asarray(x), jnp.asarray(z), (1,), increments=False))
    assert np.isnan(new_x[[0, 2]]).all()
    assert np.isnan(new_z[[0, 2]]).all()
    np.testing.assert_array_equal(new_x[[1, 3]], [[1, -np.inf, 2, -np.inf], [-np.inf, 2, 1, 0]])
    np.testing.assert_array_equal(new_z[[1, 3], 0], [2, 2])


def pool_changes(x: Array, z: Array, rows: Windows, columns: Windows) -> tuple[Array, Array]:
    """The mean over explicit copies, window by window."""
    totals, copies, z_changes = np.zeros_like(x), np.zeros_like(x), np.zeros_like(z)
    for i, j in np.ndindex(rows.count, columns.count):
        i_places, j_places = (
            np.arange(max(k * axis.stride - axis.low, 0), min(k * axis.stride - axis.low + axis.size, axis.length))
            for k, axis in ((i, rows), (j, columns))
        )
        places = np.ix_(range(len(x)), i_places, j_places, range(x.shape[3]))
        entries = x[places].transpose(0, 3, 1, 2)
        changes, z_change = max_changes(entries.reshape(-1, len(i_places) * len(j_places)), z[:, i, j].ravel())
        totals[places] += changes.reshape(entries.shape).transpose(0, 2, 3, 1)
        copies[places] += 1
        z_changes[:, i, j] = z_change.reshape(z[:, i, j].shape)
    return totals / np.maximum(copies, 1), z_changes


def images(windows: str, rng: Generator) -> tuple[Array, Array]:
    rows, columns = WINDOWS[windows]
    x = rng.normal(size=(2, 8, 9, 3))
    x[..., 0] = np.round(x[..., 0])
    return x, 1 + rng.normal(size=(2, rows.count, columns.count, 3))


@pytest.mark.parametrize("windows", WINDOWS)
def test_windows_take_the_mean_of_their_copies(windows: str, rng: Generator) -> None:
    x, z = images(windows, rng)
    changes = kernels.project_max_pool(jnp.asarray(x), jnp.asarray(z), *WINDOWS[windows], increments=True)
    for change, expected in zip(changes, pool_changes(x, z, *WINDOWS[windows]), strict=True):
        np.testing.assert_allclose(change, expected, rtol=0, atol=1e-14)


def test_new_images_keep_their_dtype_under_vmap(rng: Generator) -> None:
    x, z = (array.astype(np.float16) for array in images("apart", rng))

    def pool(x: Array, z: Array) -> tuple[jax.Array, jax.Array]:
        return kernels.project_max_pool(x, z, *WINDOWS["apart"], increments=False)

    new = jax.vmap(pool)(x[:, None], z[:, None])
    assert [array.dtype for array in new] == [np.float16, np.float16]
    expected = pool_changes(*as_float64(x, z), *WINDOWS["apart"])
    for result, old, change in zip(new, (x, z), expected, strict=True):
        np.testing.assert_allclose(result[:, 0], (old + change).astype(np.float16), rtol=1e-3, atol=1e-3)


def test_nan_reaches_the_window_and_its_entries_only(rng: Generator) -> None:
    x, z = images("side by side", rng)
    x[0, 0, 4, 1] = np.nan
    new_x, new_z = kernels.project_max_pool(jnp.asarray(x), jnp.asarray(z), *WINDOWS["side by side"], increments=False)
    assert np.argwhere(np.isnan(new_z)).tolist() == [[0, 0, 1, 1]]
    assert np.argwhere(np.isnan(new_x)).tolist() == [[0, i, j, 1] for i in (0, 1) for j in (3, 4, 5)]


def test_empty_batches() -> None:
    rows, columns = WINDOWS["apart"]
    x, z = jnp.zeros((0, 8, 9, 3)), jnp.zeros((0, rows.count, columns.count, 3))
    assert [array.shape for array in kernels.project_max_pool(x, z, rows, columns, increments=True)] == [
        x.shape,
        z.shape,
    ]
    new = kernels.project_max(jnp.zeros((0, 4)), jnp.zeros((0, 1)), (1,), increments=False)
    assert [array.shape for array in new] == [(0, 4), (0, 1)]
