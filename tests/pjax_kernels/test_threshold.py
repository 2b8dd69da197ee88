"""The projections onto Boolean threshold functions: against an oracle, by optimality and by symmetries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator
Point = tuple[Array, Array, Array]

STATIC = ("margin", "axis", "increments", "implementation")
project_threshold = jax.jit(pk.project_threshold, static_argnames=STATIC, compiler_options=AS_FOR_USERS)
# Where entries and copies are is no matter of rounding.
project_threshold_quickly = jax.jit(pk.project_threshold, static_argnames=STATIC)
project_threshold_dense = jax.jit(
    pk.project_threshold_dense, static_argnames=("margin", "increments", "implementation")
)

MARGIN = 1.25
ROWS, ENTRIES = 500, 6


def points(rng: Generator) -> Point:
    """Margins reached and not, by either sign, and dot products near 0, small and large against the margin."""
    a, b = rng.normal(size=(2, ROWS, ENTRIES)) * np.exp(rng.uniform(-5, 3, size=(2, ROWS, 1)))
    b[::7] = a[::7] * rng.normal(size=(len(a[::7]), 1)) + 1e-3 * b[::7]
    return a, b, 2 * rng.normal(size=ROWS)


def oracle(a: Array, b: Array, z: Array, margin: float) -> Point:
    """The changes, in float64 by bisection on the multiplier of the margin."""
    candidates = [_to_margin(a, s * b, margin) for s in (1, -1)]
    (da, db), (ea, eb) = candidates
    up = (da**2 + db**2).sum(-1) + (z - 1) ** 2 <= (ea**2 + eb**2).sum(-1) + (z + 1) ** 2
    return np.where(up[:, None], da, ea), np.where(up[:, None], db, -eb), np.where(up, 1, -1) - z


def _to_margin(a: Array, b: Array, margin: float) -> tuple[Array, Array]:
    low, high = np.zeros(len(a)), np.full(len(a), 700.0)
    reached = (a * b).sum(-1) >= margin
    plus, minus = ((a + b) ** 2).sum(-1) / 4, ((a - b) ** 2).sum(-1) / 4
    for _ in range(200):
        x = (low + high) / 2  # v = tanh(x/2)
        product = plus * ((1 + np.exp(x)) / 2) ** 2 - minus * ((1 + np.exp(-x)) / 2) ** 2
        low, high = np.where(product < margin, x, low), np.where(product < margin, high, x)
    x = np.where(reached, 0, low)[:, None]
    half_sum, half_difference = (a + b) / 2 * np.expm1(x) / 2, (a - b) / 2 * np.expm1(-x) / 2
    return half_sum + half_difference, half_sum - half_difference


def squared_norms(changes: Point) -> Array:
    return (changes[0] ** 2 + changes[1] ** 2).sum(-1) + changes[2] ** 2


def as_float64(*arrays: jax.typing.ArrayLike) -> Point:
    return tuple(np.asarray(array).astype(np.float64) for array in arrays)  # type: ignore[return-value]


def error(found: Point, wanted: Point) -> Array:
    """By row, relative to the change."""
    return np.sqrt(squared_norms(tuple(f - w for f, w in zip(found, wanted, strict=True))) / squared_norms(wanted))


def test_agrees_with_the_oracle(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    point = tuple(array.astype(dtype) for array in points(rng))
    exact = as_float64(*point)
    found = as_float64(*project_threshold(*point, margin=MARGIN, increments=True, implementation=implementation))
    wanted = oracle(*exact, MARGIN)
    # Where both signs are as near, rounding may choose either.
    same = np.sign(found[2] + exact[2]) == np.sign(wanted[2] + exact[2])
    assert same.mean() > 0.99
    np.testing.assert_allclose(squared_norms(found), squared_norms(wanted), rtol=1e-4 if dtype != np.float64 else 1e-9)
    computed = max(float(jnp.finfo(dtype).eps), 0) if dtype == np.float64 else float(jnp.finfo(np.float32).eps)
    assert np.max(error(found, wanted)[same]) < 300 * computed


def test_margin_is_reached(implementation: str, rng: Generator) -> None:
    a, b, z = as_float64(*project_threshold(*points(rng), margin=MARGIN, implementation=implementation))
    np.testing.assert_allclose(np.abs(z), 1, rtol=1e-15)
    assert np.all(z * (a * b).sum(-1) >= MARGIN * (1 - 1e-10))


def test_no_sampled_feasible_point_is_nearer(implementation: str, rng: Generator) -> None:
    point = points(rng)
    distance = squared_norms(
        as_float64(*project_threshold(*point, margin=MARGIN, increments=True, implementation=implementation))
    )
    a, b, z = point
    for _ in range(200):
        spread = np.exp(rng.uniform(-4, 1, size=(ROWS, 1)))
        near_a, near_b = a + spread * rng.normal(size=a.shape), b + spread * rng.normal(size=b.shape)
        sign = np.sign((near_a * near_b).sum(-1))
        scale = np.sqrt(np.maximum(MARGIN / np.abs((near_a * near_b).sum(-1)), 1))[:, None]
        moved = (scale * near_a - a, scale * near_b - b, sign - z)
        assert np.all(squared_norms(moved) >= distance * (1 - 1e-9))


def test_is_idempotent(implementation: str, rng: Generator) -> None:
    project = functools.partial(project_threshold, margin=MARGIN, implementation=implementation)
    once = project(*points(rng))
    for old, new in zip(once, project(*once), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-9, atol=1e-12)


def test_turns_with_the_signs(implementation: str, rng: Generator) -> None:
    """``(-a, b, -z)`` and ``(b, a, z)`` are projected onto ``(-a', b', -z')`` and ``(b', a', z')``."""
    a, b, z = points(rng)
    project = functools.partial(project_threshold, margin=MARGIN, implementation=implementation)
    new_a, new_b, new_z = project(a, b, z)
    for found, wanted in ((project(-a, b, -z), (-new_a, new_b, -new_z)), (project(b, a, z), (new_b, new_a, new_z))):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("nearly", [1e-2, 1e-4, 1e-6])
def test_keeps_its_digits_where_a_is_nearly_opposite_to_b(implementation: str, nearly: float, rng: Generator) -> None:
    sign = np.array([1, -1])[rng.integers(2, size=20)]
    b = np.float32(rng.normal(size=(20, 8)))
    a = np.float32(-sign[:, None] * b + nearly * rng.normal(size=b.shape))
    point = a, b, np.float32(30 * sign)
    found = pk.project_threshold(*point, margin=1.5, increments=True, implementation=implementation)
    found, wanted = as_float64(*found), oracle(*as_float64(*point), 1.5)
    assert np.max(error((*found[:2], 0 * found[2]), (*wanted[:2], 0 * wanted[2]))) < 1e-6


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_any_axis_may_hold_the_entries(implementation: str, axis: int, rng: Generator) -> None:
    a, b, z = points(rng)
    a, b = a.reshape(20, 25, ENTRIES), b.reshape(20, 25, ENTRIES)
    project = functools.partial(project_threshold_quickly, margin=MARGIN, implementation=implementation)
    wanted = project(a, b, z.reshape(20, 25))
    moved = project(np.moveaxis(a, -1, axis), np.moveaxis(b, -1, axis), z.reshape(20, 25), axis=axis)
    for found, exact in zip((*(np.moveaxis(side, axis, -1) for side in moved[:2]), moved[2]), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_set_valued_points_are_projected_by_the_rule(implementation: str, dtype: DTypeLike) -> None:
    """Zeros, and ``a = -s b`` for the sign ``s`` that is nearer."""
    a = np.array([[0.0, 0, 0], [1, -2, 0.5], [1, -2, 0.5]], dtype)
    b = np.array([[0.0, 0, 0], [-1, 2, -0.5], [1, -2, 0.5]], dtype)
    z = np.array([0.0, 30, -30], dtype)
    found = as_float64(*project_threshold(a, b, z, margin=MARGIN, implementation=implementation))
    np.testing.assert_array_equal(found[2], [1, 1, -1])
    np.testing.assert_allclose(found[2] * (found[0] * found[1]).sum(-1), MARGIN, rtol=1e-6)
    free = np.sqrt(MARGIN + np.array([0, 1, 1]) * (a[1] ** 2).sum() / 4)
    np.testing.assert_allclose(found[0], a / 2 + free[:, None] / np.sqrt(3), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_root_is_finite(dtype: DTypeLike) -> None:
    """For norms from 0 and the least number on, up to those whose product overflows."""
    limits = np.finfo(dtype)
    norms = [0, limits.tiny, 1e3 * limits.tiny, 1e9 * limits.tiny, limits.eps, 0.5, 3, 1 / limits.eps, limits.max**0.45]
    signs, margins = np.array([-3, 0, 3], dtype), np.array([1e-4, 1.25, 1e4], dtype)
    plus, minus, z, margin = np.meshgrid(np.array(norms, dtype), np.array(norms, dtype), signs, margins)
    found = jax.jit(pk.threshold_root)(plus, minus, z, margin)
    assert np.all(np.isfinite(np.stack(found)))
    assert np.all(np.abs(found.sign) == 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_stays_one(implementation: str, bad: float, rng: Generator) -> None:
    point = points(rng)
    wanted = project_threshold(*point, margin=MARGIN, implementation=implementation)
    for place in range(3):
        spoilt = [array.copy() for array in point]
        spoilt[place][3] = bad
        found = project_threshold(*spoilt, margin=MARGIN, implementation=implementation)
        for new, old in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(np.delete(new, 3, 0), np.delete(old, 3, 0))
        if np.isnan(bad):
            assert np.isnan(found[2][3])


def test_small_changes_keep_their_precision(implementation: str, rng: Generator) -> None:
    """A margin missed by little, in float32: the change is as exact as the dot product."""
    a, b = rng.normal(size=(2, ROWS, ENTRIES)).astype(np.float32)
    exact_a, exact_b = as_float64(a, b)
    product = (exact_a * exact_b).sum(-1)
    keep = product > 0.5
    a, b, product = a[keep], b[keep], product[keep]
    margins = np.unique(product)[:20] * (1 + 1e-4)
    for margin, row in zip(margins.tolist(), np.argsort(product)[:20].tolist(), strict=True):
        one = a[row : row + 1], b[row : row + 1], np.ones(1, np.float32)
        found = as_float64(*pk.project_threshold(*one, margin=margin, increments=True, implementation=implementation))
        assert error(found, oracle(*as_float64(*one), margin))[0] < 0.02


def test_dense_layer_averages_its_copies(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    x, w = rng.normal(size=(7, 5)), rng.normal(size=(5, 4))
    z = rng.normal(size=(7, 4))
    x[2], w[:, 1] = 0, 0  # a set-valued function
    x, w, z = (array.astype(dtype) for array in (x, w, z))
    found, wanted = (
        as_float64(*project_threshold_dense(x, w, z, margin=MARGIN, increments=True, implementation=name))
        for name in (implementation, "reference")
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3 if dtype != np.float64 else 1e-10, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin is 0.0; pass a positive number"),
        ({"margin": True}, "margin is True"),
        ({"b": np.ones((2, 4))}, r"b has shape \(2, 4\)"),
        ({"z": np.ones(3)}, r"z has shape \(3,\)"),
        ({"axis": 2}, "no axis 2"),
        ({"a": np.ones((2, 0)), "b": np.ones((2, 0))}, "no entries"),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str) -> None:
    given = {"a": np.ones((2, 3)), "b": np.ones((2, 3)), "z": np.ones(2), "margin": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        pk.project_threshold(**given)
