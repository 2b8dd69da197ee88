"""Compensated parameters: sums in pairs of a high and a low part, which a compiler must leave as they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj
from pjax_core.copies.count import low_dtype
from pjax_kernels.pairs import add_to_pair


def logits(params: dict[str, Any], x: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"])
    return pj.matmul(h, params["w1"])


CROSS_ENTROPY = pj.feasibility(lambda params, x, y: pj.cross_entropy(logits(params, x), y))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_small_increments_add_up(dtype: Any, generator: np.random.Generator) -> None:
    """Increments far below the rounding of the parameter, where the plain sum does not move at all.

    They are 1/64 of the rounding unit, which is 1e-9 of a float32 number.
    """
    start = jnp.asarray(generator.uniform(1, 2, size=400) * generator.choice([-1, 1], size=400), dtype)
    increment = jnp.float32(jnp.abs(start) * jnp.finfo(dtype).eps / 128)
    count = 10_000

    @jax.jit
    def run(high: Any) -> Any:
        def add(carry: Any, _: None) -> tuple[Any, None]:
            (high, low), plain = carry
            return (add_to_pair(high, low, increment), (plain + increment).astype(dtype)), None

        low = jnp.zeros(high.shape, low_dtype(high.dtype))
        return lax.scan(add, ((high, low), high), length=count)[0]

    (high, low), plain = run(start)
    np.testing.assert_array_equal(np.float64(plain), np.float64(start))
    moved = (np.float64(high) - np.float64(start)) + np.float64(low)
    np.testing.assert_allclose(moved, count * np.float64(increment), rtol=1e-3)
    assert np.mean(moved) == pytest.approx(count * np.mean(np.float64(increment)), rel=1e-4)
    # The high part is the rounded sum: the low part is no more than the rounding error.
    assert np.all(np.abs(np.float64(low)) <= np.float64(jnp.finfo(dtype).eps) * np.abs(np.float64(high)))


def test_pairs_add_up_exactly(generator: np.random.Generator) -> None:
    """Whichever of the two parts is the larger."""
    high, low, change = (jnp.float32(s * generator.normal(size=1000)) for s in (1, 1e-3, 1e-3))
    high = high * jnp.asarray(generator.choice([0, 1e-6, 1e-3, 1], size=1000), jnp.float32)
    new_high, new_low = jax.jit(add_to_pair)(high, low, change)
    smaller = low + change
    np.testing.assert_array_equal(np.float64(new_high) + np.float64(new_low), np.float64(high) + np.float64(smaller))
    np.testing.assert_array_equal(new_high, high + smaller)


def test_parameters_are_rounded_sums(generator: np.random.Generator, one_hot: Any) -> None:
    """What is read from a state is: it holds the parameters at the start, and their changes."""
    shapes = {"w0": (20, 8), "b0": (8,), "w1": (8, 3)}
    params = {n: jnp.float32(generator.normal(size=s)) for n, s in shapes.items()}
    x, y = jnp.float32(generator.uniform(size=(16, 20))), jnp.float32(one_hot(16, 3))
    algorithm = pj.alternating_projections()
    solution = pj.solve(CROSS_ENTROPY, params, x, y, algorithm=algorithm, steps=20)
    for name, high in solution.params.items():
        assert np.any(np.asarray(high) != np.asarray(params[name]))
        assert np.all(np.abs(solution.params_low[name]) <= jnp.finfo(jnp.float32).eps * np.abs(high))
        np.testing.assert_array_equal(solution.state.high[name], params[name])
        moved = (np.float64(high) - np.float64(params[name])) + np.float64(solution.params_low[name])
        np.testing.assert_array_equal(moved, np.float64(solution.state.low[name]))


def test_the_low_part_carries_on(generator: np.random.Generator, one_hot: Any, change: Any, relative_error: Any):
    """Many short runs, each from the parameters of the one before, with their low parts and without."""
    shapes = {"w0": (300, 64), "b0": (64,), "w1": (64, 3)}
    start = {n: np.float32(generator.normal(size=s) / np.sqrt(s[0])) for n, s in shapes.items()}
    x, y = np.float32(generator.uniform(size=(64, 300))), np.float32(one_hot(64, 3))
    algorithm = pj.alternating_projections()

    def train(dtype: str, keep_low: bool) -> Any:
        params = jax.tree.map(lambda a: jnp.asarray(a, dtype), start)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, low_dtype(a.dtype)), params)
        inputs, low = [jnp.asarray(array, dtype) for array in (x, y)], nothing
        for _ in range(30):
            solution = pj.solve(CROSS_ENTROPY, params, *inputs, algorithm=algorithm, steps=2, params_low=low)
            params, low = solution.params, solution.params_low if keep_low else nothing
        return change(solution, start)

    with jax.enable_x64(True):
        exact = train("float64", keep_low=True)["w0"]
    kept, dropped = (relative_error(train("float32", keep)["w0"], exact) for keep in (True, False))
    assert kept < dropped / 3


def test_the_change_is_that_of_the_pairs(generator: np.random.Generator, one_hot: Any, relative_error: Any):
    """It keeps its relative precision though it is far below the rounding of the parameters."""
    shapes = {"w0": (300, 64), "b0": (64,), "w1": (64, 3)}
    params = {n: jnp.float32(generator.normal(size=s) / np.sqrt(s[0])) for n, s in shapes.items()}
    low = jax.tree.map(lambda a: a * jnp.float32(2e-8 * generator.uniform(-1, 1, size=a.shape)), params)
    x, y = jnp.float32(generator.uniform(size=(64, 300))), jnp.float32(one_hot(64, 3))
    weak = pj.feasibility(lambda params, x, y: pj.cross_entropy(logits(params, x), y, strength=1e-3))
    solution = pj.solve(weak, params, x, y, algorithm=pj.alternating_projections(), steps=3, params_low=low)
    for name, change in solution.change.items():
        after, before = (
            np.float64(high[name]) + np.float64(rest[name])
            for high, rest in ((solution.params, solution.params_low), (params, low))
        )
        assert relative_error(change, after - before) < 1e-5
        assert name != "w0" or 0 < np.linalg.norm(change) < 1e-7 * np.linalg.norm(before)
