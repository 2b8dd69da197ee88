"""Ordinary functions of JAX become graphs of constraints: what traces to what, and what errors say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import pjax_core as pj
import pjax_kernels as pk
from pjax_core.graph.graph import Graph
from pjax_core.graph.nodes import Operation
from pjax_core.operations import primitives
from pjax_core.operations.call import call as operation
from pjax_core.trace.jaxpr import trace

NORMAL = np.random.default_rng(0).normal
X = NORMAL(size=(6, 8)).astype(np.float32)
CLASSES = np.array([0, 1, 2, 0, 1, 2])
LABELS = np.eye(3, dtype=np.float32)[CLASSES]
PARAMS = {
    "w0": NORMAL(size=(8, 4)).astype(np.float32),
    "b0": NORMAL(size=4).astype(np.float32),
    "w1": NORMAL(size=(4, 3)).astype(np.float32),
}
Function = Callable[..., Any]
ALGORITHMS = {
    "AP": pj.alternating_projections(),
    "AP in turn": pj.alternating_projections(in_turn=True),
    "CP": pj.cyclic_projections(),
    "DR dense": pj.douglas_rachford(copies="dense"),
    "DR factored": pj.douglas_rachford(copies=pj.Factored(3)),
}


def operations(function: Function, params: Any = PARAMS, *data: Any) -> list[str]:
    """The names of the operations that a loss becomes."""
    graph = trace(function, params, data or (X, LABELS))
    return [node.name for node in graph.nodes if isinstance(node, Operation) and "identity" not in node.name]


def with_activation(activation: Function) -> Function:
    return lambda p, x, y: pj.margin_loss(activation(x @ p["w0"] + p["b0"]) @ p["w1"], y)


def changes(function: Function, params: Any, *data: Any) -> Any:
    solution = pj.solve(
        pj.feasibility(function), params, *data, algorithm=pj.alternating_projections(), steps=8, tolerance=np.inf
    )
    return jax.tree.map(np.asarray, solution.change)


def assert_same(found: Any, expected: Any) -> None:
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(right) > 0
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6 * np.linalg.norm(right))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (jax.nn.relu, ["sum_relu"]),
        (lambda h: jnp.maximum(h, 0), ["sum_relu"]),
        (lambda h: jnp.where(h > 0, h, 0), ["sum_relu"]),
        (jnp.tanh, ["sum", "tanh"]),
        (jax.nn.gelu, ["sum", "gelu"]),
        (functools.partial(jax.nn.gelu, approximate=False), ["sum", "gelu"]),
        (jax.nn.silu, ["sum", "silu"]),
        (lambda h: h / (1 + jnp.exp(-h)), ["sum", "silu"]),
        (jax.nn.softplus, ["sum", "softplus"]),
        (jax.nn.sigmoid, ["sum", "sigmoid"]),
        (jax.nn.leaky_relu, ["sum", "leaky_relu"]),
        (jax.nn.relu6, ["sum", "clip"]),
        (lambda h: jnp.clip(h, -1, 2), ["sum", "clip"]),
        (jax.nn.elu, ["sum", "elementwise"]),
        (jax.nn.hard_sigmoid, ["sum", "hard_sigmoid"]),
        (jax.nn.hard_swish, ["sum", "elementwise"]),
        (jax.nn.log_sigmoid, ["sum", "elementwise"]),
        (lambda h: jax.nn.softplus(2 * h + 1), ["sum", "elementwise"]),
        (lambda h: jax.nn.relu(2 * h - 1), ["sum", "affine", "sum_relu"]),
        (lambda h: jnp.cumsum(h, 1), ["sum", "average_pool"]),
        (lambda h: lax.cumsum(h, 1, reverse=True), ["sum", "average_pool"]),
        (lambda h: jnp.sin(2 * h) + h**3, ["sum", "elementwise"]),
        (lambda h: 2 * h, ["sum", "affine"]),
        (lambda h: 1 - h / 3, ["sum", "affine"]),
        (lambda h: h * h, ["sum", "square"]),
        (jnp.abs, ["sum", "abs"]),
        (lambda h: h - h[::-1], ["sum", "signed_sum"]),
        (lambda h: h * h[::-1], ["sum", "multiply"]),
        (lambda h: h / h[::-1], ["sum", "divide"]),
        (lambda h: jnp.minimum(h, h[::-1]), ["sum", "min"]),
        (lambda h: h + jnp.max(h, 1, keepdims=True), ["sum", "max", "sum"]),
        (lambda h: h - jnp.mean(h, 1, keepdims=True), ["sum", "sum over axes", "signed_sum"]),
        (lambda h: jnp.where(np.arange(4) % 2, h, 0), ["sum"]),
        (lambda h: h * jnp.einsum("ii->i", h[:4]), ["sum", "multiply"]),
        (lambda h: h + jnp.where(np.tri(6), h[:, :1], 0).sum(0)[:, None], ["sum", "sum over axes", "sum"]),
        (lambda h: jnp.concatenate([h[:, 2:], h[:, :2]], 1), ["sum"]),
        (lambda h: h + h[::-1] + h[:, ::-1], ["sum", "sum"]),
        (jax.checkpoint(jax.jit(jax.nn.relu)), ["sum_relu"]),
        (lambda h: checkpoint_name(jax.nn.relu(h), "hidden"), ["sum_relu"]),
        (jax.vmap(jax.vmap(jax.nn.relu)), ["sum_relu"]),
        (lambda h: lax.map(jax.nn.relu, h), ["sum_relu"]),
        (lambda h: lax.cond(True, jnp.tanh, jnp.sin, h), ["sum", "tanh"]),
        (jnp.sort, ["sum", "largest"]),
        (lambda h: -jnp.sort(-h, axis=0), ["sum", "affine", "largest", "affine"]),
        (lambda h: jnp.tile(lax.top_k(h, 2)[0], (1, 2)), ["sum", "largest"]),
        (lambda h: h - jnp.median(h, 1, keepdims=True), ["sum", "largest", "sum", "signed_sum"]),
        (lambda h: jnp.where(h > 0, h, h[::-1]), ["sum", "choice"]),
        (lambda h: jnp.where(h > h[::-1], h, 0.5), ["sum", "signed_sum", "choice"]),
        (lambda h: jnp.where((h > 0) & (h[::-1] <= 0), h, h[::-1]), ["sum", "choice", "choice"]),
        (lambda h: jnp.where((h > 0) | (np.arange(4) > 1), h[::-1], h), ["sum", "choice"]),
        (lambda h: jnp.where(jnp.any(h > 0, 1, keepdims=True), h, h[::-1]), ["sum", "max", "choice"]),
        (lambda h: jnp.where(jnp.all(~(h > 0), 1, keepdims=True), h, h[::-1]), ["sum", "max", "choice"]),
        (lambda h: (h > h[::-1]).astype(float) + h, ["sum", "signed_sum", "choice", "sum"]),
        (lambda h: jnp.where(jnp.isfinite(h), h, 0.0), ["sum"]),
        (lambda h: jax.ops.segment_sum(h, np.array([0, 2, 0, 5, 5, 1]), 6), ["sum", "scatter_sum"]),
        (lambda h: h.at[:, np.array([0, 0])].add(h[:, 1:3]), ["sum", "scatter_sum", "sum"]),
        (lambda h: h.at[:, 0].multiply(h[:, 1]), ["sum", "multiply"]),
        (lambda h: h.at[:, np.array([0, 0])].set(h[:, 1:3]), ["sum"]),
        (lambda h: jnp.insert(h, 2, 0.5, axis=1)[:, :4], ["sum"]),
        (
            lambda h: jax.nn.softplus(h) ** jnp.max(h, 1, keepdims=True),
            ["sum", "max", "softplus", "log", "multiply", "exp"],
        ),
        (lambda h: jnp.arctan2(h, h[::-1]), ["sum", "atan2"]),
        (lambda h: jnp.prod(jnp.stack([h, h[::-1], h[:, ::-1]]), 0), ["sum", "multiply", "multiply"]),
        (lambda h: jnp.cumprod(h[:, :3], 1) @ np.ones((3, 4), np.float32), ["sum", "multiply", "multiply", "matmul"]),
        (lambda h: lax.cummax(h, 1, reverse=True), ["sum", "max", "max"]),
        (
            lambda h: lax.while_loop(lambda s: s[1] < 2, lambda s: (jnp.tanh(s[0]), s[1] + 1), (h, 0))[0],
            ["sum", "elementwise"],
        ),
        (lambda h: jnp.nan_to_num(h), ["sum"]),
        (lambda h: jax.nn.one_hot(jnp.argmax(h, 1), 4), ["sum", "at_rank"]),
        (
            lambda h: jnp.where(jnp.argmin(h, 1)[:, None] == np.arange(4), h, h[::-1]),
            ["sum", "signed_sum", "at_rank", "signed_sum", "choice"],
        ),
        (lambda h: h + jnp.take_along_axis(h[::-1], jnp.argmax(h, 1, keepdims=True), 1), ["sum", "at_rank", "sum"]),
        (
            lambda h: jnp.take(h, jnp.argmax(jnp.sum(h, 0)), 1)[:, None] * h,
            ["sum", "sum over axes", "at_rank", "multiply"],
        ),
    ],
)
def test_what_functions_become(activation: Function, expected: list[str]) -> None:
    assert operations(with_activation(activation)) == ["matmul", *expected, "matmul", "margin_loss"]


def same_function(p: Any, x: Any, y: Any) -> Any:
    h = jax.nn.relu(x @ p["w0"] + p["b0"])
    return pj.cross_entropy(jax.nn.softmax(h) @ p["w1"], y)


def test_the_same_function_has_gradients_and_values() -> None:
    expected = same_function(PARAMS, X, LABELS)
    value, gradient = jax.jit(jax.value_and_grad(same_function))(PARAMS, X, LABELS)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, PARAMS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    each = jax.jit(jax.vmap(same_function, (None, 0, 0)))(PARAMS, X[:, None], LABELS[:, None])
    np.testing.assert_allclose(np.mean(each), expected, rtol=1e-5)
    assert all(np.linalg.norm(change) > 0 for change in changes(same_function, PARAMS, X, LABELS).values())


def test_a_second_solve_traces_nothing() -> None:
    calls = []

    def function(p: Any, x: Any, y: Any) -> Any:
        calls.append(1)
        return with_activation(jax.nn.relu)(p, x, y)

    problem = pj.feasibility(function)
    for _ in range(2):
        pj.solve(problem, PARAMS, X, LABELS, algorithm=pj.alternating_projections(), steps=1)
    assert len(calls) == 1


class Pair(NamedTuple):
    w: Any
    b: Any


@jax.tree_util.register_dataclass
@dataclass
class Layers:
    first: Pair
    last: list[Any]


def test_parameters_in_any_tree() -> None:
    layers = Layers(Pair(PARAMS["w0"], PARAMS["b0"]), [PARAMS["w1"]])

    def function(p: Layers, x: Any, y: Any) -> Any:
        return pj.margin_loss(jax.nn.relu(x @ p.first.w + p.first.b) @ p.last[0], y)

    found = changes(function, layers, X, LABELS)
    expected = changes(with_activation(jax.nn.relu), PARAMS, X, LABELS)
    assert_same([found.first.w, found.first.b, found.last[0]], [expected[name] for name in ("w0", "b0", "w1")])
    with pytest.raises(ValueError, match=r"parameter params.first.b is never used"):
        operations(lambda p, x, y: pj.cross_entropy(x @ p.first.w @ p.last[0], y), layers)


@pytest.mark.parametrize(
    "labels",
    [
        lambda p, x, y: pj.cross_entropy(x @ p["w"], CLASSES),
        lambda p, x, y: pj.cross_entropy(x @ p["w"], jax.nn.one_hot(y.argmax(1), 3)),
        lambda p, x, y: pj.cross_entropy(x @ p["w"], jnp.asarray(CLASSES)),
        lambda p, x, y: jax.vmap(pj.cross_entropy)(x @ p["w"], y).mean(),
    ],
    ids=["integers", "made inside", "jnp", "by vmap"],
)
def test_labels_of_many_kinds(labels: Function) -> None:
    assert_same(changes(labels, {"w": PARAMS["w0"][:, :3]}, X, LABELS), changes_by_rows_of_labels())


@functools.cache
def changes_by_rows_of_labels() -> Any:
    return changes(lambda p, x, y: pj.cross_entropy(x @ p["w"], y), {"w": PARAMS["w0"][:, :3]}, X, LABELS)


def test_data_are_computed_once_and_known_arrays_are_constants() -> None:
    """FOUND 7: index arrays of jnp, and functions of data, inside the network."""

    def network(swap: Any) -> Function:
        return lambda p, x, y: pj.margin_loss((jnp.sin(x) @ p["w0"] + p["b0"])[:, swap] @ p["w1"], y)

    with_numpy, with_jax = (network(m.array([1, 0, 3, 2])) for m in (np, jnp))
    assert_same(changes(with_jax, PARAMS, X, LABELS), changes(with_numpy, PARAMS, X, LABELS))
    outside = changes(
        lambda p, x, y: network(np.array([1, 0, 3, 2]))(p, jnp.arcsin(x), y), PARAMS, np.sin(X / 9), LABELS
    )
    assert_same(outside, changes(with_numpy, PARAMS, np.float32(np.arcsin(np.sin(X / 9))), LABELS))


def test_arrays_closed_over_under_jit() -> None:
    x, y = jnp.asarray(X), jnp.asarray(LABELS)

    def direct(p: Any, x: Any, y: Any) -> Any:
        return with_activation(jax.nn.relu)(p, x, y)

    @jax.jit
    def inside(p: Any, scale: Any) -> Any:
        problem = pj.feasibility(lambda p: with_activation(jax.nn.relu)(p, scale * x, y))
        return pj.solve(problem, p, algorithm=pj.alternating_projections(), steps=8, tolerance=np.inf).change

    assert_same(inside(PARAMS, 1.0), changes(direct, PARAMS, X, LABELS))
    assert_same(inside(PARAMS, 2.0), changes(direct, PARAMS, 2 * X, LABELS))


def test_labels_made_inside_from_unknown_arrays_are_not_kept() -> None:
    """FOUND 13: labels that are no probabilities are refused in either order of calls, and nothing is leaked."""
    seven = pj.feasibility(
        lambda p, x: pj.cross_entropy(jnp.tanh(x @ p["w0"] + p["b0"]) @ p["w1"], jnp.full((6, 3), 7.0))
    )
    for call in (lambda: jax.jit(solve_once)(PARAMS), lambda: solve_once(PARAMS)):

        def solve_once(p: Any) -> Any:
            return pj.solve(seven, p, X, algorithm=pj.alternating_projections(), steps=1).params

        with pytest.raises(ValueError, match="are from 7 to 7"), jax.checking_leaks():
            call()


def test_loops_are_unrolled_where_they_say_so() -> None:
    def scanned(p: Any, x: Any, y: Any) -> Any:
        def step(h: Any, rows: Any) -> tuple[Any, Any]:
            h = jax.nn.relu(rows @ p["w0"] + h + p["b0"])
            return h, h

        last, states = lax.scan(step, jnp.zeros((6, 4)), jnp.stack([x, x[::-1], -x]), unroll=True)
        return pj.margin_loss((last + states.mean(0)) @ p["w1"], y)

    def written_out(p: Any, x: Any, y: Any) -> Any:
        h, states = jnp.zeros((6, 4)), []
        for rows in (x, x[::-1], -x):
            h = jax.nn.relu(rows @ p["w0"] + h + p["b0"])
            states.append(h)
        return pj.margin_loss((h + jnp.stack(states).mean(0)) @ p["w1"], y)

    assert operations(scanned) == operations(written_out)
    assert_same(changes(scanned, PARAMS, X, LABELS), changes(written_out, PARAMS, X, LABELS))


RECURRENT = {
    "w_x": NORMAL(size=(3, 4)),
    "w_h": NORMAL(size=(4, 4)),
    "b": NORMAL(size=4),
    "out": NORMAL(size=(4, 3)),
}
SEQUENCES, LABEL_OF_EACH_STEP = NORMAL(size=(5, 6, 3)), np.eye(3)[np.arange(30).reshape(5, 6) % 3]


def by_scan(activation: Function, concatenated: bool = False, biased: bool = True, reverse: bool = False) -> Function:
    """A recurrent network as a user writes it, over time first."""

    def network(p: Any, x: Any, y: Any, strength: Any = 5.0) -> Any:
        def step(h: Any, rows: Any) -> tuple[Any, Any]:
            if concatenated:
                total = jnp.concatenate([rows, h], 1) @ jnp.concatenate([p["w_x"], p["w_h"]])
            else:
                total = rows @ p["w_x"] + h @ p["w_h"]
            h = activation(total + p["b"] if biased else total)
            return h, h

        h, states = lax.scan(step, jnp.zeros((5, 4), x.dtype), jnp.swapaxes(x, 0, 1), reverse=reverse)
        logits = jnp.swapaxes(states, 0, 1) @ p["out"]
        return pj.squared_error(logits if biased else logits + p["b"][:3], y, strength=strength)

    return network


@pytest.mark.parametrize(("name", "concatenated"), [("AP", False), ("DR dense", True), ("DR factored", False)])
def test_a_recurrent_scan_is_the_recurrence(name: str, concatenated: bool) -> None:
    algorithm = ALGORITHMS[name]

    def recurrence(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(pj.recurrence(x, p["w_x"], p["w_h"], p["b"]) @ p["out"], y, strength=5.0)

    with jax.enable_x64(True):
        found, sizes = [], []
        for function in (by_scan(jax.nn.relu, concatenated), recurrence):
            data, settings = (RECURRENT, SEQUENCES, LABEL_OF_EACH_STEP), {"steps": 5, "tolerance": np.inf}
            solve = functools.partial(pj.solve, pj.feasibility(function), algorithm=algorithm, **settings)
            program = jax.jit(lambda *data, solve=solve: solve(*data).change).lower(*data)
            found.append(program.compile()(*data))
            sizes.append(program.as_text().count(" = "))
    for left, right in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.abs(right).max() > 0
        np.testing.assert_array_equal(left, right)
    assert abs(sizes[0] / sizes[1] - 1) <= 0.02


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (by_scan(jnp.tanh), ["recurrence", "sum", "tanh"]),
        (by_scan(jnp.tanh, concatenated=True, biased=False), ["recurrence", "tanh"]),
        (by_scan(lambda total: total), ["recurrence", "sum"]),
        (by_scan(lambda total: total, biased=False), ["recurrence"]),
        (by_scan(jax.nn.relu, reverse=True), ["recurrence", "sum_relu"]),
        (by_scan(lambda total: jax.nn.relu(total + 1)), ["recurrence", "sum_relu"]),
    ],
)
def test_recurrent_scans_of_any_activation(
    network: Function, expected: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert operations(network, RECURRENT, SEQUENCES, LABEL_OF_EACH_STEP)[: len(expected)] == expected
    assert not recwarn.list
    problem, arguments = pj.feasibility(network), (RECURRENT, SEQUENCES, LABEL_OF_EACH_STEP)

    def moved_by(strength: float) -> list[float]:
        solution = pj.solve(
            problem, *arguments, np.asarray(strength), algorithm=pj.alternating_projections(), steps=5, tolerance=np.inf
        )
        return [np.abs(change).max() for change in jax.tree.leaves(solution.change)]

    assert min(moved_by(5.0)) > 0
    # The first state is what the network computes: where the loss asks for little, nothing moves.
    assert max(moved_by(1e-7)) < 1e-5


def test_loops_of_python_are_told_of_scan() -> None:
    def network(p: Any, x: Any, y: Any) -> Any:
        h = jnp.zeros((5, 4))
        for rows in jnp.swapaxes(x, 0, 1):
            h = jnp.tanh(rows @ p["w_x"] + h @ p["w_h"] + p["b"])
        return pj.cross_entropy(h @ p["out"], y)

    with pytest.warns(UserWarning, match=r"params\['w_[hx]'\] is used in 9 products.*lax.scan") as caught:
        operations(network, RECURRENT, np.tile(SEQUENCES, (1, 2, 1))[:, :9], LABEL_OF_EACH_STEP[:, 0])
    assert len(caught) == 1


def test_what_looks_at_values_is_left_out_with_a_warning() -> None:
    def function(p: Any, x: Any, y: Any) -> Any:
        h = jnp.tanh(x @ p)
        jax.debug.print("{h}", h=h)
        jax.debug.callback(print, h)
        return pj.squared_error(h, y)

    params, x, y = np.ones((3, 2), np.float32), np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    with pytest.warns(UserWarning, match=r"test_front_end.py.*not printed; print in the function") as caught:
        value = pj.value_and_direction(pj.feasibility(function), params, x, y)[0]
    assert len(caught) == 2
    np.testing.assert_allclose(value, (1 - np.tanh(3)) ** 2, rtol=1e-4)


def test_masks_in_data_select_and_objects_are_told_what_to_pass() -> None:
    def masked(p: Any, x: Any, y: Any, mask: Any) -> Any:
        return pj.squared_error(jnp.where(mask, x, 0) @ p["w"], y)

    class Object:
        def __repr__(self) -> str:
            return "its content"

    params, algorithm = {"w": PARAMS["w0"][:, :3]}, pj.alternating_projections()
    with pytest.raises(TypeError, match=r"data\[2\] is of type Object.*register_dataclass") as caught:
        pj.solve(pj.feasibility(masked), params, X, LABELS, Object(), algorithm=algorithm, steps=1)
    assert "its content" not in str(caught.value)

    def dropped(p: Any, x: Any, y: Any, mask: Any, key: Any) -> Any:
        return masked(p, jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0), y, mask != 0)

    found = [changes(dropped, params, X, LABELS, X > 0, jax.random.key(seed))["w"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.linalg.norm(found[0] - found[2]) > 0


WHOLE = np.array([[1, 0, 2], [0, 3, -1], [1, 1, 1], [2, 0, 0]])
OF_NUMBERS: dict[str, tuple[Function, Any, np.ndarray]] = {
    "integers": (lambda x: x, WHOLE, np.ones((4, 2))),
    "bytes": (lambda x: x + x, WHOLE.astype(np.uint8) * 50, np.ones((4, 2))),
    "truths": (lambda x: x > 0, WHOLE, np.ones((4, 2))),
    "masks": (lambda x: jnp.where(x, 1.5, -0.5), WHOLE > 0, np.ones((4, 2))),
    "cut": (lambda x: (3 * x).astype(int), WHOLE / 7, np.ones((4, 2))),
    "rounded truths": (lambda x: jnp.round(x).astype(bool), WHOLE / 3, np.ones((4, 2))),
    "an integer target": (lambda x: x, WHOLE / 3, WHOLE[:, :2]),
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_integers_and_truths_of_data_are_numbers_as_in_jax(name: str) -> None:
    """And a cast to integers is none of precision, which operations choose for themselves."""
    of_data, x, target = OF_NUMBERS[name]
    w = np.float32(np.random.default_rng(3).normal(size=(3, 2)))
    x = np.float32(x) if x.dtype == float else x
    for product in (jnp.matmul, lambda x, w: jnp.einsum("bi,io->bo", x, w)):
        problem = pj.feasibility(lambda w, x, t: pj.squared_error(product(of_data(x), w), t))  # noqa: B023
        value, direction = pj.value_and_direction(problem, w, x, target)
        expected, gradient = jax.value_and_grad(lambda w: jnp.mean((product(of_data(x), w) - target) ** 2))(w)  # noqa: B023
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.vdot(direction, gradient) > 0.9 * np.linalg.norm(direction) * np.linalg.norm(gradient)


def test_what_else_a_function_returns_comes_beside_the_value() -> None:
    """As of ``jax.value_and_grad``; the projections are those without it."""

    def with_aux(p: Any, x: Any, y: Any) -> Any:
        logits = x @ p["w0"] @ p["w1"]
        return pj.cross_entropy(logits, y), {"logits": logits, "right": logits.argmax(-1) == y.argmax(-1)}

    params = {name: PARAMS[name] for name in ("w0", "w1")}
    problem, plain = pj.feasibility(with_aux, has_aux=True), pj.feasibility(lambda *arguments: with_aux(*arguments)[0])
    (value, aux), direction = jax.jit(functools.partial(pj.value_and_direction, problem))(params, X, LABELS)
    expected_value, expected = pj.value_and_direction(plain, params, X, LABELS)
    assert float(value) == float(expected_value)
    jax.tree.map(np.testing.assert_array_equal, direction, expected)
    np.testing.assert_allclose(aux["logits"], X @ params["w0"] @ params["w1"], rtol=1e-5, atol=1e-5)
    assert aux["right"].dtype == bool
    solved = [
        pj.solve(each, params, X, LABELS, algorithm=pj.alternating_projections(), steps=2) for each in (problem, plain)
    ]
    jax.tree.map(np.testing.assert_array_equal, *(solution.change for solution in solved))
    with pytest.raises(ValueError, match="cross_entropy, float32.*has_aux=True"):
        pj.direction(pj.feasibility(with_aux), params, X, LABELS)
    with pytest.raises(TypeError, match="has_aux=True the function must return a pair"):
        pj.direction(pj.feasibility(lambda *a: with_aux(*a)[0], has_aux=True), params, X, LABELS)


def test_weights_of_classes_may_be_arrays_and_data() -> None:
    w, numbers, weights = PARAMS["w0"][:, :3], np.array([0, 2, 1, -1] * 9)[: len(X)], [1.0, 0.5, 4.0]

    def found(function: Function, *data: Any) -> Any:
        return pj.value_and_direction(pj.feasibility(function), w, X, *data)

    for labels in (numbers, np.float32(jax.nn.one_hot(numbers, 3))):
        known = found(lambda w, x: pj.cross_entropy(x @ w, labels, class_weights=weights))  # noqa: B023
        inside = found(lambda w, x: pj.cross_entropy(x @ w, labels, class_weights=jnp.asarray(weights)))  # noqa: B023
        given = found(lambda w, x, c: pj.cross_entropy(x @ w, labels, class_weights=c), np.float32(weights))  # noqa: B023
        for other in (inside, given):
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other, known)
    with pytest.raises(ValueError, match=r"class_weights have shape \(2,\)"):
        found(lambda w, x: pj.cross_entropy(x @ w, numbers, class_weights=[1.0, 2.0]))


def test_open_batch_sizes() -> None:
    """FOUND 9."""
    from jax import export

    def network(x: Any) -> Any:
        return pj.quantize(jnp.tanh(x @ PARAMS["w0"] + PARAMS["b0"]), 3)

    shape = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), jnp.float32)
    exported = export.export(jax.jit(network), disabled_checks=[export.DisabledSafetyCheck.custom_call("x")])(shape)
    np.testing.assert_allclose(exported.call(X), network(X), rtol=1e-6)


def test_weights_with_outputs_first_are_read_as_they_are() -> None:
    """As Equinox keeps them: their transposes become part of the product, and one of results cancels."""

    def graph_of(function: Function) -> Graph:
        return trace(function, {"w": np.ones((3, 8), np.float32)}, (X, LABELS))

    graph = graph_of(lambda p, x, y: pj.cross_entropy(jax.vmap(lambda row: p["w"] @ row)(x), y))
    product, loss = (node for node in graph.nodes if isinstance(node, Operation))
    assert product.slots[0].steps == ()
    assert loss.slots[0].steps == ()
    assert product.slots[1].steps == ()


def test_products_read_and_give_axes_as_they_are_stored() -> None:
    def function(p: Any, x: Any, y: Any, einsum: Function = jnp.einsum) -> Any:
        outer = einsum("ii,kj->ijk", p["s"], einsum("aij,ij->ai", p["u"], x))
        return pj.margin_loss(jax.nn.relu(outer)[:, 1], y)

    params = {"u": NORMAL(size=(3, 2, 8)).astype(np.float32), "s": NORMAL(size=(3, 3)).astype(np.float32)}
    graph = trace(function, params, (X[:2], LABELS[:3]))
    steps = {step.name for node in graph.operations for slot in node.slots for step in slot.steps}
    assert steps == {"select_n", "reduce_sum", "slice", "squeeze"}

    def one_constraint(equation: str, a: Any, b: Any) -> Any:
        return operation(primitives.einsum, a, b, equation=equation)

    expected = changes(functools.partial(function, einsum=one_constraint), params, X[:2], LABELS[:3])
    assert_same(changes(function, params, X[:2], LABELS[:3]), expected)


@pytest.mark.parametrize(
    ("algorithm", "transposed"),
    [
        ("AP", ("w0",)),
        ("AP in turn", ("w0", "w1")),
        ("CP", ("w0", "w1")),
        ("DR dense", ("w0", "w1")),
        ("DR factored", ("w0",)),
    ],
)
def test_weights_with_outputs_first_learn_the_same(algorithm: str, transposed: tuple[str, ...]) -> None:
    assert_same_by(f"solve by {algorithm}", transposed)


@pytest.mark.parametrize("transposed", [("w0",), ("w0", "w1")], ids=" and ".join)
def test_weights_with_outputs_first_have_the_same_directions(transposed: tuple[str, ...]) -> None:
    assert_same_by("direction", transposed)


def assert_same_by(way: str, transposed: tuple[str, ...]) -> None:
    expected, found = found_by(way, ()), found_by(way, transposed)
    for name, change in expected.items():
        assert np.linalg.norm(change) > 0
        np.testing.assert_allclose(found[name], change, rtol=1e-9, atol=1e-13 * np.abs(change).max())


@functools.cache
def found_by(way: str, transposed: tuple[str, ...]) -> dict[str, Any]:
    """What becomes of weights of which these are stored with outputs first, with inputs first."""

    def turned(p: Any) -> Any:
        return {k: v.T if k in transposed else v for k, v in p.items()}

    problem = pj.feasibility(lambda p, x, y: with_activation(jax.nn.relu)(turned(p), x, y))
    with jax.enable_x64(True):
        params = turned(jax.tree.map(np.float64, PARAMS))
        if way == "direction":
            return turned(jax.device_get(pj.direction(problem, params, X, LABELS)))
        algorithm = ALGORITHMS[way.removeprefix("solve by ")]
        solution = pj.solve(problem, params, X, LABELS, algorithm=algorithm, steps=5, tolerance=np.inf)
        return turned(jax.device_get(solution.change))


@pytest.mark.parametrize(
    ("scaled", "strengths"),
    [
        (lambda a, b: 0.5 * a, [0.5]),
        (lambda a, b: a / 4, [0.25]),
        (lambda a, b: 3 * (a + 0.5 * b), [3, 3]),
        (lambda a, b: jnp.mean(jnp.stack([a, b])), [0.5, 1]),
        (lambda a, b: {"a": a + 0.5 * a, "b": b}, [1, 0.5, 2]),
    ],
)
def test_a_factor_of_a_loss_is_one_of_its_strength(scaled: Function, strengths: list[float]) -> None:
    def function(p: Any, x: Any, y: Any) -> Any:
        out = x @ p["w0"] @ p["w1"] + p["b0"][:3]
        return scaled(pj.cross_entropy(out, y, strength=1.0), pj.squared_error(out, y, strength=2.0))

    graph = trace(function, PARAMS, (X, LABELS))
    assert [
        node.settings["strength"] for node in graph.nodes if "strength" in getattr(node, "settings", {})
    ] == strengths


def of_probabilities(out: Any, y: Any) -> Any:
    p = jax.nn.sigmoid(out)
    return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


@pytest.mark.parametrize(
    ("loss", "constraint"),
    [
        (lambda out, y: jnp.mean((out - y) ** 2), "squared_error"),
        (lambda out, y: jnp.sum(jnp.square(y - out)) / 6, "squared_error"),
        (lambda out, y: optax.l2_loss(out, y).sum(), "squared_error"),
        (lambda out, y: jax.jit(lambda error: error * error)(out - y).mean(), "squared_error"),
        (lambda out, y: jnp.abs(out - y).mean(), "absolute_error"),
        (lambda out, y: optax.softmax_cross_entropy(out, y).mean(), r"cross_entropy\(logits, labels\)"),
        (
            lambda out, y: optax.softmax_cross_entropy_with_integer_labels(out, CLASSES).mean(),
            r"cross_entropy\(logits, labels\)",
        ),
        (lambda out, y: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(out), -1)), r"cross_entropy\(logits, labels\)"),
        (lambda out, y: -jnp.mean(jax.nn.log_softmax(out)[jnp.arange(6), CLASSES]), r"cross_entropy\(logits, labels\)"),
        (lambda out, y: -jnp.mean(y * jnp.log(jax.nn.softmax(out))), r"cross_entropy\(logits, labels\)"),
        (lambda out, y: optax.sigmoid_binary_cross_entropy(out, y).mean(), r"cross_entropy\(jnp.stack"),
        (of_probabilities, r"cross_entropy\(jnp.stack"),
        (lambda out, y: optax.hinge_loss(out, 2 * y - 1).mean(), "margin_loss"),
        (jax.jit(lambda out, y: optax.sigmoid_binary_cross_entropy(out, y).mean()), r"cross_entropy\(jnp.stack"),
        (lambda out, y: optax.log_cosh(out, y).mean(), "absolute_error.*squared_error where errors are small"),
        (lambda out, y: jnp.log(jnp.cosh(out - y)).mean(), "absolute_error"),
        (lambda out, y: optax.cosine_distance(out, y).mean(), r"squared_error\(h / jnp.linalg.norm.*cosine"),
        (lambda out, y: jnp.linalg.norm(out - y), r"squared_error\(prediction, target"),
        (lambda out, y: jnp.cos(out), "such as pj.cross_entropy"),
        (lambda out, y: {"a": pj.squared_error(out, y), "b": jnp.mean((out - y) ** 2)}, "squared_error"),
    ],
)
def test_ordinary_losses_name_the_line_and_the_constraint(loss: Function, constraint: str) -> None:
    problem = pj.feasibility(lambda p, x, y: loss(logits(p, x), y))
    message = rf"^test_front_end.py, line \d+ \(.*\): .*must return an output constraint, .*{constraint}"
    with pytest.raises(ValueError, match=message):
        pj.solve(problem, PARAMS, X, LABELS, algorithm=pj.alternating_projections(), steps=1)


OF_A_PROX = pj.output("of a prox", loss=lambda h, y: jnp.sum((h - y) ** 2), prox=lambda h, y: (h + y) / 2)


def logits(p: Any, x: Any) -> Any:
    return x @ p["w0"] @ p["w1"] + p["b0"][:3]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda p, x, y: jnp.mean((logits(p, x) - 1) ** 2),
            ValueError,
            "must return an output constraint.*squared_error",
        ),
        (lambda p, x, y: -0.5 * pj.cross_entropy(logits(p, x), y), ValueError, "line .*a positive number times one"),
        (
            lambda p, x, y: (OF_A_PROX(logits(p, x), y) + pj.cross_entropy(logits(p, x), y)) / 2,
            ValueError,
            "/ of the output constraint of a prox.*none times one of pj.output that has no strength",
        ),
        (lambda p, x, y: pj.margin_loss(logits(p, x) + pj.margin_loss(logits(p, x), y), y), ValueError, "margin_loss"),
    ],
    ids=["ordinary loss", "scaled loss", "mean without a strength", "loss inside"],
)
def test_errors(function: Function, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        operations(function)


W = {"w": PARAMS["w0"], "v": PARAMS["w1"]}


def with_hidden(function: Function) -> Function:
    return lambda p, x, y: pj.squared_error(function(x @ p["w"]) @ p["v"], y)


def plus(term: Function) -> Function:
    return lambda p, x, y: pj.cross_entropy(x @ p["w"] @ p["v"], y) + term(p, x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (with_hidden(lambda h: jax.scipy.linalg.sqrtm(h @ h.T).real @ h), "schur of values.*no derivative in reverse"),
        (with_hidden(lambda h: jnp.fft.fft(h)), "complex64 .*of fft, is used by what is projected; .*such as .real"),
        (with_hidden(lambda h: h + jnp.argsort(h, 1)), "uses the indices that jnp.sort or argsort .*jnp.where"),
        (with_hidden(lambda h: h * jnp.argmax(h, 1, keepdims=True)), "indices that jnp.argmax .*jax.nn.softmax"),
        (with_hidden(lambda h: h * lax.top_k(h, 4)[1]), "the indices that lax.top_k of values .*jnp.max"),
        (
            with_hidden(lambda h: h.at[:, np.array([0, 2])].max(h[:, :2])),
            "places other than whole rows; write jnp.where",
        ),
        (
            with_hidden(lambda h: h.at[np.array([0, 9])].max(h[:2], mode="clip")),
            "at clipped places, or at places other than whole rows",
        ),
        (with_hidden(lambda h: lax.while_loop(lambda s: s[0, 0] > 1, jnp.tanh, h)), "lax.while_loop.*lax.fori_loop"),
        (
            with_hidden(lambda h: h * (jnp.stack([h > 0, h > 1]).argmax(0))),
            "the number of the first .*jnp.select alone",
        ),
        (
            with_hidden(lambda h: jnp.where(jnp.stack([h > 0, h > 1])[0], h, 0)),
            "side by side, .*jnp.select alone; join",
        ),
        (
            with_hidden(lambda h: jnp.where(jnp.concatenate([h[2:] > 0, h[:2] > 1]), h, 0)),
            "jnp.concatenate of conditio",
        ),
        (with_hidden(lambda h: h * jnp.argmax(h > 0, 1, keepdims=True)), r"truth values .*joined by &, \|"),
        (with_hidden(lambda h: h * jnp.sum(h > h[::-1])), r"a condition .*count by astype\(float\)"),
        (with_hidden(lambda h: h.at[np.array([0, 0])].multiply(h[:2])), "at indices that may repeat; pass unique_ind"),
        (
            plus(lambda p, x: 1e-4 * sum(jnp.sum(w**2) for w in p.values())),
            r"params\['v'\], params\['w'\] .*squared_er",
        ),
        (
            plus(lambda p, x: jnp.linalg.norm(p["w"])),
            r"a penalty of parameters w is 1e-3 \* pj.squared_error\(w, .*pj.within",
        ),
        (
            plus(lambda p, x: jnp.mean(jnp.abs(x @ p["w"]))),
            "each summand must be an output constraint: a number times pj.squared_e",
        ),
        (lambda p, x, y: pj.cross_entropy(x @ p["w"] @ p["v"], x[:, :3] @ p["v"].T[:, :3]), "labels come from"),
    ],
)
def test_refusals_name_the_line_and_what_to_do(function: Function, message: str) -> None:
    with pytest.raises((NotImplementedError, ValueError), match=rf"^test_front_end.py, line \d+ .*{message}"):
        operations(function, W)


CHOICES = {
    "sort": (lambda x: jnp.sort(x), [(4,)]),
    "sort rows": (lambda x: jnp.sort(x, axis=0, descending=True), [(2, 2)]),
    "top_k": (lambda x: lax.top_k(x, 2)[0], [(3,)]),
    "where": (lambda h, a, b: jnp.where(h > 0, a, b), [(3,)] * 3),
    "where not": (lambda h, a, b: jnp.where(h >= 0, a, b), [(3,)] * 3),
    "where below": (lambda h, a, b: jnp.where(h < 0, a, b), [(3,)] * 3),
    "segment_sum": (lambda x: jax.ops.segment_sum(x, np.array([0, 2, 9, 0]), 3), [(4,)]),
    "argmax": (lambda s, x: x[jnp.argmax(s)], [(3,), (3, 1)]),
    "third": (lambda s, x: x[lax.top_k(s, 4)[1][2]], [(4,), (4, 1)]),
    "smallest but one": (lambda s, x: x[jnp.arange(2), jnp.argsort(s, 1, descending=True)[:, 2]], [(2, 4), (2, 4)]),
    "cond": (lambda s, a, b: lax.cond(s[0] > 0, lambda a, b: a, lambda a, b: b, a, b), [(1,)] * 3),
    "powers": (lambda x: x ** np.array([1.0, 2.0, 3.0], np.float32), [(3,)]),
    "one hot": (lambda x: jax.nn.one_hot(jnp.argmax(x, 1), 2), [(2, 2)]),
    "add at": (lambda x: jnp.zeros((2, 2)).at[:, np.array([1, 1])].add(x), [(2, 2)]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_projections_of_choices(name: str) -> None:
    operation, shapes = CHOICES[name]
    for seed, scale in enumerate((0.1, 2.0)):
        generator = np.random.default_rng(seed)
        pj.check_projection(operation, [scale * generator.normal(size=shape) for shape in shapes], seed=seed)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_sorting_by_the_largest_or_by_all_bounds(count: int) -> None:
    """Of one, the maximum; of all, monotone regression by its formula, the largest of the smallest means."""
    with jax.enable_x64(True):
        x, residual = NORMAL(size=(5, 40)), NORMAL(size=(5, count))
        ranked = -np.sort(-x)
        project = jax.jit(lambda x, z: primitives.largest.project((x,), z, None, count=count))
        (change,), z_change = project(x, ranked[:, :count] + residual)
        if count == 1:
            expected = pk.project_max(x, ranked[:, 0] + residual[:, 0], axis=-1, increments=True)[0]
            np.testing.assert_allclose(change, expected, atol=1e-12)
        weights = np.where(np.arange(40) < count, 2.0, 1.0)
        wanted = ranked + np.pad(residual / 2, ((0, 0), (0, 40 - count)))
        for row in range(5):
            means = [
                [
                    np.average(wanted[row, i : j + 1], weights=weights[i : j + 1]) if i <= j else np.nan
                    for j in range(40)
                ]
                for i in range(40)
            ]
            nearest = [np.nanmin([np.nanmax(means[i][k:]) for i in range(k + 1)]) for k in range(40)]
            np.testing.assert_allclose(-np.sort(-(x + change)[row]), nearest, atol=1e-12)
            np.testing.assert_allclose((ranked[:, :count] + residual + z_change)[row], nearest[:count], atol=1e-12)


CHOOSING = {
    "one of them": lambda h: h * jax.nn.one_hot(jnp.argmax(h, 1), 4) + jnp.eye(4)[jnp.argmax(h[::-1], 1)],
    "sorted": lambda h: jnp.sort(h, axis=-1)[:, ::2].repeat(2, axis=1),
    "largest": lambda h: jnp.tile(lax.top_k(h, 2)[0], (1, 2)),
    "where": lambda h: jnp.where(h > h.mean(1, keepdims=True), h, 0.1 * h[::-1]),
    "products": lambda h: jnp.cumprod(h, 1) + jnp.prod(h, 1, keepdims=True),
    "by rank": lambda h: h * jax.nn.one_hot(lax.top_k(h, 2)[1], 4).sum(1) + h[jnp.argsort(h[:, 1])],
    "branches": lambda h: (
        jax.vmap(lambda r: lax.cond(r[0] > 0, jnp.tanh, lambda r: 0.5 * r, r))(h)
        + lax.switch(jnp.argmax(h[0, :3]), [jnp.abs, jnp.sin, lambda h: h], h)
    ),
    "at places": lambda h: (
        jax.ops.segment_max(h, jnp.array([0, 2, 1, 0, 2, 1]), 3).repeat(2, 0)
        + jnp.asarray(h).at[jnp.array([0, 1, 1, 3])].min(h[2:])
    ),
    "pools": lambda h: (
        lax.reduce_window(h, jnp.inf, lax.min, (1, 2), (1, 1), "SAME")
        + lax.reduce_window(h, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME", window_dilation=(1, 2))
        + lax.reduce_window(h, 0.0, lax.add, (1, 2), (1, 1), "SAME", window_dilation=(1, 3))
    ),
    "other choices": lambda h: (
        jnp.where((h > 0) ^ (h[::-1] > 0), h, 0.1 * h) + jnp.mod(h, 1.0) ** np.float32([1, 2, 1, 3])
    ),
    "selected": lambda h: (
        jnp.select([(h > 0) & (X[:, :4] > 0), h[:, :1] < -1, X[:1, :4] > 1], [h, 0.1 * h, h[::-1]], 0.5)
        + jax.vmap(lambda row: jnp.select([row > 1, row > 0], [row, jnp.tanh(row)], row[::-1]))(h)
    ),
    "equal": lambda h: jnp.where(jax.nn.relu(h) == 0, 0.1 * h, h) + jnp.where(h != jnp.sort(h, 1), h[::-1], h),
    "written": lambda h: jnp.asarray(h).at[:, np.array([0, 2, 2])].set(h[::-1, 1:]),
    "sums": lambda h: jax.ops.segment_sum(h[jnp.array([0, 1, 1, 3, 5])], jnp.array([1, 0, 2, 2, 4]), 6) + h,
}


def test_generalised_mean_pooling_learns() -> None:
    """Powers of which both move: of the features of all places, by an exponent that learns."""

    def network(p: Any, x: Any, y: Any) -> Any:
        features = jax.nn.relu(x @ p["w0"]) + 0.1
        pooled = jnp.power(jnp.mean(features ** p["exponent"], axis=1), 1 / p["exponent"])
        return pj.cross_entropy(pooled @ p["w1"], y)

    normal = np.random.default_rng(0).normal
    params = {"w0": np.float32(normal(size=(8, 4))), "w1": np.float32(normal(size=(4, 3))), "exponent": np.float32(3)}
    images = np.float32(normal(size=(6, 5, 8)))

    @jax.jit
    def results(params: Any, images: Any, labels: Any) -> Any:
        value, direction = pj.value_and_direction(pj.feasibility(network), params, images, labels)
        before, gradient = jax.value_and_grad(network)(params, images, labels)
        after = network(jax.tree.map(lambda p, d: p - 0.1 * d, params, direction), images, labels)
        return value, before, after, direction, gradient

    value, before, after, direction, gradient = results(params, images, LABELS)
    assert float(value) == pytest.approx(float(before), rel=1e-4)
    assert after < 0.97 * before
    for found, wanted in zip(jax.tree.leaves(direction), jax.tree.leaves(gradient), strict=True):
        assert np.vdot(found, wanted) > 0.2 * np.linalg.norm(found) * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("name", "algorithm"), [*((name, "AP") for name in CHOOSING), *((name, "DR dense") for name in list(CHOOSING)[::4])]
)
def test_networks_that_choose_learn(name: str, algorithm: str) -> None:
    network = with_hidden(CHOOSING[name])
    problem = pj.feasibility(network)

    @jax.jit
    def results(params: Any, x: Any, y: Any) -> Any:
        """Of one program: the change, and losses; the direction is traced, but not compiled."""
        solution = pj.solve(problem, params, x, y, algorithm=ALGORITHMS[algorithm], steps=20, tolerance=np.inf)
        of_constraints, _ = pj.value_and_direction(problem, params, x, y)
        return solution.change, of_constraints, network(params, x, y), network(solution.params, x, y)

    change, of_constraints, before, after = results(W, X, LABELS)
    assert all(np.linalg.norm(moved) > 0 for moved in jax.tree.leaves(change))
    assert float(of_constraints) == pytest.approx(float(before), rel=1e-4)
    assert after < 0.9 * before


@pytest.mark.parametrize(
    "pick",
    [
        lambda row: row[lax.clamp(0, jnp.argmax(row), 1)],
        lambda row: lax.dynamic_index_in_dim(row, lax.clamp(0, jnp.argmin(row), 2), keepdims=False),
        lambda row: jax.nn.one_hot(lax.clamp(0, jnp.argmax(row), 1), 4) @ jnp.arange(4.0) * row[0],
        lambda row: lax.switch(jnp.argmax(row), [jnp.sin, jnp.tanh], row[0]),
    ],
    ids=["element", "slice", "one_hot", "branch"],
)
def test_clamped_indices_choose_what_they_do_in_jax(pick: Function) -> None:
    def function(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(jax.vmap(pick)(x @ p["w"]), y, strength=1e3)

    params = {"w": W["w"]}
    computed = jax.vmap(pick)(jnp.matmul(X, params["w"], precision="highest"))
    for apart, holds in ((0.0, True), (1.0, False)):  # where the graph computes the same, its targets move nothing
        assert (np.linalg.norm(changes(function, params, X, computed + apart)["w"]) < 1e-3) == holds


@pytest.mark.parametrize("are_data", [True, False])
@pytest.mark.parametrize(
    "filled",
    [
        lambda m: jnp.where(jnp.isfinite(m), m, 0.5) + jnp.where(m == -jnp.inf, 2, m),
        lambda m: jnp.where(jnp.isinf(m), 0.5, m),
        lambda m: jnp.where(jnp.isneginf(m) | jnp.isinf(2 * m) | jnp.isposinf(m), 0.5, m),
    ],
    ids=["isfinite", "isinf", "isneginf"],
)
def test_places_without_rows_are_infinite(filled: Function, are_data: bool) -> None:
    """The value beside a direction is that of the constraints, not of the function as it is written."""
    places = np.array([0, 2, 2, 0, 4, 4])

    def function(p: Any, x: Any, y: Any, *given: Any) -> Any:
        m = jax.ops.segment_max(x @ p["w"], given[0] if are_data else places, 6)
        return pj.squared_error(filled(m) @ p["v"], y)

    data = (X, LABELS, places) if are_data else (X, LABELS)
    value = jax.jit(lambda *data: pj.value_and_direction(pj.feasibility(function), W, *data)[0])(*data)
    assert float(value) == pytest.approx(float(function(W, *data)), rel=1e-5)


def conv(x: Any, w: Any, layout: tuple[str, str, str], rank: int, **settings: Any) -> Any:
    return lax.conv_general_dilated(x, w, (1,) * rank, "SAME", dimension_numbers=layout, **settings)


@pytest.mark.parametrize(
    ("images", "filters", "layout", "settings"),
    [
        ((2, 6, 5, 3), (3, 3, 3, 4), ("NHWC", "HWIO", "NHWC"), {}),
        ((2, 3, 6, 5), (4, 3, 3, 3), ("NCHW", "OIHW", "NCHW"), {}),
        ((2, 9, 3), (3, 3, 4), ("NHC", "HIO", "NHC"), {}),
        ((2, 4, 3, 4, 3), (2, 2, 2, 3, 4), ("NDHWC", "DHWIO", "NDHWC"), {}),
        ((2, 6, 5, 3), (3, 3, 3, 4), ("NHWC", "HWIO", "NHWC"), {"rhs_dilation": (2, 1)}),
        ((2, 6, 5, 4), (3, 3, 1, 4), ("NHWC", "HWIO", "NHWC"), {"feature_group_count": 4}),
    ],
    ids=["channels last", "channels first", "one dimension", "three dimensions", "dilated", "depthwise"],
)
def test_convolutions(images: Any, filters: Any, layout: Any, settings: Any, generator: np.random.Generator) -> None:
    """Towards filters near those at the start, of which the outputs are known."""

    def function(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(conv(x, p, layout, len(images) - 2, **settings), y)

    p, x, change = (generator.normal(size=shape).astype(np.float32) for shape in (filters, images, filters))
    y = np.asarray(conv(x, p + 0.1 * change, layout, len(images) - 2, **settings))
    solution = pj.solve(pj.feasibility(function), p, x, y, algorithm=pj.alternating_projections(), steps=20)
    assert float(function(solution.params, x, y)) < 0.5 * float(function(p, x, y))


def test_flax_and_equinox() -> None:
    nn, eqx = pytest.importorskip("flax.linen"), pytest.importorskip("equinox")
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    params = module.init(jax.random.key(0), X)
    expected = ["matmul", "sum_relu", "matmul", "sum", "cross_entropy"]
    assert operations(lambda p, x, y: pj.cross_entropy(module.apply(p, x), y), params) == expected
    network = eqx.nn.MLP(8, 3, 4, 1, key=jax.random.key(0))
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)
    assert operations(lambda p, x, y: pj.cross_entropy(jax.vmap(eqx.combine(p, rest))(x), y), arrays) == expected
