"""The projections onto a maximum: against all sets of entries that may meet it, by optimality and by symmetries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator
Point = tuple[Array, Array]

STATIC = ("increments", "implementation")
project_max = jax.jit(pk.project_max, static_argnames=(*STATIC, "axis"), compiler_options=AS_FOR_USERS)
# Where entries and windows are is no matter of rounding.
project_max_quickly = jax.jit(pk.project_max, static_argnames=(*STATIC, "axis"))
project_max_pool = jax.jit(pk.project_max_pool, static_argnames=(*STATIC, "window", "strides", "padding"))

ULPS = 4
"""Rounding errors allowed, relative to the largest change."""

ROWS, FEW, MANY = 400, 5, 784

WINDOWS: dict[str, dict[str, Any]] = {
    "side by side": {"window": (2, 3)},
    "remainder left over": {"window": (3, 2)},
    "side by side, padded": {"window": (3, 4), "padding": "SAME"},
    "overlapping": {"window": (3, 2), "strides": (2, 1)},
    "overlapping, padded": {"window": (3, 3), "strides": (1, 2), "padding": "SAME"},
    "apart": {"window": (2, 1), "strides": (3, 2)},
    "pairs of padding": {"window": (3, 2), "strides": (2, 2), "padding": ((2, 1), (0, 1))},
    "a loop over entries": {"window": (6, 5), "strides": (2, 1), "padding": ((1, 0), (2, 1))},
}
IMAGES = (2, 8, 9, 3)


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def as_float64(*arrays: Any) -> Point:
    x, z = (np.asarray(array).astype(np.float64) for array in arrays)
    return x, z


def points(rng: Generator, dtype: DTypeLike) -> Point:
    """Far and near values, ties of the largest entries and of ``z`` with them, estimates far above and below."""
    x, z = rng.normal(size=(ROWS, FEW)), rng.normal(size=ROWS)
    x[::4] = np.round(2 * x[::4])
    z[::8] = np.round(2 * z[::8])
    z[1::4] += 30 * rng.choice([-1, 1], z[1::4].shape)
    x[2::4] = 50 + x[2::4] / 16
    z[2::4] = 50 + z[2::4] / 16
    return x.astype(dtype), z.astype(dtype)


def many_points(rng: Generator) -> Point:
    """Rows of 784: normal, all tied, every size, near a large offset, in order, one of them far off."""
    x = rng.normal(size=(24, MANY))
    z = rng.normal(size=24) - 1
    x[4:8] = 1
    x[8:12] = 2.0 ** -np.linspace(0, 100, MANY)
    x[12:16] = 1000 + x[12:16] / 64
    z[12:16] += 1000
    x[16:20] = np.sort(x[16:20])[:, ::-1]
    x[20:24, 100] += 1000
    z[::4] = [10, 2, 2, 2000, 4, -1000]
    return x.astype(np.float32), z.astype(np.float32)


def changes_of(point: Point, implementation: str, axis: Any = -1) -> Point:
    return as_float64(*project_max(*point, axis=axis, increments=True, implementation=implementation))


def assert_changes_are(changes: Point, expected: Point, eps: float) -> None:
    """To rounding of the largest change of a row's entries, and of the change of its ``z``."""
    size = abs(expected[0]).max(axis=-1, keepdims=True)
    assert (abs(changes[0] - expected[0]) <= ULPS * eps * size).all()
    assert (abs(changes[1] - expected[1]) <= ULPS * eps * abs(expected[1])).all()


# Against the oracles.


def test_changes_agree_with_all_subsets(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    point = points(rng, dtype)
    expected = oracles.max_changes(*as_float64(*point))
    assert_changes_are(changes_of(point, implementation), expected, compute_eps(dtype))
    moved = np.sum(expected[0] != 0, axis=1)
    assert set(range(1, FEW + 1)) <= set(moved[expected[1] > 0])
    assert set(moved[expected[1] < 0]) == {1}


def test_changes_of_many_entries(implementation: str, rng: Generator) -> None:
    point = many_points(rng)
    expected = oracles.max_changes_by_count(*as_float64(*point))
    moved = np.sum(expected[0] != 0, axis=1)
    assert moved.max() == MANY
    assert len(set(moved)) > 8
    # A sum of hundreds of terms is rounded more often.
    assert_changes_are(changes_of(point, implementation), expected, 4 * compute_eps(np.float32))


@pytest.mark.parametrize(
    ("length", "implementation"), [(223, "xla"), (224, "xla"), (225, "xla"), (1000, "xla"), (225, "reference")]
)
@pytest.mark.parametrize("top", ["anywhere", "in one group", "in the rest", "all equal"])
def test_long_rows(top: str, length: int, implementation: str, rng: Generator) -> None:
    """Whose first guess is of the largest entries of groups: wherever those are that lose."""
    x = rng.normal(size=(20, length)).astype(np.float32)
    places = {"in one group": slice(3, None, 112), "in the rest": slice(-1, None)}
    if top in places:
        x[:, places[top]] += 5
    elif top == "all equal":
        x[:] = x[:, :1]
    z = x.max(1) - rng.uniform(-1, 6, size=20).astype(np.float32)
    expected = oracles.max_changes_by_count(*as_float64(x, z))
    assert_changes_are(changes_of((x, z), implementation), expected, 4 * compute_eps(np.float32))


def test_increments_far_below_the_rounding_of_the_values(implementation: str, rng: Generator) -> None:
    x = rng.integers(1, 100, (ROWS, FEW)).astype(np.float32)
    x[::2, 0] = x[::2].max(axis=1)
    z = (x.max(axis=1) * (1 + rng.choice([-1, 1], ROWS) * 2.0**-22)).astype(np.float32)
    expected = oracles.max_changes(*as_float64(x, z))
    assert 0 < abs(expected[0]).max() < 1e-4
    assert_changes_are(changes_of((x, z), implementation), expected, compute_eps(np.float32))


# Optimality.


def test_a_small_residual_beside_values_of_the_same_program(implementation: str, rng: Generator) -> None:
    """Compilers may compute values anew for each use, and round them in other ways: the largest ones stay such."""

    def changes(values: Any, residual: Any) -> Any:
        deviations = values - values.mean(-1, keepdims=True)
        x = (deviations / jnp.sqrt(values.var(-1, keepdims=True) + 1e-5)).reshape(16, 16, 4)
        z = x.max(-1) + residual
        return pk.project_max(x, z, residual=residual, increments=True, implementation=implementation)

    values, residual = np.float32(rng.normal(size=(16, 64))), np.float32(1e-18 * rng.normal(size=(16, 16)))
    x_change, z_change = as_float64(*jax.jit(changes, compiler_options=AS_FOR_USERS)(values, residual))
    np.testing.assert_allclose(x_change.sum(-1), residual / 2, rtol=1e-6)
    np.testing.assert_allclose(z_change, -residual / 2, rtol=1e-6)


def test_no_feasible_point_is_nearer(implementation: str, rng: Generator) -> None:
    x, z = points(rng, np.float64)
    changes = changes_of((x, z), implementation)
    distance = np.sum(changes[0] ** 2, axis=1) + changes[1] ** 2
    for scale in (1e-4, 1e-2, 0.1, 1, 10):
        for centre in (x + changes[0], x):
            for _ in range(50):
                sample = centre + scale * rng.normal(size=x.shape)
                sampled = np.sum((sample - x) ** 2, axis=1) + (sample.max(axis=1) - z) ** 2
                assert (sampled >= distance * (1 - 1e-12)).all()


def test_optimality_of_many_entries(implementation: str, rng: Generator) -> None:
    """Below the maximum ``z`` gains what the entries lose, and all that lose are equal to it in the end."""
    x, z = rng.normal(size=(24, MANY)), rng.normal(size=24)
    changes, z_change = changes_of((x, z), implementation)
    np.testing.assert_allclose(z_change, -changes.sum(axis=1), rtol=1e-12)
    moved = changes < 0
    new_x, new_z = x + changes, np.broadcast_to((z + z_change)[:, None], x.shape)
    np.testing.assert_allclose(new_x[moved], new_z[moved], rtol=0, atol=1e-14)
    assert (new_x <= new_z + 1e-14).all()
    assert (changes <= 0).all()


# Properties.


def test_result_is_feasible_and_stays(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    point = points(rng, dtype)
    new = project_max(*point, implementation=implementation)
    assert [array.dtype for array in new] == [dtype, dtype]
    new_x, new_z = as_float64(*new)
    wide_x, wide_z = as_float64(*point)
    rounding = float(jnp.finfo(dtype).eps) * np.maximum(abs(wide_x).max(axis=1), abs(wide_z))
    assert (abs(new_x.max(axis=1) - new_z) <= 2 * rounding).all()
    again = changes_of(new, implementation)
    assert (abs(again[0]).max(axis=1) <= 2 * rounding).all()
    assert (abs(again[1]) <= 2 * rounding).all()


def test_feasible_points_stay(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    x = rng.integers(-20, 21, (ROWS, FEW)).astype(dtype)
    changes, z_change = changes_of((x, x.max(axis=1)), implementation)
    assert not changes.any()
    assert not z_change.any()


AXES = (0, (0, 2), None, 1, -2, (-1, 1), (2, 0, 1), ())


@pytest.mark.parametrize(
    ("axis", "implementation"), [*((axis, "xla") for axis in AXES), *((axis, "reference") for axis in AXES[:3])]
)
def test_any_axes(axis: Any, implementation: str, rng: Generator) -> None:
    """As the last axis, once moved there."""
    x = rng.integers(-2, 3, (3, 4, 5)).astype(np.float64)
    z = rng.integers(-2, 3, x.max(axis=axis).shape).astype(np.float64)
    axes = tuple(range(3)) if axis is None else tuple(sorted(i % 3 for i in np.atleast_1d(axis).astype(int)))
    kept = [i for i in range(3) if i not in axes]
    moved = x.transpose(*kept, *axes)
    rows = moved.reshape(z.size, -1)
    expected, expected_z = oracles.max_changes_by_count(rows, z.ravel())
    changes, z_change = as_float64(
        *project_max_quickly(x, z, axis=axis, increments=True, implementation=implementation)
    )
    np.testing.assert_allclose(changes.transpose(*kept, *axes).reshape(rows.shape), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(z_change, expected_z.reshape(z.shape), rtol=0, atol=1e-14)


def test_one_entry_is_the_identity(implementation: str) -> None:
    x, z = as_float64(*project_max(3.0, -1.0, axis=None, implementation=implementation))
    assert (x, z) == (1, 1)
    x, z = as_float64(*project_max(np.array([3.0]), 4.0, implementation=implementation))
    assert (x, z) == (3.5, 3.5)


def test_symmetries(implementation: str, rng: Generator) -> None:
    """Permuted entries, a constant added to everything, a positive factor."""
    x, z = rng.normal(size=(2, ROWS, FEW))[0], rng.normal(size=ROWS)
    changes, z_change = changes_of((x, z), implementation)
    order = rng.permutation(FEW)
    for point, transformed in (
        ((x[:, order], z), (changes[:, order], z_change)),
        ((x + 8, z + 8), (changes, z_change)),
        ((2.0**100 * x, 2.0**100 * z), (2.0**100 * changes, 2.0**100 * z_change)),
        ((2.0**-100 * x, 2.0**-100 * z), (2.0**-100 * changes, 2.0**-100 * z_change)),
    ):
        scale = abs(transformed[1]).max()
        for new, expected in zip(changes_of(point, implementation), transformed, strict=True):
            np.testing.assert_allclose(new, expected, rtol=0, atol=1e-14 * scale)


def test_of_several_largest_entries_the_first_is_raised(implementation: str) -> None:
    """The documented rule; over several axes in row-major order, whatever the order they are named in."""
    x = np.array([[0, 1, 1, -1, 1], [2, 2, 2, 2, 2]], np.float32)
    new_x, new_z = project_max(x, np.array([3, 5], np.float32), implementation=implementation)
    np.testing.assert_array_equal(new_x, [[0, 2, 1, -1, 1], [3.5, 2, 2, 2, 2]])
    np.testing.assert_array_equal(new_z, [2, 3.5])
    for axis in ((0, 1), (1, 0), None):
        changes, _ = changes_of((x, np.float32(3)), implementation, axis)
        assert np.flatnonzero(changes).tolist() == [5]


def test_nan_stays_in_its_row_and_minus_infinity_in_its_place(implementation: str) -> None:
    x = np.array([[1, 2, np.nan, 0], [1, -np.inf, 3, -np.inf], [1, 2, 3, 4], [-np.inf, 1, 1, 0]], np.float32)
    new_x, new_z = as_float64(*project_max(x, np.array([0, 1, np.nan, 3], np.float32), implementation=implementation))
    assert np.isnan(new_x[[0, 2]]).all()
    assert np.isnan(new_z[[0, 2]]).all()
    np.testing.assert_array_equal(new_x[[1, 3]], [[1, -np.inf, 2, -np.inf], [-np.inf, 2, 1, 0]])
    np.testing.assert_array_equal(new_z[[1, 3]], [2, 2])


# Windows.


def window_arguments(windows: str) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
    """Window, strides, and pairs of padding, as the oracle takes them."""
    settings = WINDOWS[windows]
    window = settings["window"]
    strides, padding = settings.get("strides", window), settings.get("padding", "VALID")
    pairs = jax.lax.padtype_to_pads(IMAGES[1:3], window, strides, padding) if isinstance(padding, str) else padding
    return window, strides, pairs


def images(windows: str, rng: Generator) -> Point:
    """Ties in some channels; as many windows as ``lax.reduce_window`` has."""
    x = rng.normal(size=IMAGES)
    x[..., 0] = np.round(x[..., 0])
    window, strides, pairs = window_arguments(windows)
    padded = np.pad(x, ((0, 0), *pairs, (0, 0)), constant_values=-np.inf)
    top = jax.lax.reduce_window(padded, -np.inf, jax.lax.max, (1, *window, 1), (1, *strides, 1), "VALID")
    return x, np.asarray(top) - 0.3 + rng.normal(size=top.shape)


@pytest.mark.parametrize(
    ("windows", "implementation"),
    [*((name, "xla") for name in WINDOWS), *((name, "reference") for name in list(WINDOWS)[1::2])],
)
def test_windows_take_the_mean_of_their_copies(windows: str, implementation: str, rng: Generator) -> None:
    point = images(windows, rng)
    expected = oracles.max_pool_changes(*point, *window_arguments(windows))
    changes = project_max_pool(*point, **WINDOWS[windows], increments=True, implementation=implementation)
    for change, expected_change in zip(changes, expected, strict=True):
        np.testing.assert_allclose(change, expected_change, rtol=0, atol=1e-14)


def test_entries_in_no_window_stay(implementation: str, rng: Generator) -> None:
    x, z = images("apart", rng)
    new_x, _ = project_max_pool(x, z, **WINDOWS["apart"], implementation=implementation)
    held = np.zeros(IMAGES[1:3], bool)
    for row in (0, 1, 3, 4, 6, 7):
        held[row, ::2] = True
    np.testing.assert_array_equal(np.asarray(new_x)[:, ~held], x[:, ~held])
    assert (np.asarray(new_x)[:, held] != x[:, held]).any(axis=(0, 2)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_window_of_the_whole_image_is_a_maximum_over_axes(dtype: str, implementation: str, rng: Generator) -> None:
    x = jnp.asarray(rng.normal(size=(2, 2, 3, 5)), dtype)
    z = jnp.asarray(rng.normal(size=(2, 5)), dtype)
    new_x, new_z = project_max_pool(x, z[:, None, None], window=(2, 3), implementation=implementation)
    assert new_x.dtype == new_z.dtype == dtype
    expected_x, expected_z = project_max(x, z, axis=(1, 2), implementation=implementation)
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(*as_float64(new_x, expected_x), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(*as_float64(new_z[:, 0, 0], expected_z), rtol=tolerance, atol=tolerance)


def test_nan_stays_in_the_windows_that_hold_it(implementation: str, rng: Generator) -> None:
    x, z = images("overlapping, padded", rng)
    x[0, 4, 4, 1] = np.nan
    new_x, new_z = project_max_pool(x, z, **WINDOWS["overlapping, padded"], implementation=implementation)
    spoiled = np.zeros(x.shape, bool)
    spoiled[0, 2:7, 3:6, 1] = True  # windows of 3 x 3: of three rows, and of one column only, centred on column 4
    np.testing.assert_array_equal(np.isnan(new_x), spoiled)
    assert np.isnan(new_z).sum() == 3
