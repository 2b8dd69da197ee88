"""Functions of whole arrays without rules of their own: transforms, complex numbers, decompositions, searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj

ROWS, WIDTH = 16, 8
KNOTS = np.linspace(-2, 2, WIDTH)

Function = Callable[[Any, Any], Any]


def positive(p: Any) -> Any:
    """A positive definite matrix with eigenvalues that are apart."""
    return p["a"] @ p["a"].T + jnp.diag(jnp.arange(1.0, 1 + WIDTH))


def filtered(p: Any, h: Any) -> Any:
    """Frequencies weighed by complex numbers, whose parts are parameters."""
    return jnp.fft.irfft(jnp.fft.rfft(h) * (p["b"][:5] + 1j * p["c"][:5]), n=WIDTH)


def poles(p: Any) -> Any:
    return jnp.exp(-jnp.exp(p["b"][:4]) + 1j * p["c"][:4])


def linear_recurrence(p: Any, h: Any) -> Any:
    """Of complex states, all steps by an associative scan."""

    def joined(first: Any, second: Any) -> Any:
        return first[0] * second[0], second[0] * first[1] + second[1]

    x = h.reshape(len(h), 2, 4) + 0j
    _, states = lax.associative_scan(joined, (jnp.broadcast_to(poles(p), x.shape), x), axis=1)
    return states.real.reshape(len(h), WIDTH)


def complex_scan(p: Any, h: Any) -> Any:
    """The same, step by step."""

    def step(state: Any, x: Any) -> Any:
        state = poles(p) * state + x
        return state, state.real

    first = jnp.zeros((len(h), 4), poles(p).dtype)
    states = lax.scan(step, first, jnp.swapaxes(h.reshape(len(h), 2, 4), 0, 1))[1]
    return jnp.swapaxes(states, 0, 1).reshape(len(h), WIDTH)


def looked_up(p: Any, h: Any) -> Any:
    """Entries of a table that stand at rounded values."""
    return h * p["a"][0][jnp.clip(jnp.round(h).astype(int), 0, WIDTH - 1)]


FUNCTIONS: dict[str, Function] = {
    "transform": lambda p, h: jnp.tanh(h) + jnp.fft.fft2(jnp.tanh(h)).real,
    "filtered": filtered,
    "complex": lambda p, h: jnp.abs(h + 1j) + jnp.angle(2 + 1j * h),
    "inverse": lambda p, h: h @ jnp.linalg.inv(positive(p)),
    "solve": lambda p, h: jax.vmap(lambda row: jnp.linalg.solve(positive(p), row))(h),
    "solve of itself": lambda p, h: jax.vmap(lambda r: jnp.linalg.solve(positive(p) + jnp.outer(r, r), r))(h),
    "cholesky": lambda p, h: h @ jnp.linalg.cholesky(positive(p)),
    "determinant": lambda p, h: h * jnp.linalg.det(p["a"]) + jnp.linalg.slogdet(positive(p))[1],
    "eigenvalues": lambda p, h: h * jnp.linalg.eigh(positive(p))[0],
    "singular values": lambda p, h: h * jnp.linalg.svd(p["a"], compute_uv=False),
    "orthogonal": lambda p, h: h @ jnp.linalg.qr(p["a"])[0],
    "pseudo-inverse": lambda p, h: h @ jnp.linalg.pinv(p["a"] + jnp.eye(WIDTH)),
    "interpolated": lambda p, h: jnp.interp(h, KNOTS, np.sin(2 * KNOTS)),
    "interpolated between parameters": lambda p, h: jax.vmap(lambda row: jnp.interp(row, KNOTS, p["b"]))(h),
    "remainder": lambda p, h: jnp.remainder(h, 1.3 + jnp.tanh(p["b"])),
    "looked up": looked_up,
    "linear recurrence": linear_recurrence,
    "complex scan": complex_scan,
}


@pytest.fixture
def arrays(generator: np.random.Generator) -> tuple[dict[str, Any], Any, Any]:
    normal = generator.normal
    params = {"w": 0.4 * normal(size=(6, WIDTH)), "v": 0.4 * normal(size=(WIDTH, 3)), "b": normal(size=WIDTH)}
    params |= {"a": 0.4 * normal(size=(WIDTH, WIDTH)), "c": normal(size=WIDTH)}
    return jax.tree.map(np.float32, (params, normal(size=(ROWS, 6)), normal(size=(ROWS, 3))))


def error(function: Function, params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((function(params, x @ params["w"]) @ params["v"] - y) ** 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_directions_are_near_gradients(name: str, arrays: Any) -> None:
    params, x, y = arrays
    gradient = jax.grad(lambda p: error(FUNCTIONS[name], p, x, y))(params)
    used = {key: params[key] for key, entries in gradient.items() if np.any(entries)}

    def constraint(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(FUNCTIONS[name](params | p, x @ p["w"]) @ p["v"], y)

    value, direction = pj.value_and_direction(pj.feasibility(constraint), used, x, y)
    np.testing.assert_allclose(value, error(FUNCTIONS[name], params, x, y), rtol=1e-5)
    for key, found in direction.items():
        cosine = np.vdot(found, gradient[key]) / np.linalg.norm(found) / np.linalg.norm(gradient[key])
        assert cosine > 0.95, key


@pytest.mark.parametrize("name", ["transform", "filtered", "solve", "eigenvalues", "interpolated", "looked up"])
def test_alternating_projections_come_nearer(name: str, arrays: Any) -> None:
    params, x, y = arrays
    gradient = jax.grad(lambda p: error(FUNCTIONS[name], p, x, y))(params)
    used = {key: params[key] for key, entries in gradient.items() if np.any(entries)}

    def constraint(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(FUNCTIONS[name](p, x @ p["w"]) @ p["v"], y)

    algorithm = pj.alternating_projections()
    solution = pj.solve(pj.feasibility(constraint), used, x, y, algorithm=algorithm, steps=20)
    assert error(FUNCTIONS[name], solution.params, x, y) < 0.97 * error(FUNCTIONS[name], params, x, y)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: jnp.fft.fft(x).real, (4, 6)),
        (lambda x: jnp.abs(x + 1j), (5,)),
        (lambda x: jnp.linalg.det(x), (3, 3)),
        (lambda x: jnp.linalg.slogdet(x)[1], (2, 3, 3)),
    ],
)
def test_points_are_the_nearest(function: Any, shape: tuple[int, ...], generator: np.random.Generator) -> None:
    pj.check_projection(function, [generator.normal(size=shape)])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.abs(jnp.fft.rfft(x)),
        lambda x: jnp.linalg.inv(x.reshape(-1, 4, 4) + 9 * jnp.eye(4)),
        lambda x: jnp.linalg.svd(x.reshape(-1, 4, 4), compute_uv=False),
    ],
)
def test_each_sample_is_a_row_of_its_own(function: Any, generator: np.random.Generator) -> None:
    """However far others are from what they are asked."""
    x = np.float32(generator.normal(size=(5, 16)))
    target = function(x + np.float32(generator.normal(size=(5, 16))) * np.array([[1], [1e-4], [3], [1e-2], [0.1]]))

    def found(rows: Any) -> Any:
        problem = pj.feasibility(lambda p, y: pj.squared_error(function(p["x"]), y))
        params, algorithm = {"x": x[rows]}, pj.alternating_projections()
        return pj.solve(problem, params, target[rows], algorithm=algorithm, steps=2, tolerance=np.inf).change["x"]

    together = found(slice(None))
    for row in range(5):
        alone = found(slice(row, row + 1))[0]
        assert np.linalg.norm(alone) > 0
        np.testing.assert_allclose(together[row], alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())
