"""Functions with ``custom_vjp`` and ``custom_jvp``: kernels, estimators, implicit functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas

import pjax_core as pj
from pjax_core.operations.rows import rows_of
from pjax_core.operations.smooth import reverse_function


def by_pallas(body: Callable[..., Any], *arrays: Any) -> Any:
    """A kernel with no rule here, nor a derivative; its output is like the first array."""

    def kernel(*references: Any) -> None:
        *inputs, output = references
        output[...] = body(*(reference[...] for reference in inputs))

    shape = jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)
    return pallas.pallas_call(kernel, out_shape=shape, interpret=True)(*arrays)


@jax.custom_vjp
def tanh_by_pallas(x: Any) -> Any:
    return by_pallas(jnp.tanh, x)


tanh_by_pallas.defvjp(
    lambda x: (tanh_by_pallas(x), x), lambda x, asked: (asked * by_pallas(lambda x: 1 - jnp.tanh(x) ** 2, x),)
)


@jax.custom_vjp
def tanh_on_the_host(x: Any) -> Any:
    return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


tanh_on_the_host.defvjp(lambda x: (tanh_on_the_host(x), x), lambda x, asked: (asked * (1 - jnp.tanh(x) ** 2),))


def attention(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.T) @ v


@jax.custom_vjp
def attention_by_pallas(q: Any, k: Any, v: Any) -> Any:
    return by_pallas(attention, q, k, v)


attention_by_pallas.defvjp(
    lambda *arrays: (attention_by_pallas(*arrays), arrays), lambda arrays, asked: jax.vjp(attention, *arrays)[1](asked)
)


@jax.custom_vjp
def with_learned_step(x: Any, step: Any) -> Any:
    return jnp.clip(jnp.round(x / step), -4, 4) * step


def asked_of_step(saved: Any, asked: Any) -> tuple[Any, Any]:
    """Esser et al., Learned Step Size Quantization, arXiv 1902.08153, equation 3."""
    x, step = saved
    place = x / step
    inside = jnp.abs(place) < 4
    of_step = jnp.where(inside, jnp.round(place) - place, 4 * jnp.sign(place))
    return asked * inside, jnp.sum(asked * of_step)


with_learned_step.defvjp(lambda x, step: (with_learned_step(x, step), (x, step)), asked_of_step)


@jax.custom_vjp
def reversed_below(x: Any) -> Any:
    return x


reversed_below.defvjp(lambda x: (x, None), lambda _, asked: (-2 * asked,))


@jax.custom_jvp
def sign(x: Any) -> Any:
    return jnp.sign(x)


@sign.defjvp
def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return jnp.sign(primals[0]), tangents[0] * (jnp.abs(primals[0]) < 1)


@jax.custom_vjp
def root(x: Any, w: Any) -> Any:
    """``y + y^3 = x w``, by as many steps as it takes."""
    target = x @ w
    return lax.while_loop(
        lambda y: jnp.max(jnp.abs(y**3 + y - target)) > 1e-5,
        lambda y: y - (y**3 + y - target) / (3 * y**2 + 1),
        jnp.zeros_like(target),
    )


def asked_of_root(saved: Any, asked: Any) -> tuple[Any, Any]:
    y, x, w = saved
    asked = asked / (3 * y**2 + 1)
    return asked @ w.T, x.T @ asked


root.defvjp(lambda x, w: ((y := root(x, w)), (y, x, w)), asked_of_root)

FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "kernel": lambda p, x: tanh_by_pallas(x @ p["w"]) @ p["v"],
    "kernel of each sample": lambda p, x: jax.vmap(tanh_by_pallas)(x @ p["w"]) @ p["v"],
    "kernel in a scan": lambda p, x: lax.scan(lambda h, _: (tanh_by_pallas(h), None), x @ p["w"], None, 2)[0] @ p["v"],
    "on the host": lambda p, x: tanh_on_the_host(x @ p["w"]) @ p["v"],
    "attention": lambda p, x: attention_by_pallas(x @ p["w"], jnp.sin(x @ p["w"]), jnp.cos(x @ p["w"])) @ p["v"],
    "learned step": lambda p, x: with_learned_step(jnp.tanh(x @ p["w"]), jnp.exp(p["v"][0, 0]) / 4) @ p["v"],
    "learned step of weights": lambda p, x: jnp.tanh(x @ with_learned_step(p["w"], jnp.exp(p["v"][0, 0]) / 8)) @ p["v"],
    "reversed product": lambda p, x: reversed_below(x @ p["w"]) @ p["v"],
    "reversed function": lambda p, x: reversed_below(jnp.tanh(x @ p["w"])) @ p["v"],
    "forwards": lambda p, x: sign(x @ p["w"]) @ p["v"],
    "root": lambda p, x: root(x, p["w"]) @ p["v"],
}


@pytest.fixture
def arrays(generator: np.random.Generator) -> tuple[dict[str, Any], Any, Any]:
    normal = generator.normal
    params = {"w": 0.6 * normal(size=(6, 8)), "v": 0.4 * normal(size=(8, 3))}
    return jax.tree.map(np.float32, (params, normal(size=(32, 6)), normal(size=(32, 3))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_directions_go_by_them(name: str, arrays: Any) -> None:
    params, x, y = arrays
    gradient = jax.grad(lambda p: jnp.mean((FUNCTIONS[name](p, x) - y) ** 2))(params)
    problem = pj.feasibility(lambda p, x, y: pj.squared_error(FUNCTIONS[name](p, x), y))
    for key, found in pj.direction(problem, params, x, y).items():
        size = np.linalg.norm(gradient[key])
        assert np.vdot(found, gradient[key]) > 0.95 * np.linalg.norm(found) * size > 0, key


@pytest.mark.parametrize("name", ["kernel", "attention", "root"])
@pytest.mark.parametrize("algorithm", [pj.alternating_projections(), pj.douglas_rachford()])
def test_algorithms_lower_the_loss(name: str, algorithm: Any, arrays: Any) -> None:
    params, x, y = arrays
    problem = pj.feasibility(lambda p, x, y: pj.squared_error(FUNCTIONS[name](p, x), y, strength=1.0))

    def loss(p: Any) -> float:
        return float(jnp.mean((FUNCTIONS[name](p, x) - y) ** 2))

    solution = pj.solve(problem, params, x, y, algorithm=algorithm, steps=60, tolerance=np.inf)
    assert loss(solution.params) < 0.9 * loss(params)


TANH = reverse_function("tanh", tanh_by_pallas)


def test_no_point_is_farther_than_where_it_came_from(generator: np.random.Generator) -> None:
    x, z = (np.float32(generator.normal(size=(5, 4)) * 10.0**size) for size in (0, 1))
    (change,), output_change = TANH.project((x,), z, None)
    np.testing.assert_allclose(z + output_change, np.tanh(x + change), atol=1e-5)
    moved = np.sum(np.square(change)) + np.sum(np.square(output_change))
    assert 0 < moved < np.sum((z - np.tanh(x)) ** 2)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2])
def test_small_changes_are_kept(size: float, generator: np.random.Generator) -> None:
    x, change = np.float32(generator.normal(size=(2, 5, 4)))
    change = np.float32(size) * change
    found = TANH.increment((x,), (change,))
    expected = np.tanh(np.float64(x) + change) - np.tanh(np.float64(x))
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_nothing_is_known_of_the_rows_of_kernels(generator: np.random.Generator) -> None:
    x = np.float32(generator.normal(size=(3, 3)))
    assert rows_of(tanh_by_pallas, x).of_x == ()
    assert rows_of(jnp.tanh, x).of_x == (0, 1)


def test_errors_of_the_host_are_raised_where_they_hold(arrays: Any) -> None:
    """As those of Equinox are made: in a branch that is not taken nothing is called."""
    params, x, y = arrays

    def raises(_: Any) -> Any:
        raise ValueError("too large")

    @jax.custom_jvp
    def checked(h: Any, wrong: Any) -> Any:
        shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
        return lax.cond(wrong, lambda h: jax.pure_callback(raises, shape, 0), lambda h: h, h)

    checked.defjvp(lambda primals, tangents: (checked(*primals), tangents[0]))
    problem = pj.feasibility(
        lambda p, x, y: pj.squared_error(checked(jnp.tanh(x @ p["w"]), jnp.any(x > 100)) @ p["v"], y)
    )
    found = pj.direction(problem, params, x, y)
    assert all(np.all(np.isfinite(change)) and np.any(change) for change in found.values())
    with pytest.raises(Exception, match="too large"):
        jax.block_until_ready(pj.direction(problem, params, 1000 * x, y))


def test_what_has_no_derivative_at_all_is_refused(arrays: Any) -> None:
    params, x, y = arrays
    problem = pj.feasibility(lambda p, x, y: pj.squared_error(by_pallas(jnp.tanh, x @ p["w"]) @ p["v"], y))
    with pytest.raises(NotImplementedError, match=r"test_own_derivatives\.py.*pallas_call of values .*no projection"):
        pj.direction(problem, params, x, y)
