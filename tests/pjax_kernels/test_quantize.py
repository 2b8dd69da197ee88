"""The projection onto a rounding to levels: against all levels, by optimality and by symmetries."""

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

project_quantize = jax.jit(
    pk.project_quantize,
    static_argnames=("levels", "scale", "increments", "implementation"),
    compiler_options=AS_FOR_USERS,
)

SETTINGS = [(2, 1.0), (3, 0.5), (4, 1.0), (7, 3.0), (17, 0.1)]
COUNT = 600


def as_float64(*arrays: jax.typing.ArrayLike) -> Point:
    x, z = (np.asarray(array).astype(np.float64) for array in arrays)
    return x, z


def eps_of(dtype: DTypeLike) -> float:
    return float(jnp.finfo(dtype).eps)


def points(rng: Generator, dtype: DTypeLike, scale: float) -> Point:
    """Inside the levels and outside, near and far."""
    x, z = 2 * scale * rng.normal(size=(2, COUNT))
    x[::5] *= 20
    z[::7] *= 20
    return x.astype(dtype), z.astype(dtype)


def changes_of(point: Point, levels: int, scale: float, implementation: str) -> Point:
    return as_float64(
        *project_quantize(*point, levels=levels, scale=scale, increments=True, implementation=implementation)
    )


def squared_distance(changes: Point) -> Array:
    return changes[0] ** 2 + changes[1] ** 2


def level_numbers(x: Array, levels: int, scale: float) -> Array:
    """The number of the nearest level, which is no whole one for a midpoint."""
    return np.clip((x / scale + 1) * (levels - 1) / 2, -0.25, levels - 0.75)


@pytest.mark.parametrize(("levels", "scale"), SETTINGS)
def test_changes_agree_with_all_levels(levels: int, scale: float, implementation: str, rng: Generator) -> None:
    for dtype in ("float32", "float64"):
        point = points(rng, dtype, scale)
        changes = changes_of(point, levels, scale, implementation)
        expected = oracles.quantize_changes(*as_float64(*point), levels, scale)
        # Midpoints and levels are rounded, and so is the difference.
        allowed = 2 * eps_of(dtype) * (scale + abs(expected[0]) + abs(expected[1]))
        exact = (abs(changes[0] - expected[0]) <= allowed) & (abs(changes[1] - expected[1]) <= allowed)
        # Where two levels are equally near to within rounding, either is right.
        excess = squared_distance(changes) - squared_distance(expected)
        assert (abs(excess) <= 4 * allowed * np.sqrt(squared_distance(expected)))[~exact].all()
        assert exact.mean() > 0.99
        moved_over = abs(level_numbers(point[0], levels, scale) - level_numbers(point[1] + changes[1], levels, scale))
        assert (moved_over > 0.5 * (levels - 1)).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(dtype: str, implementation: str, rng: Generator) -> None:
    x, z = points(rng, jnp.dtype(dtype), 1.0)
    new = project_quantize(x, z, levels=4, scale=1.0, implementation=implementation)
    assert [array.dtype for array in new] == [dtype, dtype]
    expected = oracles.quantize_changes(*as_float64(x, z), 4, 1.0)
    for result, old, change in zip(as_float64(*new), as_float64(x, z), expected, strict=True):
        allowed = 0.51 * eps_of(jnp.dtype(dtype)) * abs(old + change) + 4 * eps_of(np.float32) * (1 + abs(old))
        assert (abs(result - old - change) <= allowed).mean() > 0.99


@pytest.mark.parametrize(("levels", "scale"), SETTINGS)
def test_no_feasible_point_is_nearer(levels: int, scale: float, implementation: str, rng: Generator) -> None:
    point = points(rng, np.float64, scale)
    distance = squared_distance(changes_of(point, levels, scale, implementation))
    values = np.linspace(-scale, scale, levels)
    for spread in (0.01, 1, 30):
        samples = point[0] + spread * scale * rng.normal(size=(500, COUNT))
        rounded = values[np.argmin(abs(samples[..., None] - values), axis=-1)]
        sampled = squared_distance((samples - point[0], rounded - point[1]))
        assert (sampled >= distance - 1e-14 * (1 + distance)).all()


@pytest.mark.parametrize(("levels", "scale"), SETTINGS)
def test_result_is_feasible_and_stays(levels: int, scale: float, implementation: str, rng: Generator) -> None:
    """A level, and an input that is nearest to it up to the midpoints."""
    point = points(rng, np.float64, scale)
    x, z = as_float64(*project_quantize(*point, levels=levels, scale=scale, implementation=implementation))
    values, rounding = np.linspace(-scale, scale, levels), 1e-14 * (scale + abs(point[0]) + abs(point[1]))
    assert (abs(z[:, None] - values).min(axis=1) <= rounding).all()
    assert (abs(x - z) <= abs(x[:, None] - values).min(axis=1) + 2 * rounding).all()
    for change in changes_of((x, z), levels, scale, implementation):
        assert (abs(change) <= 2 * rounding).all()


def test_changes_far_below_the_rounding_of_the_values(implementation: str) -> None:
    """One ulp from a midpoint and from a level."""
    one_off = np.float32(0.5) * (1 + np.arange(-3, 4, dtype=np.float32) * 2.0**-23)
    z = np.float32(1) + np.arange(-3, 4, dtype=np.float32) * np.float32(2.0**-23)
    changes, z_change = changes_of((one_off, z), 3, 1.0, implementation)
    np.testing.assert_array_equal(changes, np.maximum(0.5 - one_off.astype(np.float64), 0))
    np.testing.assert_array_equal(z_change, 1 - z.astype(np.float64))


def test_of_equally_near_levels_the_lowest(implementation: str) -> None:
    """The documented rule, where ties are exact."""
    #  x on a midpoint, z between its levels; one level, or the level of x itself, as near as another one.
    x = np.array([0.0, 0.5, -0.5, 0.0, 0.0], np.float32)
    z = np.array([0.0, 0.5, -0.5, 0.125, -0.125], np.float32)
    for levels, expected in ((2, [-1, 1, -1, 1, -1]), (3, [0, 0, -1, 0, 0])):
        new_x, new_z = project_quantize(x, z, levels=levels, scale=1.0, implementation=implementation)
        np.testing.assert_array_equal(new_z, expected)
        np.testing.assert_array_equal(new_x, x)
    # Staying costs (1/2)^2 + z^2 with level -1 or moving x by 1/2 with level 1: equal where z = 1/16.
    x, z = np.array([-0.5, 0.5], np.float32), np.array([1 / 16, -1 / 16], np.float32)
    new_x, new_z = project_quantize(x, z, levels=2, scale=1.0, implementation=implementation)
    np.testing.assert_array_equal(new_z, [-1, -1])
    np.testing.assert_array_equal(new_x, [-0.5, 0])


@pytest.mark.parametrize(("levels", "scale"), SETTINGS)
def test_equivariant_under_negation_and_factors(levels: int, scale: float, implementation: str, rng: Generator) -> None:
    x, z = points(rng, np.float64, scale)
    changes = changes_of((x, z), levels, scale, implementation)
    negated = changes_of((-x, -z), levels, scale, implementation)
    scaled = changes_of((2**20 * x, 2**20 * z), levels, 2**20 * scale, implementation)
    np.testing.assert_allclose(negated, np.negative(changes), rtol=0, atol=1e-14)
    np.testing.assert_allclose(scaled, np.multiply(2**20, changes), rtol=1e-12, atol=1e-8)


def test_huge_values_and_nan(implementation: str) -> None:
    huge = 1e18
    x = np.array([huge, -huge, 0.1, 0.1, np.nan, 0.1], np.float32)
    z = np.array([0.2, 1, huge, -huge, 0.2, np.nan], np.float32)
    changes, z_change = changes_of((x, z), 4, 1.0, implementation)
    np.testing.assert_allclose(changes[:4], [0, 0, 2 / 3 - 0.1, -2 / 3 - 0.1], rtol=1e-6)
    np.testing.assert_allclose(z_change[:2], [0.8, -2], rtol=1e-6)
    assert np.isnan((x + changes)[4])
    assert np.isnan((z + z_change)[5])


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4)])
def test_any_shape(shape: tuple[int, ...], implementation: str, rng: Generator) -> None:
    x, z = rng.normal(size=(2, *shape))
    for change, expected in zip(
        changes_of((x, z), 3, 1.0, implementation), oracles.quantize_changes(x, z, 3, 1.0), strict=True
    ):
        assert change.shape == shape
        np.testing.assert_allclose(change, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("levels", "scale"), SETTINGS)
def test_relaxed_changes_go_to_the_nearest_point_of_a_line(
    levels: int, scale: float, implementation: str, rng: Generator
) -> None:
    """Of slope 1 through x and its level, or level itself where x is beyond the outermost levels."""
    x, z = points(rng, "float64", scale)
    x_change, z_change = as_float64(
        *pk.project_quantize(
            x, z, levels=levels, scale=scale, relaxed=True, increments=True, implementation=implementation
        )
    )
    level = scale * (2 * np.rint(np.clip((x / scale + 1) * (levels - 1) / 2, 0, levels - 1)) / (levels - 1) - 1)
    inside = np.abs(x) <= scale
    assert inside.any()
    np.testing.assert_allclose(z + z_change, level + x_change, atol=1e-12 * scale * 100)
    np.testing.assert_allclose(z_change[inside], -x_change[inside], rtol=1e-9, atol=1e-12)
    assert not x_change[~inside].any()
