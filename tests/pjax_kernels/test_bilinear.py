"""The projection onto ``z = a . b``: against mpmath, by its optimality and by its symmetries."""

from collections.abc import Callable
from functools import cache

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
Triple = tuple[Array, Array, Array]

ROWS, SIZE = 24, 6

ULPS = {"reference": 8, "xla": 3}
"""Rounding errors allowed; the reference bisects ``log((1 + t)/(1 - t))``, which costs it some when t nears 1."""

project = jax.jit(pk.project_bilinear, static_argnames=("increments", "implementation"), compiler_options=AS_FOR_USERS)


def dot(a: Array, b: Array) -> Array:
    return np.sum(a * b, axis=-1)


def normal_vectors(rng: Generator, scale: float = 1.0) -> tuple[Array, Array]:
    a, b = scale * rng.normal(size=(2, ROWS, SIZE))
    return a, b


def with_residual(rng: Generator, a: Array, b: Array, size: float | Array) -> Triple:
    """``z`` off the product by ``size`` times 1 + |a|^2 + |b|^2, on either side."""
    sign = rng.choice([-1, 1], len(a))
    return a, b, dot(a, b) + sign * size * (1 + dot(a, a) + dot(b, b))


def independent(rng: Generator) -> Triple:
    return with_residual(rng, *normal_vectors(rng), 10 ** rng.uniform(-2, 1, ROWS))


def small_residual(rng: Generator) -> Triple:
    return with_residual(rng, *normal_vectors(rng), 10 ** rng.uniform(-4, -2, ROWS))


def short_vectors(rng: Generator) -> Triple:
    return with_residual(rng, *normal_vectors(rng, 0.01), 10 ** rng.uniform(-2, 1, ROWS))


def long_vectors(rng: Generator) -> Triple:
    return with_residual(rng, *normal_vectors(rng, 30.0), 10 ** rng.uniform(-2, 0.5, ROWS))


def unequal_lengths(rng: Generator) -> Triple:
    a, b = normal_vectors(rng)
    return with_residual(rng, 0.01 * a, 30 * b, 10 ** rng.uniform(-2, 0.5, ROWS))


def one_zero(rng: Generator) -> Triple:
    a, b = normal_vectors(rng)
    swap = np.arange(ROWS) % 2 == 0
    return with_residual(rng, a * swap[:, None], b * ~swap[:, None], 10 ** rng.uniform(-2, 1, ROWS))


def large_z(rng: Generator) -> Triple:
    a, b = normal_vectors(rng)
    return a, b, rng.choice([-1, 1], ROWS) * rng.uniform(1e3, 6e4, ROWS)


def equal_inside(rng: Generator) -> Triple:
    """``a = b`` and ``a = -b`` on the side where the nearest point is unique."""
    a, _ = normal_vectors(rng)
    sign = np.where(np.arange(ROWS) % 2, 1, -1)
    return a, sign[:, None] * a, sign * (dot(a, a) + rng.uniform(0.1, 30, ROWS))


def equal_before_the_edge(rng: Generator) -> Triple:
    """``a = b`` and ``a = -b`` on the other side, short of the set-valued case."""
    a, _ = normal_vectors(rng)
    sign = np.where(np.arange(ROWS) % 2, 1, -1)
    return a, sign[:, None] * a, sign * (dot(a, a) - rng.uniform(0.1, 0.9, ROWS) * (1 + 0.75 * dot(a, a)))


def nearly_equal(rng: Generator) -> Triple:
    a, noise = normal_vectors(rng)
    sign = np.where(np.arange(ROWS) % 2, 1, -1)
    b = sign[:, None] * (a + 0.02 * noise)
    return a, b, -sign * rng.uniform(5, 1000, ROWS)


def both_zero_inside(rng: Generator) -> Triple:
    zero = np.zeros((ROWS, SIZE))
    return zero, zero, rng.uniform(-0.99, 0.99, ROWS)


def both_zero_beyond(rng: Generator) -> Triple:
    zero = np.zeros((ROWS, SIZE))
    return zero, zero, rng.choice([-1, 1], ROWS) * rng.uniform(1.1, 1000, ROWS)


def equal_beyond_the_edge(rng: Generator) -> Triple:
    a, _ = normal_vectors(rng)
    sign = np.where(np.arange(ROWS) % 2, 1, -1)
    return a, sign[:, None] * a, sign * (dot(a, a) - (1 + 0.75 * dot(a, a)) * rng.uniform(1.1, 50, ROWS))


UNIQUE: dict[str, Callable[[Generator], Triple]] = {
    case.__name__: case
    for case in (
        independent,
        small_residual,
        short_vectors,
        long_vectors,
        unequal_lengths,
        one_zero,
        large_z,
        equal_inside,
        equal_before_the_edge,
        nearly_equal,
        both_zero_inside,
    )
}
SET_VALUED: dict[str, Callable[[Generator], Triple]] = {
    case.__name__: case for case in (both_zero_beyond, equal_beyond_the_edge)
}
CASES = UNIQUE | SET_VALUED


@cache
def case_inputs(case: str, dtype: DTypeLike) -> Triple:
    rng = np.random.default_rng(list(CASES).index(case))
    a, b, z = CASES[case](rng)
    return a.astype(dtype), b.astype(dtype), z.astype(dtype)


@cache
def expected_changes(case: str, dtype: DTypeLike) -> Triple:
    return oracles.bilinear_changes(*as_float64(case_inputs(case, dtype)))


def as_float64(arrays: tuple[jax.typing.ArrayLike, ...]) -> Triple:
    return tuple(np.asarray(array).astype(np.float64) for array in arrays)  # type: ignore[return-value]


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def changes_of(inputs: tuple[jax.typing.ArrayLike, ...], implementation: str) -> Triple:
    return as_float64(project(*inputs, increments=True, implementation=implementation))


def length(changes: Triple) -> Array:
    a, b, z = changes
    return np.sqrt(dot(a, a) + dot(b, b) + z**2)


def difference(left: Triple, right: Triple) -> Array:
    return length(tuple(x - y for x, y in zip(left, right, strict=True)))  # type: ignore[arg-type]


def condition(inputs: Triple) -> Array:
    """By how much rounding of the products may enlarge the relative error of the change."""
    a, b, z = as_float64(inputs)
    terms = abs(z) + np.sqrt(dot(a, a) * dot(b, b))
    return 1 + terms / abs(z - dot(a, b))


def product_scale(inputs: Triple, new: Triple) -> Array:
    """What rounding of a dot product before or after is relative to."""
    terms = [abs(z) + np.sqrt(dot(a, a) * dot(b, b)) for a, b, z in (as_float64(inputs), new)]
    return terms[0] + terms[1]


def move(inputs: Triple, changes: Triple) -> Triple:
    return tuple(x + change for x, change in zip(as_float64(inputs), changes, strict=True))  # type: ignore


# Against the oracle.


@pytest.mark.parametrize("case", CASES)
def test_changes_agree_with_mpmath(case: str, implementation: str, dtype: DTypeLike) -> None:
    inputs, expected = case_inputs(case, dtype), expected_changes(case, dtype)
    error = difference(changes_of(inputs, implementation), expected) / length(expected)
    assert (error < ULPS[implementation] * compute_eps(dtype) * condition(inputs)).all()


@pytest.mark.parametrize("case", CASES)
def test_new_values_are_rounded_once(case: str, implementation: str, dtype: DTypeLike) -> None:
    inputs = case_inputs(case, dtype)
    changes = changes_of(inputs, implementation)
    change_error = 2 * ULPS[implementation] * compute_eps(dtype) * condition(inputs) * length(changes)
    new = project(*inputs, implementation=implementation)
    for result, expected in zip(new, move(inputs, changes), strict=True):
        assert result.dtype == dtype
        limits = jnp.finfo(dtype)
        rounding = 0.51 * float(limits.eps) * abs(expected) + float(limits.smallest_subnormal)
        row_error = change_error.reshape(-1, *[1] * (expected.ndim - 1))
        assert (abs(np.asarray(result).astype(np.float64) - expected) <= rounding + row_error).all()


@pytest.mark.parametrize("shape", [(1,), (33,), (5, 1), (2, 3, 4), (2, 1, 3, 700)])
def test_any_leading_axes(shape: tuple[int, ...], implementation: str, rng: Generator) -> None:
    a, b = rng.normal(size=(2, *shape)).astype(np.float32)
    z = (rng.normal(size=shape[:-1]) + dot(a, b)).astype(np.float32)
    inputs = a.reshape(-1, shape[-1]), b.reshape(-1, shape[-1]), z.reshape(-1)
    expected = oracles.bilinear_changes(*as_float64(inputs))
    changes = project(a, b, z, increments=True, implementation=implementation)
    assert [change.shape for change in changes] == [shape, shape, shape[:-1]]
    rows = as_float64(tuple(np.asarray(change).reshape(x.shape) for change, x in zip(changes, inputs, strict=True)))
    assert (
        difference(rows, expected)
        < ULPS[implementation] * compute_eps(np.float32) * condition(inputs) * length(expected)
    ).all()


@pytest.mark.parametrize("far", [0, 3, 64, 150, 300])
def test_rows_of_which_some_are_far(far: int, rng: Generator) -> None:
    """So many that those with far roots are gathered, by blocks of 64; some of all are nearly equal, and one is bad."""
    rows, size = 300, 256
    a, b = rng.normal(size=(2, rows, size))
    b[::4] = rng.choice([-1, 1], (75, 1)) * a[::4] + 1e-4 * b[::4]
    scaled = rng.choice([-1, 1], rows) * 10 ** rng.uniform(-4, -1.5, rows)
    chosen = rng.permutation(rows)[:far]
    scaled[chosen] *= 10 ** rng.uniform(2, 4, far)
    z = dot(a, b) + scaled * (1 + dot(a, a) + dot(b, b))
    z[7] = np.nan
    inputs = tuple(x.astype(np.float32) for x in (a, b, z))
    good = np.arange(rows) != 7
    expected = changes_of(as_float64(inputs), "reference")
    changes = changes_of(inputs, "xla")
    assert np.isnan(changes[0][7]).all()
    kept, found, right = (tuple(x[good] for x in triple) for triple in (inputs, changes, expected))
    allowed = ULPS["xla"] * compute_eps(np.float32) * condition(kept) * length(right)
    assert (difference(found, right) < allowed).all()


def test_increments_far_below_the_rounding_of_the_values(implementation: str, rng: Generator) -> None:
    """Small integers and a residual of 2^-12 of ``z``: no product rounds, so the change of 1e-7 must be exact."""
    a, b = rng.integers(-30, 31, (2, ROWS, SIZE)).astype(np.float32)
    z = (dot(a, b) + rng.choice([-1, 1], ROWS) * 2.0**-12 * rng.integers(1, 4, ROWS)).astype(np.float32)
    expected = oracles.bilinear_changes(*as_float64((a, b, z)))
    assert (abs(expected[0]).max(axis=1) < 1e-5 * abs(a).max(axis=1)).all()
    error = difference(changes_of((a, b, z), implementation), expected) / length(expected)
    assert error.max() < ULPS[implementation] * compute_eps(np.float32)


# Optimality.


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_feasible_point_is_nearer(case: str, implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    inputs = case_inputs(case, jnp.dtype(dtype))
    a, b, z = as_float64(inputs)
    changes = changes_of(inputs, implementation)
    near_a, near_b, _ = move(inputs, changes)
    allowed = length(changes) * (1 - ULPS[implementation] * compute_eps(dtype) * condition(inputs))
    for scale in (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100):
        for centre_a, centre_b in ((near_a, near_b), (a, b), (0 * a, 0 * b)):
            for _ in range(20):
                noise_a, noise_b = scale * rng.normal(size=(2, ROWS, SIZE))
                sample_a, sample_b = centre_a + noise_a, centre_b + noise_b
                sample = sample_a, sample_b, dot(sample_a, sample_b)
                assert (difference(sample, (a, b, z)) >= allowed).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_nearest_across_the_edge_of_the_set_valued_case(
    sign: int, implementation: str, dtype: DTypeLike, rng: Generator
) -> None:
    """At the edge the point moves like a square root, so only its distance is well determined."""
    a = rng.normal(size=(ROWS, SIZE)).astype(dtype)
    b = -sign * a
    edge = 1 + 0.75 * dot(a, a)
    z = (dot(a, b) + sign * edge * (1 + rng.choice([-1, 1], ROWS) * 10 ** rng.uniform(-9, -1, ROWS))).astype(dtype)
    z[0] = (dot(a, b) + sign * edge)[0]
    changes, expected = changes_of((a, b, z), implementation), oracles.bilinear_changes(*as_float64((a, b, z)))
    new_a, new_b, new_z = move((a, b, z), changes)
    eps = compute_eps(dtype)
    assert (abs(length(changes) / length(expected) - 1) < ULPS[implementation] * eps * condition((a, b, z))).all()
    assert (
        abs(new_z - dot(new_a, new_b)) < ULPS[implementation] * eps * product_scale((a, b, z), (new_a, new_b, new_z))
    ).all()


# Properties.


@pytest.mark.parametrize("case", CASES)
def test_result_is_feasible(case: str, implementation: str, dtype: DTypeLike) -> None:
    inputs = case_inputs(case, dtype)
    a, b, z = new = move(inputs, changes_of(inputs, implementation))
    assert (abs(z - dot(a, b)) < ULPS[implementation] * compute_eps(dtype) * product_scale(inputs, new)).all()


@pytest.mark.parametrize("case", CASES)
def test_projecting_again_changes_only_rounding(case: str, implementation: str, dtype: DTypeLike) -> None:
    inputs = case_inputs(case, dtype)
    a, b, z = new = project(*inputs, implementation=implementation)
    changes = changes_of(new, implementation)
    a, b, z = as_float64(new)
    gradient = np.sqrt(1 + dot(a, a) + dot(b, b))
    assert (
        length(changes) * gradient
        < ULPS[implementation] * float(jnp.finfo(dtype).eps) * product_scale(inputs, (a, b, z))
    ).all()


def test_feasible_points_stay(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    """Small integers, whose products do not round."""
    a, b = rng.integers(-8, 9, (2, ROWS, SIZE))
    new = project(*(x.astype(dtype) for x in (a, b, dot(a, b))), implementation=implementation)
    for result, old in zip(new, (a, b, dot(a, b)), strict=True):
        np.testing.assert_array_equal(np.asarray(result).astype(int), old)


SYMMETRIES: dict[str, Callable[[Array, Array, Array], Triple]] = {
    "swap": lambda a, b, z: (b, a, z),
    "negate a and z": lambda a, b, z: (-a, b, -z),
    "negate a and b": lambda a, b, z: (-a, -b, z),
    "reverse entries": lambda a, b, z: (a[:, ::-1], b[:, ::-1], z),
    "rotate": lambda a, b, z: (a @ rotation(SIZE), b @ rotation(SIZE), z),
}


def rotation(size: int) -> Array:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]


def closeness(inputs: Triple) -> Array:
    """By how much the rounding of ``a`` and ``b`` is larger relative to ``a - b`` or ``a + b``."""
    a, b, _ = inputs
    apart = np.minimum(*(np.where(square == 0, np.inf, square) for square in (dot(a + b, a + b), dot(a - b, a - b))))
    return np.sqrt(np.maximum((dot(a, a) + dot(b, b)) / apart, 1))


@pytest.mark.parametrize("case", UNIQUE)
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_symmetries(symmetry: str, case: str, implementation: str) -> None:
    inputs = case_inputs(case, np.float64)
    transform = SYMMETRIES[symmetry]
    first = transform(*changes_of(inputs, implementation))
    second = changes_of(transform(*inputs), implementation)
    error = difference(first, second) / (length(first) * condition(inputs))
    if symmetry == "rotate":
        error /= closeness(inputs)
    assert (error < 2 * ULPS[implementation] * compute_eps(np.float64)).all()


@pytest.mark.parametrize("case", SET_VALUED)
def test_set_valued_cases_follow_the_documented_rule(case: str, implementation: str, dtype: DTypeLike) -> None:
    """The part of ``a`` and ``b`` that is free lies along the vector of equal entries, positive in ``a``."""
    inputs = case_inputs(case, dtype)
    a, b, z = as_float64(inputs)
    new_a, new_b, new_z = move(inputs, changes_of(inputs, implementation))
    sign = np.where(z > dot(a, b), 1, -1)[:, None]
    np.testing.assert_allclose(new_z, z - sign[:, 0])
    free = new_a + sign * new_b
    assert (free > 0).all()
    spread = np.ptp(free, axis=1) / abs(free).max(axis=1)
    assert spread.max() < 2 * ULPS[implementation] * compute_eps(dtype) * condition(inputs).max()
    determined = new_a - sign * new_b
    np.testing.assert_allclose(
        determined, (a - sign * b) / 2, rtol=0, atol=2 * ULPS[implementation] * compute_eps(dtype) * abs(free).max()
    )


def test_finite_results_for_wide_scales(implementation: str, rng: Generator) -> None:
    scale = 10 ** rng.uniform(-15, 15, (2, 4000, 1))
    a, b = (scale * rng.normal(size=(2, 4000, 3))).astype(np.float32)
    z = (rng.choice([-1, 1], 4000) * 10 ** rng.uniform(-15, 15, 4000)).astype(np.float32)
    new = project(a, b, z, implementation=implementation)
    assert all(np.isfinite(part).all() for part in new)
