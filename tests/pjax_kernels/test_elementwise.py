"""The projection onto the graph of a scalar function: against a dense search, by optimality, and in increments."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

Array = np.ndarray
Generator = np.random.Generator

FUNCTIONS: dict[str, tuple[str | Callable[..., Any], dict[str, Any], Callable[[Array], Array]]] = {
    "tanh": ("tanh", {}, np.tanh),
    "sigmoid": ("sigmoid", {}, lambda x: 1 / (1 + np.exp(-x))),
    "softplus": ("softplus", {}, lambda x: np.logaddexp(x, 0)),
    "gelu": ("gelu", {"approximate": True}, lambda x: np.asarray(jax.nn.gelu(x))),
    "gelu, exact": ("gelu", {"approximate": False}, lambda x: np.asarray(jax.nn.gelu(x, approximate=False))),
    "silu": ("silu", {}, lambda x: x / (1 + np.exp(-x))),
    "exp": ("exp", {}, np.exp),
    "log": ("log", {}, np.log),
    "sqrt": ("sqrt", {}, np.sqrt),
    "rsqrt": ("rsqrt", {}, lambda x: x**-0.5),
    "reciprocal": ("reciprocal", {}, lambda x: 1 / x),
    "square": ("square", {}, np.square),
    "cube": ("power", {"exponent": 3}, lambda x: x**3),
    "abs": ("abs", {}, np.abs),
    "clip": ("clip", {"low": -1.0, "high": 0.5}, lambda x: np.clip(x, -1, 0.5)),
    "leaky_relu": ("leaky_relu", {}, lambda x: np.where(x > 0, x, 0.01 * x)),
    "hard_sigmoid": ("hard_sigmoid", {}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "function": (lambda x: jnp.sin(x) + x, {}, lambda x: np.sin(x) + x),
}
POSITIVE = ("log", "sqrt", "rsqrt")
EXACT = ("abs", "clip", "leaky_relu", "hard_sigmoid")
COUNT = 400


@pytest.fixture(params=FUNCTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def points(name: str, size: float, rng: Generator) -> tuple[Array, Array]:
    x, z = size * rng.normal(size=(2, COUNT))
    return (np.abs(x) + 0.01 if name in POSITIVE else x), z


@functools.cache
def projection(name: str, implementation: str) -> Callable[..., Any]:
    """Compiled once for all tests."""
    f, settings, _ = FUNCTIONS[name]
    settings = {"increments": True, "implementation": implementation} | settings
    return jax.jit(functools.partial(pk.project_elementwise, f, **settings))


def changes_of(name: str, x: Array, z: Array, implementation: str = "xla", **arrays: Array) -> tuple[Array, Array]:
    changes = projection(name, implementation)(x, z, **arrays)
    return tuple(np.asarray(change, np.float64) for change in changes)  # type: ignore[return-value]


def distance(changes: tuple[Array, Array]) -> Array:
    return np.hypot(*changes)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_nearly_all_points_are_nearest_and_all_are_feasible(name: str, size: float, rng: Generator) -> None:
    """A dense search in float64 finds none that is nearer but in one of a hundred cases."""
    x, z = points(name, size, rng)
    changes, expected = changes_of(name, x, z), changes_of(name, x, z, "reference")
    new_x, new_z = x + changes[0], z + changes[1]
    if name == "sqrt":  # whose slope has no limit at 0
        assert (new_x >= 0).all()
        np.testing.assert_allclose(new_z**2, new_x, rtol=1e-8, atol=1e-8)
    else:
        np.testing.assert_allclose(FUNCTIONS[name][2](new_x), new_z, rtol=1e-8, atol=1e-8)
    excess = distance(changes) - distance(expected)
    nearest = excess <= 1e-8 * (1 + distance(expected))
    assert nearest.mean() >= (1 if name in EXACT else 0.99)
    residual = np.abs(z - FUNCTIONS[name][2](x))
    assert (distance(changes) <= residual * (1 + 1e-12)).all()


def test_no_feasible_point_is_nearer_than_the_projection_of_a_near_one(name: str, rng: Generator) -> None:
    x, _ = points(name, 1.0, rng)
    x = np.abs(x) + 0.3 if name in (*POSITIVE, "reciprocal") else x
    f = FUNCTIONS[name][2]
    z = f(x) + 0.05 * rng.normal(size=COUNT)
    changes = changes_of(name, x, z)
    for spread in (1e-4, 1e-2, 0.1):
        samples = x + changes[0] + spread * rng.normal(size=(300, COUNT))
        sampled = np.hypot(samples - x, f(np.where(samples > 0, samples, 1) if name in POSITIVE else samples) - z)
        allowed = (samples > 0) if name in POSITIVE else np.full(samples.shape, True)
        assert (sampled >= distance(changes) - 1e-12)[allowed].all()


def test_what_is_projected_again_stays(name: str, rng: Generator) -> None:
    x, z = points(name, 1.0, rng)
    changes = changes_of(name, x, z)
    again = changes_of(name, x + changes[0], z + changes[1])
    assert (distance(again) <= 1e-7 * (1 + np.abs(x) + np.abs(z))).mean() > 0.99


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1e-2])
def test_changes_are_precise_relative_to_the_residual(name: str, size: float, rng: Generator) -> None:
    """In float32, however small the residual beside the values; float64 resolves it without being told."""
    x, _ = points(name, 1.0, rng)
    x = np.float32(np.abs(x) + 0.3 if name in (*POSITIVE, "reciprocal") else x)
    residual = np.float32(size * rng.normal(size=COUNT))
    wide = np.float64(x)
    exact = changes_of(name, wide, FUNCTIONS[name][2](wide) + residual)
    found = changes_of(name, x, np.float32(FUNCTIONS[name][2](wide) + residual), residual=residual)
    for new, old in zip(found, exact, strict=True):
        assert np.linalg.norm(new - old) <= 1e-5 * np.linalg.norm(old)


def test_far_points_do_not_touch_near_ones(rng: Generator) -> None:
    x, z = rng.normal(size=(2, 6))
    z[3:] = np.tanh(x[3:]) + 0.01
    alone = changes_of("tanh", x[3:], z[3:])
    x[0], z[1] = np.nan, np.inf
    beside = changes_of("tanh", x, z)
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(other[3:], one, rtol=1e-12)
    assert np.isnan(beside[1][0])


MANY = 3000, 7
"""So many elements that far ones are gathered."""

SCALES = np.linspace(0.5, 2, MANY[1])
OF_MANY: dict[str, tuple[str | Callable[..., Any], tuple[Array, ...], Callable[[Array], Array]]] = {
    "tanh": ("tanh", (), np.tanh),
    "log": ("log", (), np.log),
    "constants": (lambda x, c: c * jnp.tanh(x), (SCALES,), lambda x: SCALES * np.tanh(x)),
    "an array that it holds": (lambda x: SCALES * jnp.tanh(x), (), lambda x: SCALES * np.tanh(x)),
}


@pytest.mark.parametrize("name", OF_MANY)
def test_far_ones_among_many_are_as_among_few(name: str, rng: Generator) -> None:
    """They are gathered; 500 rows alone are not.  One element is bad."""
    f, constants, values = OF_MANY[name]
    project = jax.jit(lambda x, z: pk.project_elementwise(f, x, z, constants=constants, increments=True))
    x = np.abs(rng.normal(size=MANY)) + 0.1
    for far in (1, 1500, 9000):
        z = values(x)
        z.reshape(-1)[rng.permutation(x.size)[:far]] += 3 * rng.normal(size=far)
        z[7, 3] = np.nan
        parts = [project(x[i : i + 500], z[i : i + 500]) for i in range(0, MANY[0], 500)]
        found = [np.asarray(changes) for changes in project(x, z)]
        for changes, alone in zip(found, map(np.concatenate, zip(*parts, strict=True)), strict=True):
            np.testing.assert_allclose(changes, alone, rtol=1e-9, atol=1e-12)
        assert np.argwhere(~np.isfinite(found[1])).tolist() == [[7, 3]]
        assert far / 2 < (np.hypot(*found) > 1e-3).sum() <= far


@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt"])
def test_inputs_outside_the_domain_move_into_it(name: str, rng: Generator) -> None:
    x, z = -np.abs(rng.normal(size=COUNT)), rng.normal(size=COUNT)
    changes = changes_of(name, x, z)
    new_x, new_z = x + changes[0], z + changes[1]
    assert (new_x >= 0).all()
    inside = new_x > 1e-6
    np.testing.assert_allclose(FUNCTIONS[name][2](new_x[inside]), new_z[inside], rtol=1e-5, atol=1e-7)


def test_constants_of_a_function_broadcast(implementation: str, rng: Generator) -> None:
    x, z, c = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=3)
    new_x, new_z = pk.project_elementwise(
        lambda x, c: c * jnp.tanh(x), x, z, constants=(c,), implementation=implementation
    )
    np.testing.assert_allclose(c * np.tanh(new_x), new_z, atol=1e-7)


@pytest.mark.parametrize(
    ("f", "settings", "message"),
    [
        ("no_such", {}, "there is no function 'no_such'"),
        ("tanh", {"exponent": 2}, "does not take these settings"),
        (jnp.tanh, {"exponent": 2}, "settings belong to a name"),
    ],
)
def test_unknown_functions_and_settings(f: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        pk.project_elementwise(f, np.ones(2), np.ones(2), **settings)
