"""Projections onto sets: against the textbook in float64, feasible, idempotent, nearest, ties, extreme sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import pjax_kernels as pk

Array = np.ndarray
Generator = np.random.Generator
LEVELS = (-1.0, 0.0, 0.3, 2.0)


class Set(NamedTuple):
    """A set of arrays ``(5, 7, 4)``: its projection, how far a point is from it, and random points of it."""

    project: Callable[..., Any]
    violation: Callable[[Array], float]
    sample: Callable[[Generator, tuple[int, ...]], Array]


def unit(vectors: Array, axis: Any) -> Array:
    return vectors / np.sqrt((vectors**2).sum(axis=axis, keepdims=True))


def off_levels(value: Array) -> float:
    return float(np.abs(value[..., None] - np.array(LEVELS)).min(-1).max())


def random_sparse(rng: Generator, shape: tuple[int, ...]) -> Array:
    kept = np.argsort(rng.normal(size=shape), axis=1) < 3
    return np.where(kept, 2 * rng.normal(size=shape), 0)


def random_one_hot(rng: Generator, shape: tuple[int, ...]) -> Array:
    return np.where(np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])] > 0, 1.0, -1.0)


def random_frame(rng: Generator, shape: tuple[int, ...]) -> Array:
    return np.linalg.qr(rng.normal(size=shape))[0]


SETS = {
    "sphere": Set(
        partial(pk.project_sphere, norm=1.5, axis=1),
        lambda x: float(np.abs(np.linalg.norm(x, axis=1) - 1.5).max()),
        lambda rng, shape: 1.5 * unit(rng.normal(size=shape), 1),
    ),
    "sphere, several axes": Set(
        partial(pk.project_sphere, norm=3, axis=(0, 2)),
        lambda x: float(np.abs(np.sqrt((x**2).sum((0, 2))) - 3).max()),
        lambda rng, shape: 3 * unit(rng.normal(size=shape), (0, 2)),
    ),
    "levels": Set(
        partial(pk.project_levels, levels=(0.3, 2.0, -1.0, 0.0)),
        off_levels,
        lambda rng, shape: rng.choice(LEVELS, shape),
    ),
    "sparse": Set(
        partial(pk.project_sparse, count=3, axis=1),
        lambda x: float(max((x != 0).sum(1).max() - 3, 0)),
        random_sparse,
    ),
    "one-hot": Set(
        partial(pk.project_one_hot, low=-1.0), lambda x: float(np.abs(np.sort(x)[..., ::-1] - [1, -1, -1, -1]).max()),
        random_one_hot,
    ),
    "simplex": Set(
        partial(pk.project_simplex, total=2.0, axis=1),
        lambda x: float(max(np.abs(x.sum(1) - 2).max(), -x.min())),
        lambda rng, shape: 2 * np.swapaxes(rng.dirichlet([0.3] * shape[1], size=(shape[0], shape[2])), 1, 2),
    ),
    "orthonormal": Set(
        pk.project_orthonormal,
        lambda x: float(np.abs(np.swapaxes(x, -1, -2) @ x - np.eye(x.shape[-1])).max()),
        random_frame,
    ),
}  # fmt: skip
EXACT = ("levels", "sparse", "one-hot")
"""Sets in which a projected point is to the last bit, in any precision."""


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def points(rng: Generator) -> Array:
    return rng.normal(size=(5, 7, 4)) * np.exp(rng.normal(size=(5, 1, 1)))


def test_equals_the_textbook(name: str, implementation: str, rng: Generator) -> None:
    value = points(rng)
    exact = SETS[name].project(value, implementation="reference", increments=True)
    found = SETS[name].project(value, implementation=implementation, increments=True)
    np.testing.assert_allclose(found, exact, atol=1e-13)
    narrow = SETS[name].project(value.astype(np.float32), implementation=implementation, increments=True)
    assert narrow.dtype == np.float32
    assert np.linalg.norm(narrow - exact) <= 2e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_is_feasible_and_idempotent(name: str, implementation: str, dtype: Any, rng: Generator) -> None:
    project = partial(SETS[name].project, implementation=implementation)
    found = np.asarray(project(points(rng).astype(dtype)))
    assert found.dtype == dtype
    rounding = 0 if name in EXACT and dtype is np.float64 else 20 * np.finfo(dtype).eps
    assert SETS[name].violation(found) <= rounding
    again = np.asarray(project(found))
    assert np.abs(again - found).max() <= (0 if name in EXACT else 20 * np.finfo(dtype).eps)


def test_no_sampled_point_of_the_set_is_nearer(name: str, implementation: str, rng: Generator) -> None:
    """Random ones, and ones beside the projection."""
    of_set, value = SETS[name], points(rng)
    found = np.asarray(of_set.project(value, implementation=implementation))
    assert of_set.violation(found) < 1e-12
    squared = ((found - value) ** 2).sum()
    for trial in range(200):
        if trial % 2:
            point = of_set.sample(rng, value.shape)
        else:
            point = np.asarray(of_set.project(found + rng.normal(size=value.shape) * 10.0 ** -rng.integers(4)))
        assert of_set.violation(point) < 1e-12
        assert ((point - value) ** 2).sum() >= squared - 1e-12


def test_ties(implementation: str) -> None:
    """The documented choices."""
    run = {"implementation": implementation}
    np.testing.assert_array_equal(pk.project_sphere(np.zeros((2, 4)), norm=3.0, **run), np.full((2, 4), 1.5))
    np.testing.assert_array_equal(
        pk.project_levels(np.array([-0.5, 0.5, 1.5]), levels=(1, 0, -1, 2), **run), [-1, 0, 1]
    )
    np.testing.assert_array_equal(
        pk.project_sparse(np.array([[1.0, -2, 2, -1, 1], [0, 0, 0, 0, 0]]), count=3, **run),
        [[1, -2, 2, 0, 0], [0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(pk.project_one_hot(np.array([[1.0, 2, 2], [0, 0, 0]]), **run), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(pk.project_one_hot(np.array([1.0, 2]), low=1.0, high=0.0, **run), [0, 1])
    np.testing.assert_allclose(pk.project_simplex(np.zeros(4), **run), np.full(4, 0.25))
    for dependent in (np.zeros((5, 3)), np.ones((5, 3)), np.arange(15.0).reshape(5, 3)):
        found = np.asarray(pk.project_orthonormal(dependent, **run))
        np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-14)


def test_the_whole_array_may_be_one_vector(implementation: str, rng: Generator) -> None:
    value = rng.normal(size=(6, 5))
    sparse = np.asarray(pk.project_sparse(value, count=4, axis=None, implementation=implementation))
    kept = np.sort(np.abs(value).ravel())[-4:]
    np.testing.assert_array_equal(np.sort(np.abs(sparse[sparse != 0])), kept)
    sphere = pk.project_sphere(value, axis=None, implementation=implementation)
    np.testing.assert_allclose(sphere, value / np.linalg.norm(value), rtol=1e-14)
    np.testing.assert_array_equal(pk.project_sparse(value, count=99, implementation=implementation), value)
    np.testing.assert_array_equal(pk.project_sparse(value, count=0, implementation=implementation), 0 * value)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_extreme_sizes_are_finite_and_feasible(name: str, size: float, rng: Generator) -> None:
    value = (size * rng.normal(size=(5, 7, 4))).astype(np.float32)
    value[0] = 0
    found = np.asarray(SETS[name].project(value, implementation="xla"))
    assert np.isfinite(found).all()
    assert SETS[name].violation(found) <= 1e-5


@pytest.mark.parametrize("name", ["sphere", "levels", "sparse", "one-hot", "simplex"])
def test_a_nan_stays_in_its_vector(name: str, implementation: str, rng: Generator) -> None:
    value = points(rng)
    spoilt = value.copy()
    spoilt[2, 3, 1] = np.nan
    found, expected = (SETS[name].project(v, implementation=implementation) for v in (spoilt, value))
    assert np.isnan(found[2, 3, 1])
    for other in (0, 1, 3, 4):
        np.testing.assert_array_equal(found[other], expected[other])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: pk.project_sphere(x, norm=0), "project_sphere: norm is 0; pass a positive number"),
        (lambda x: pk.project_sphere(x, axis=2), r"project_sphere: axis is 2 for value of shape \(3, 2\)"),
        (lambda x: pk.project_sphere(x[:, :0]), r"shape \(3, 0\), so that vectors along axis -1 have no entries"),
        (lambda x: pk.project_levels(x, levels=()), r"project_levels: levels are \(\); pass one or more"),
        (lambda x: pk.project_levels(x, levels=(1, 1.0)), "pass one or more different numbers"),
        (lambda x: pk.project_levels(x, levels=(1, np.inf)), "a level is inf; pass a finite number"),
        (lambda x: pk.project_sparse(x, count=-1), "project_sparse: count is -1; pass an integer of at least 0"),
        (lambda x: pk.project_sparse(x, count=1.5), "count is 1.5; pass an integer"),
        (lambda x: pk.project_one_hot(x, low=np.nan), "project_one_hot: low is nan; pass a finite number"),
        (lambda x: pk.project_simplex(x, total=-1), "project_simplex: total is -1; pass a positive number"),
        (lambda x: pk.project_orthonormal(x.T), r"project_orthonormal: value has shape \(2, 3\), but columns"),
        (lambda x: pk.project_sphere(x, implementation="triton"), "project_sphere: there is no 'triton'"),
    ],
)
def test_what_does_not_fit(call: Callable[[Array], Any], message: str) -> None:
    with pytest.raises((ValueError, NotImplementedError), match=message):
        call(np.ones((3, 2)))


def test_settings_may_be_traced() -> None:
    value = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(jax.jit(lambda n: pk.project_sphere(value, norm=n))(10.0), [[6, 8]], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda n: pk.project_simplex(value, total=n))(3.0), [[1, 2]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1.5, 1e4])
@pytest.mark.parametrize("project", [pk.project_sphere, pk.project_orthonormal])
def test_derivatives_do_not_depend_on_the_size_of_values(project: Any, scale: float) -> None:
    """Both sets are met on a ray from 0, so that derivatives shrink as values grow."""
    value, weights = np.random.default_rng(0).normal(size=(2, 5, 3))

    def gradient(value: Any) -> Any:
        return jax.grad(lambda v: (project(v) * weights.astype(v.dtype)).sum())(value)

    found = scale * np.float64(gradient(np.float32(scale * value)))
    with jax.enable_x64(True):
        np.testing.assert_allclose(found, gradient(value), rtol=1e-4, atol=1e-4)
