"""What surrounds the arrays that users pass: scopes of JAX, caches, the device, and the messages about them."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import re
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj

ALGORITHM, REFLECTING = pj.alternating_projections(), pj.douglas_rachford()
STEPS = 2


def network(params: Any, x: Any) -> Any:
    return pj.matmul(pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"]), params["w1"])


PROBLEM = pj.feasibility(lambda params, x, y: pj.margin_loss(network(params, x), y))
CLASSES = pj.feasibility(lambda params, x, y: pj.cross_entropy(network(params, x), y))


@pytest.fixture
def params(generator: np.random.Generator) -> dict[str, Any]:
    shapes = {"w0": (8, 12), "b0": (12,), "w1": (12, 2)}
    return {name: np.float32(generator.normal(size=shape)) for name, shape in shapes.items()}


@pytest.fixture
def data(generator: np.random.Generator, one_hot: Any) -> tuple[Any, Any]:
    return np.float32(generator.normal(size=(16, 8))), np.float32(one_hot(16, 2))


def solve(params: Any, x: Any, y: Any, algorithm: Any = ALGORITHM) -> Any:
    return pj.solve(PROBLEM, params, x, y, algorithm=algorithm, steps=STEPS).params


def by_hand(params: Any, x: Any, y: Any) -> Any:
    state = ALGORITHM.init(PROBLEM, params, x, y)
    for _ in range(STEPS):
        state = ALGORITHM.step(PROBLEM, state)
    return ALGORITHM.params(state)


def scanned(params: Any, x: Any, y: Any) -> Any:
    once = jax.lax.scan(lambda carry, _: (solve(params, x, y), None), params, length=1)
    return once[0]


SCOPES: dict[str, Callable[..., Any]] = {
    "all known": lambda p, x, y: jax.jit(lambda: solve(p, x, y))(),
    "data known": lambda p, x, y: jax.jit(lambda p: solve(p, x, y))(p),
    "params known": lambda p, x, y: jax.jit(lambda x, y: solve(p, x, y))(x, y),
    "labels known": lambda p, x, y: jax.jit(lambda p, x: solve(p, x, y))(p, x),
    "by hand": lambda p, x, y: jax.jit(lambda p: by_hand(p, x, y))(p),
    "reflections": lambda p, x, y: jax.jit(lambda p: solve(p, x, y, pj.douglas_rachford()))(p),
    "scan": scanned,
    "fori_loop": lambda p, x, y: jax.lax.fori_loop(0, 1, lambda _, p: solve(p, x, y), p),
    "jit of vmap": lambda p, x, y: jax.tree.map(
        lambda a: a[1],
        jax.jit(jax.vmap(lambda p: solve(p, x, y)))(jax.tree.map(lambda a: jnp.stack([2 * a, a]), p)),
    ),
}


@pytest.mark.parametrize(
    ("scope", "kind"),
    [
        *((scope, kind) for scope in SCOPES if scope.endswith("known") for kind in (np.asarray, jnp.asarray)),
        *((scope, np.asarray) for scope in ("by hand", "scan", "jit of vmap")),
        *((scope, jnp.asarray) for scope in ("reflections", "fori_loop")),
    ],
)
def test_known_arrays_of_the_surrounding_scope(
    params: Any, data: Any, scope: str, kind: Any, change: Any, relative_error: Any
) -> None:
    params, data = jax.tree.map(kind, (params, data))
    algorithm = pj.douglas_rachford() if scope == "reflections" else ALGORITHM
    start = jax.tree.map(jnp.asarray, params)  # a carry of scan has the types of JAX
    expected = solve(params, *data, algorithm)
    found = SCOPES[scope](start if scope in ("scan", "fori_loop") else params, *data)
    moved, wanted = (jax.tree.map(lambda a, b: np.float64(a) - np.float64(b), p, params) for p in (found, expected))
    assert relative_error(moved, wanted) < 1e-5


def test_known_arrays_in_eval_shape(params: Any, data: Any) -> None:
    x, y = map(jnp.asarray, data)
    shapes = jax.eval_shape(lambda p: solve(p, x, y), params)
    assert jax.tree.map(lambda s: s.shape, shapes) == jax.tree.map(np.shape, params)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_what_is_known_is_checked_inside_jit(params: Any, data: Any, kind: Any) -> None:
    x, y = data
    broken, wrong = np.array(x), kind(3 * y)
    broken[3, 1] = np.nan
    broken = kind(broken)
    with pytest.raises(ValueError, match=r"data\[0\] of shape \(16, 8\) has 1 entries that are NaN"):
        jax.jit(lambda p: solve(p, broken, y))(params)
    if kind is jnp.asarray:  # arrays of NumPy become unknown as soon as JAX takes them
        with pytest.raises(ValueError, match=r"labels, from data\[1\], are from 0 to 3"):
            jax.jit(lambda p: pj.solve(CLASSES, p, x, wrong, algorithm=ALGORITHM, steps=STEPS).params)(params)


def test_no_tracer_stays_in_a_cache(params: Any, data: Any) -> None:
    seven = pj.feasibility(lambda p, x: pj.cross_entropy(network(p, x), jnp.full((16, 2), 7.0)))  # no probabilities

    def call(p: Any) -> Any:
        return pj.solve(seven, p, data[0], algorithm=ALGORITHM, steps=1).params

    # What is made inside the function is known there, also under jit.
    for function in (jax.jit(call), call, call, jax.jit(call)):
        with (
            jax.checking_leaks(),
            pytest.raises(ValueError, match="cross_entropy: labels, from constant, are from 7 to 7"),
        ):
            function(params)


def test_ranks_that_meet_inside_are_no_promotion_of_the_users(params: Any, data: Any) -> None:
    """FOUND 17."""
    x, y = data
    narrow = {"w0": params["w0"], "w1": params["w1"], "b": np.zeros(params["w1"].shape[1], np.float32)}

    def wide(p: Any, x: Any, y: Any) -> Any:
        return pj.margin_loss(jax.nn.relu(x @ p["w0"] + p["b0"][None]) @ p["w1"], y)

    expected = pj.solve(pj.feasibility(wide), params, x, y, algorithm=ALGORITHM, steps=3).change
    with jax.numpy_rank_promotion("raise"):
        problem = pj.feasibility(lambda *arguments: wide(*arguments))
        found = pj.solve(problem, params, x, y, algorithm=ALGORITHM, steps=3).change
        assert jax.tree.map(jnp.shape, pj.direction(problem, params, x, y)) == jax.tree.map(jnp.shape, params)
        with pytest.raises(ValueError, match="rank_promotion"):
            pj.feasibility(lambda p, x, y: pj.cross_entropy(x @ p["w0"] @ p["w1"] + p["b"], y)).graph(narrow, (x, y))
    for name, change in expected.items():
        np.testing.assert_allclose(found[name], change, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes_that_meet_inside_are_no_promotion_of_the_users(params: Any, data: Any, dtype: str) -> None:
    """FOUND 8: class numbers beside logits, and changes beside values of half precision."""
    x, y = data
    params, x = jax.tree.map(lambda array: jnp.asarray(array, dtype), (params, x))
    labels = jnp.argmax(y, 1)

    def network(p: Any, x: Any, y: Any) -> Any:
        return pj.cross_entropy(jax.nn.relu(x @ p["w0"] + p["b0"]) @ p["w1"], y)

    def results(problem: Any) -> Any:
        solutions = [pj.solve(problem, params, x, labels, algorithm=each, steps=2) for each in (ALGORITHM, REFLECTING)]
        return [pj.direction(problem, params, x, labels), *(solution.change for solution in solutions)]

    expected = results(pj.feasibility(network))
    with jax.numpy_dtype_promotion("strict"):
        found = results(pj.feasibility(lambda *arguments: network(*arguments)))
        with pytest.raises(ValueError, match="dtype promotion"):
            pj.direction(pj.feasibility(lambda p, x, y: network(p, x * np.int32(2), y)), params, x, labels)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, expected)


@pytest.mark.parametrize("steps", [0, 2])
def test_nothing_is_not_a_number_where_nothing_of_the_users_is(params: Any, data: Any, steps: int) -> None:
    """Biases begin at 0, and do not move at once; ``jnp.var`` brings a constant along that is none."""
    params = params | {"b0": np.zeros_like(params["b0"])}

    def normalised(p: Any, x: Any, y: Any) -> Any:
        h = x @ p["w0"] + p["b0"]
        return pj.margin_loss(((h - h.mean(1, keepdims=True)) / jnp.sqrt(h.var(1, keepdims=True) + 1e-3)) @ p["w1"], y)

    with jax.debug_nans(True):
        problem = pj.feasibility(normalised)
        assert all(map(jnp.any, pj.direction(problem, params, *data).values()))
        info = pj.solve(problem, params, *data, algorithm=pj.difference_map(), steps=steps).info
    assert (info.movement["w1"] > 0) == (steps > 0)
    assert info.movement["b0"] == 0


@pytest.mark.parametrize("algorithm", [ALGORITHM, REFLECTING], ids=["AP", "DR"])
def test_no_captured_tracer_stays_in_a_cache(algorithm: Any, params: Any, data: Any) -> None:
    x, y = data

    def captured(params: Any, scale: Any) -> Any:
        problem = pj.feasibility(lambda p: pj.margin_loss(network(p, scale * x), y))
        return results(problem, params)

    def results(problem: Any, params: Any) -> Any:
        change = pj.solve(problem, params, algorithm=algorithm, steps=1).change
        if algorithm is not ALGORITHM:
            return change
        return change, pj.direction(problem, params), pj.evaluate(problem.function, params)

    with jax.checking_leaks():
        found = jax.jit(captured)(params, 2.0)
    expected = results(pj.feasibility(lambda p: pj.margin_loss(network(p, 2 * x), y)), params)
    for got, right in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-7)


class Box:
    """What a network refers to."""

    def __init__(self) -> None:
        self.array = np.ones((256, 1024), np.float32)


def problem_with(box: Box) -> Any:
    return pj.feasibility(lambda p, x, y, box=box: pj.margin_loss(pj.matmul(x, p), y))


def bilinear_with(box: Box) -> Any:
    product = pj.bilinear("product", lambda x, w, box=box: x @ w)
    return pj.feasibility(lambda p, x, y: pj.margin_loss(product(x, p), y))


def primitive_with(box: Box) -> Any:
    same = pj.primitive(
        "same",
        forward=lambda x, box=box: x,
        project=lambda inputs, z: (((inputs[0] + z) / 2,), (inputs[0] + z) / 2),
    )
    return pj.feasibility(lambda p, x, y: pj.margin_loss(same(pj.matmul(x, p)), y))


def test_captured_arrays_are_freed(params: Any, data: Any) -> None:
    x, y = data
    reflecting = pj.douglas_rachford(copies=pj.Factored())

    def once(problem_of: Callable[[Box], Any], algorithm: Any) -> weakref.ref:
        box = Box()
        problem = problem_of(box)
        pj.solve(problem, params["w0"][:, :2], x, y, algorithm=algorithm, steps=1, tolerance=math.inf)
        algorithm.params(algorithm.step(problem, algorithm.init(problem, params["w0"][:, :2], x, y)))
        algorithm.describe(problem, params["w0"][:, :2], x, y)
        return weakref.ref(box)

    references = {
        (problem_of.__name__, algorithm): once(problem_of, algorithm)
        for problem_of, algorithm in (
            (problem_with, ALGORITHM),
            (problem_with, reflecting),
            (bilinear_with, reflecting),
            (primitive_with, ALGORITHM),
        )
    }
    jax.clear_caches()
    gc.collect()
    assert [name for name, reference in references.items() if reference() is not None] == []


def test_checked_arrays_are_freed(params: Any, data: Any) -> None:
    arrays = jax.tree.map(jnp.asarray, (params, *data))
    references = [weakref.ref(array) for array in jax.tree.leaves(arrays)]
    solve(*arrays)
    del arrays
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)


def test_the_device_is_not_waited_for(generator: np.random.Generator, one_hot: Any) -> None:
    """A second call starts from parameters that the first one is still computing."""
    params = {"w0": generator.normal(size=(784, 256)), "b0": np.zeros(256), "w1": generator.normal(size=(256, 10))}
    arrays = (params, generator.normal(size=(256, 784)), one_hot(256, 10))
    params, *data = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays)

    def call(params: Any, steps: int) -> Any:
        return pj.solve(PROBLEM, params, *data, algorithm=ALGORITHM, steps=steps, tolerance=math.inf).params

    few = call(call(params, 1), 1)
    jax.block_until_ready((few, call(few, 300)))  # compiled
    first = call(few, 300)
    second = call(first, 1)
    waited = first["w0"].is_ready()
    jax.block_until_ready(second)
    assert not waited


def test_numbers_that_a_call_made_are_checked_by_the_next(params: Any, data: Any) -> None:
    """Once they are there."""
    x, y = data
    diverged = jax.block_until_ready(solve({**params, "w0": np.float32(1e38) * params["w0"]}, x, y))
    assert not np.isfinite(diverged["w1"]).all()
    with pytest.raises(ValueError, match="entries that are NaN or infinite"):
        solve(diverged, x, y)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", "U5", "datetime64[s]", object])
def test_dtypes_that_jax_does_not_have(params: Any, data: Any, dtype: Any) -> None:
    x, y = data
    with pytest.raises(TypeError) as error:
        solve(params, np.zeros(x.shape, dtype), y)
    assert re.fullmatch(
        rf"data\[0\] has dtype {re.escape(str(np.dtype(dtype)))}, .*\.astype\(np.float32\)", str(error.value)
    )


def test_a_class_that_is_no_pytree(params: Any, data: Any) -> None:
    @dataclasses.dataclass
    class Layers:
        weights: Any

    with pytest.raises(TypeError) as error:
        solve({"net": Layers(params)}, *data)
    message = str(error.value)
    assert message.startswith("params['net'] is of type ")
    assert "Layers" in message
    assert "jax.tree_util.register_dataclass" in message
    assert "0." not in message


TAKING_AN_ARRAY: dict[str, Callable[[Any], Any]] = {
    "problem": lambda a: pj.solve(a, a, algorithm=ALGORITHM, steps=1),
    "algorithm": lambda a: pj.solve(PROBLEM, a, algorithm=a, steps=1),
    "steps": lambda a: pj.solve(PROBLEM, a, algorithm=ALGORITHM, steps=a),
    "tolerance": lambda a: pj.solve(PROBLEM, a, algorithm=ALGORITHM, steps=1, tolerance=a),
    "in_turn": lambda a: pj.alternating_projections(in_turn=a),
    "relaxation": lambda a: pj.douglas_rachford(a),
    "beta": lambda a: pj.difference_map(a),
    "copies": lambda a: pj.douglas_rachford(copies=a),
    "budget": lambda a: pj.douglas_rachford(budget=[a]),
    "history": lambda a: pj.Factored(history=a),
    "quantize: levels": lambda a: pj.quantize(a, levels=a),
    "threshold: margin": lambda a: pj.threshold(a, a, margin=a),
}


@pytest.mark.parametrize("name", TAKING_AN_ARRAY)
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_messages_never_print_contents(name: str, kind: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        TAKING_AN_ARRAY[name](kind(np.full((2, 2), 0.123, np.float32)))
    message = str(error.value)
    assert name in message
    assert "0.123" not in message
    assert "\n" not in message
