"""vmap of traced values makes the constraints of a batch, and of arrays computes as jax.vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj

pytestmark = pytest.mark.usefixtures("float64")

Function = Callable[..., Any]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def changes(function: Function, params: Any, *data: Any, algorithm: pj.Algorithm) -> Any:
    """What a few steps add to the parameters, and their last residual."""
    solution = pj.solve(pj.feasibility(function), params, *data, algorithm=algorithm, steps=3)
    moved = jax.tree.map(lambda new, low, old: (new - old) + low, solution.params, solution.params_low, params)
    return moved, solution.info.residual[-1]


AP, DR = pj.alternating_projections(), pj.douglas_rachford(copies="dense")


def assert_same(mapped: Function, batched: Function, params: Any, *data: Any, algorithm: pj.Algorithm = AP) -> None:
    """Both networks move their parameters alike."""
    found, expected = (changes(f, params, *data, algorithm=algorithm) for f in (mapped, batched))
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(right) > 0
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12 * np.linalg.norm(right))


def perceptron(params: Any, x: Any) -> Any:
    h = pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"])
    return pj.matmul(h, params["w1"])


MLP = {"w0": normal(5, 4), "b0": normal(4), "w1": normal(4, 3)}
LABELS = np.eye(3)[[0, 1, 2, 0, 1, 2]]


def test_a_network_over_samples() -> None:
    def mapped(params: Any, x: Any, y: Any) -> Any:
        return pj.margin_loss(pj.vmap(perceptron, in_axes=(None, 1))(params, x), y)

    def batched(params: Any, x: Any, y: Any) -> Any:
        return pj.margin_loss(perceptron(params, x.T), y)

    assert_same(mapped, batched, MLP, normal(5, 6), LABELS)


def test_a_loss_over_samples_and_weights_from_outside() -> None:
    def mapped(params: Any, x: Any, y: Any) -> Any:
        return pj.vmap(lambda x, y: pj.margin_loss(perceptron(params, x), y))(x, y)

    def batched(params: Any, x: Any, y: Any) -> Any:
        return pj.margin_loss(perceptron(params, x), y)

    assert_same(mapped, batched, MLP, normal(6, 5), LABELS, algorithm=DR)


def test_two_axes_and_images() -> None:
    def of_image(params: Any, image: Any) -> Any:
        h = pj.max_pool(pj.conv2d(image[None], params["w0"]), 2, strides=1)
        return pj.matmul(pj.max(h[0], axis=(0, 1)), params["w1"])

    def mapped(params: Any, x: Any, y: Any) -> Any:
        logits = pj.vmap(pj.vmap(of_image, in_axes=(None, 0)), in_axes=(None, 1), out_axes=1)(params, x)
        return pj.margin_loss(logits, y)

    def batched(params: Any, x: Any, y: Any) -> Any:
        h = pj.max_pool(pj.conv2d(x, params["w0"]), 2, strides=1)
        return pj.margin_loss(pj.matmul(pj.max(h, axis=(2, 3)), params["w1"]), y)

    params = {"w0": normal(2, 2, 1, 3), "w1": normal(3, 3)}
    assert_same(mapped, batched, params, normal(2, 3, 4, 4, 1), LABELS.reshape(2, 3, 3))


def test_weights_of_each_element() -> None:
    """An ensemble: the products of a stack of matrices."""

    def mapped(params: Any, x: Any, y: Any) -> Any:
        return pj.margin_loss(pj.vmap(lambda w, b: pj.quantize(x @ w + b, 5), in_axes=0)(params["w"], params["b"]), y)

    def stacked(params: Any, x: Any, y: Any) -> Any:
        products = pj.matmul(x, params["w"]) + pj.expand_dims(params["b"], 1)
        return pj.margin_loss(pj.quantize(products, 5), y)

    params = {"w": normal(2, 5, 3), "b": normal(2, 3)}
    for algorithm in (AP, DR):
        assert_same(mapped, stacked, params, normal(6, 5), np.stack([LABELS, LABELS[::-1]]), algorithm=algorithm)


def test_recurrences_and_embeddings() -> None:
    def of_sequence(params: Any, tokens: Any) -> Any:
        x = pj.embedding(params["table"], tokens)
        return pj.matmul(pj.recurrence(x[None], params["w_x"], params["w_h"], params["b"])[0, -1], params["out"])

    def mapped(params: Any, tokens: Any, y: Any) -> Any:
        return pj.margin_loss(pj.vmap(of_sequence, in_axes=(None, 0))(params, tokens), y)

    def batched(params: Any, tokens: Any, y: Any) -> Any:
        x = pj.embedding(params["table"], tokens)
        h = pj.recurrence(x, params["w_x"], params["w_h"], params["b"])
        return pj.margin_loss(pj.matmul(h[:, -1], params["out"]), y)

    params = {"table": normal(7, 3), "w_x": normal(3, 4), "w_h": normal(4, 4), "b": normal(4), "out": normal(4, 3)}
    tokens = np.random.default_rng(3).integers(6, size=(6, 3))
    # One step at a time, operations have other weights in the means over consumers than all steps at once, so only
    # the network's own computation is compared.
    problems = [pj.feasibility(f) for f in (mapped, batched)]
    for problem in problems:
        solution = pj.solve(problem, params, tokens, LABELS, algorithm=pj.alternating_projections(), steps=2)
        assert np.linalg.norm(solution.params["out"] - params["out"]) > 0
    expected = pj.evaluate(lambda p, t: pj.vmap(of_sequence, in_axes=(None, 0))(p, t), params, tokens)
    for row, sequence in zip(expected, tokens, strict=True):
        np.testing.assert_allclose(row, of_sequence(params, sequence), rtol=1e-12)


def test_arrays_as_jax() -> None:
    x, w = normal(4, 5), normal(5, 3)
    found = pj.vmap(lambda row: {"z": pj.matmul(row, w)}, out_axes=1)(x)
    np.testing.assert_allclose(found["z"], (x @ w).T, rtol=1e-12)


@pytest.mark.parametrize(
    ("in_axes", "message"),
    [((0, 0), "inconsistent sizes"), (None, "at least one non-None value"), ((0,), r"len\(in_axes\)=1, len\(args\)=2")],
)
def test_axes_that_do_not_fit(in_axes: Any, message: str) -> None:
    def network(params: Any, x: Any) -> Any:
        return pj.margin_loss(pj.vmap(lambda p, x: pj.add(p, x), in_axes=in_axes)(params, x), np.ones((3, 3)))

    with pytest.raises(ValueError, match=message):
        pj.solve(pj.feasibility(network), normal(3, 4), normal(4, 3), algorithm=pj.alternating_projections(), steps=1)
