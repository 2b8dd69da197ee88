"""Operations compute on plain arrays, and so does the graph that they are traced to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.graph.nodes import Constant, Operation, Parameter, ordered
from pjax_core.graph.rewrite import rewritten
from pjax_core.operations import primitives
from pjax_core.trace.jaxpr import trace, values_of
from pjax_core.trace.operations import operation_node, slot_of

Arrays = list[Any]


@dataclass(frozen=True)
class Case:
    """An operation on arrays of some shapes, and what NumPy computes there."""

    operation: Callable[..., Any]
    expected: Callable[..., Any]
    shapes: list[tuple[int, ...]]


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def correlate(x: Any, w: Any) -> Any:
    """Convolution without flipping, one entry of the filters after the other."""
    height, width = x.shape[1] - w.shape[0] + 1, x.shape[2] - w.shape[1] + 1
    return sum(x[:, i : i + height, j : j + width] @ w[i, j] for i in range(w.shape[0]) for j in range(w.shape[1]))


def recur(x: Any, w_x: Any, w_h: Any, b: Any, h: Any) -> Any:
    states = []
    for step in range(x.shape[1]):
        h = relu(x[:, step] @ w_x + h @ w_h + b)
        states.append(h)
    return np.stack(states, axis=1)


CASES = {
    "matmul": Case(pj.matmul, np.matmul, [(5, 4), (4, 3)]),
    "matmul, leading axes": Case(pj.matmul, np.matmul, [(2, 3, 5, 4), (4, 3)]),
    "matmul, vector x": Case(pj.matmul, np.matmul, [(4,), (4, 3)]),
    "matmul, vector w": Case(pj.matmul, np.matmul, [(5, 4), (4,)]),
    "matmul, vector w, leading axes": Case(pj.matmul, np.matmul, [(2, 5, 4), (4,)]),
    "matmul, vectors": Case(pj.matmul, np.matmul, [(4,), (4,)]),
    "@": Case(lambda a, b: a @ b, np.matmul, [(5, 4), (4, 3)]),
    "dot": Case(pj.dot, np.dot, [(4,), (4,)]),
    "dot, matrices": Case(pj.dot, np.dot, [(5, 4), (4, 3)]),
    "add": Case(pj.add, lambda a, b, c: a + b + c, [(5, 3), (3,), (5, 1)]),
    "add, one operand": Case(pj.add, lambda a: a, [(5, 3)]),
    "add, number": Case(lambda a: pj.add(a, 2.5), lambda a: a + 2.5, [(5, 3)]),
    "+": Case(lambda a, b: a + b, np.add, [(5, 3), (5, 1)]),
    "+, number": Case(lambda a: 2.5 + a + 0.5, lambda a: a + 3, [(5, 3)]),
    "sum_relu": Case(pj.sum_relu, lambda a, b, c: relu(a + b + c), [(2, 5, 3), (3,), (5, 1)]),
    "sum_relu, scalars": Case(pj.sum_relu, lambda a, b: relu(a + b), [(), ()]),
    "relu": Case(pj.relu, relu, [(2, 5, 3)]),
    "reshape": Case(lambda a: pj.reshape(a, (4, -1)), lambda a: a.reshape(4, -1), [(2, 6)]),
    "reshape, one axis": Case(lambda a: pj.reshape(a, -1), np.ravel, [(2, 6)]),
    ".reshape": Case(lambda a: a.reshape(3, 4), lambda a: a.reshape(3, 4), [(2, 6)]),
    ".reshape, tuple": Case(lambda a: a.reshape((3, -1)), lambda a: a.reshape(3, 4), [(2, 6)]),
    "transpose": Case(pj.transpose, np.transpose, [(2, 6, 3)]),
    "transpose, axes": Case(lambda a: pj.transpose(a, (1, 0, 2)), lambda a: a.transpose(1, 0, 2), [(2, 6, 3)]),
    ".T": Case(lambda a: a.T, np.transpose, [(2, 6)]),
    "concatenate": Case(
        lambda *a: pj.concatenate(a, axis=1), lambda *a: np.concatenate(a, axis=1), [(2, 6), (2, 1), (2, 3)]
    ),
    "concatenate, first axis": Case(lambda *a: pj.concatenate(a), lambda *a: np.concatenate(a), [(2, 3), (1, 3)]),
    "stack": Case(lambda *a: pj.stack(a), lambda *a: np.stack(a), [(2, 3), (2, 3)]),
    "stack, last axis": Case(
        lambda *a: pj.stack(a, axis=-1), lambda *a: np.stack(a, axis=-1), [(2, 3), (2, 3), (2, 3)]
    ),
    "broadcast_to": Case(lambda a: pj.broadcast_to(a, (4, 2, 3)), lambda a: np.broadcast_to(a, (4, 2, 3)), [(2, 1)]),
    "index": Case(lambda a: pj.index(a, 1), lambda a: a[1], [(3, 4)]),
    "index, slices": Case(lambda a: pj.index(a, (slice(None), slice(3, 0, -2))), lambda a: a[:, 3:0:-2], [(3, 4)]),
    "[] with arrays": Case(
        lambda a: a[np.array([2, 0, 2]), np.array([1, 3, 1])], lambda a: a[[2, 0, 2], [1, 3, 1]], [(3, 4)]
    ),
    "[] with a mask": Case(lambda a: a[:, np.array([True, False, True, True])], lambda a: a[:, [0, 2, 3]], [(3, 4)]),
    "matmul, stacks": Case(pj.matmul, np.matmul, [(2, 1, 5, 4), (3, 4, 2)]),
    "matmul, vector x and a stack": Case(pj.matmul, np.matmul, [(4,), (3, 4, 2)]),
    "einsum": Case(
        lambda a, b: pj.einsum("bqhd,bkhd->bhqk", a, b),
        lambda a, b: np.einsum("bqhd,bkhd->bhqk", a, b),
        [(2, 3, 2, 4), (2, 5, 2, 4)],
    ),
    "einsum, ellipses": Case(
        lambda a, b: pj.einsum("... i j, jk", a, b), lambda a, b: np.einsum("...ij,jk", a, b), [(2, 3, 4), (4, 5)]
    ),
    "einsum, broadcast ellipses": Case(
        lambda a, b: pj.einsum("...i,...i->...", a, b),
        lambda a, b: np.einsum("...i,...i->...", a, b),
        [(2, 3, 4), (3, 4)],
    ),
    "einsum, diagonal and sums": Case(
        lambda a, b: pj.einsum("iij,k->jk", a, b), lambda a, b: np.einsum("iij,k->jk", a, b), [(3, 3, 2), (4,)]
    ),
    "conv2d": Case(pj.conv2d, lambda x, w: correlate(x, w), [(2, 5, 6, 3), (3, 2, 3, 4)]),
    "conv2d, leading axes": Case(
        lambda x, w: pj.conv2d(x, w)[1, 0], lambda x, w: correlate(x[1], w)[0], [(2, 1, 5, 6, 3), (3, 2, 3, 4)]
    ),
    "conv2d, strides and padding": Case(
        lambda x, w: pj.conv2d(x, w, strides=2, padding="SAME"),
        lambda x, w: correlate(np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), w)[:, ::2, ::2],
        [(2, 5, 6, 3), (3, 2, 3, 4)],
    ),
    "max": Case(lambda a: pj.max(a, (0, -1)), lambda a: a.max((0, -1)), [(2, 5, 3)]),
    "max, keepdims": Case(lambda a: pj.max(a, keepdims=True), lambda a: a.max(keepdims=True), [(2, 5, 3)]),
    "maximum": Case(pj.maximum, np.maximum, [(2, 5, 3), (5, 1)]),
    "max_pool": Case(
        lambda x: pj.max_pool(x, 2, padding=((1, 0), (0, 0))),
        lambda x: np.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), constant_values=-9).reshape(2, 3, 2, 2, 2, 3).max((2, 4)),
        [(2, 5, 4, 3)],
    ),
    "sum": Case(lambda a: pj.sum(a, 1), lambda a: a.sum(1), [(2, 5, 3)]),
    "sum, all": Case(lambda a: pj.sum(a), np.sum, [(2, 5, 3)]),
    "sum, keepdims": Case(
        lambda a: pj.sum(a, (0, 2), keepdims=True), lambda a: a.sum((0, 2), keepdims=True), [(2, 5, 3)]
    ),
    "identity": Case(pj.identity, lambda a: a, [(2, 3)]),
    "quantize": Case(
        lambda a: pj.quantize(a, 3, scale=2.0), lambda a: np.clip(2 * np.round(a / 2), -2, 2).astype(a.dtype), [(20, 3)]
    ),
    "threshold": Case(
        lambda x, w: pj.threshold(x, w, margin=1.0), lambda x, w: np.sign(x @ w).astype(x.dtype), [(2, 5, 4), (4, 3)]
    ),
    "recurrence": Case(
        lambda x, u, w, b, h: pj.recurrence(x, u, w, b, h0=h),
        lambda x, u, w, b, h: recur(x, u, w, b, h),
        [(2, 3, 4), (4, 5), (5, 5), (5,), (2, 5)],
    ),
    "recurrence, bare": Case(
        pj.recurrence, lambda x, u, w: recur(x, u, w, 0, np.zeros((2, 5))).astype(x.dtype), [(2, 3, 4), (4, 5), (5, 5)]
    ),
    "swapaxes": Case(lambda a: pj.swapaxes(a, 0, 2), lambda a: np.swapaxes(a, 0, 2), [(2, 5, 3)]),
    "moveaxis": Case(lambda a: pj.moveaxis(a, 0, -1), lambda a: np.moveaxis(a, 0, -1), [(2, 5, 3)]),
    "expand_dims": Case(lambda a: pj.expand_dims(a, (0, 2)), lambda a: np.expand_dims(a, (0, 2)), [(2, 3)]),
    "squeeze": Case(lambda a: pj.squeeze(a, 1), lambda a: np.squeeze(a, 1), [(2, 1, 3, 1)]),
    "split": Case(lambda a: pj.split(a, 3, axis=1)[1], lambda a: np.split(a, 3, axis=1)[1], [(2, 6)]),
    "split, indices": Case(lambda a: pj.split(a, [1, 4], -1)[2], lambda a: np.split(a, [1, 4], -1)[2], [(2, 6)]),
    "repeat": Case(lambda a: pj.repeat(a, [1, 0, 2], axis=0), lambda a: np.repeat(a, [1, 0, 2], axis=0), [(3, 2)]),
    "repeat, flat": Case(lambda a: pj.repeat(a, 2), lambda a: np.repeat(a, 2), [(3, 2)]),
    "pad": Case(
        lambda a: pj.pad(a, ((1, 2), (0, 1)), constant_values=0.5),
        lambda a: np.pad(a, ((1, 2), (0, 1)), constant_values=0.5),
        [(3, 2)],
    ),
    "embedding": Case(lambda a: pj.embedding(a, np.array([[2, 0], [2, 1]])), lambda a: a[[[2, 0], [2, 1]]], [(4, 3)]),
    "[] with None and ...": Case(lambda a: a[..., None, -1], lambda a: a[..., None, -1], [(3, 4)]),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def random_arrays(case: Case, generator: np.random.Generator) -> Arrays:
    return [np.asarray(generator.normal(size=shape), np.float32) for shape in case.shapes]


def traced(function: Callable[..., Any], *arrays: Any) -> Any:
    """What the graph of ``function`` computes from these arrays."""
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    leaves = [Parameter(f"inputs[{i}]", shape, i) for i, shape in enumerate(shapes)]
    (value,) = values_of(function, shapes, leaves)
    nodes = ordered(rewritten([operation_node(primitives.identity, slot_of(value))]))
    known: dict[Any, Any] = {leaf: jnp.asarray(array) for leaf, array in zip(leaves, arrays, strict=True)}
    for node in nodes:
        if isinstance(node, Operation):
            known[node] = node.start(known.__getitem__)
        elif isinstance(node, Constant):
            known[node] = node.value
    return known[nodes[-1]]


def test_plain_arrays(case: Case, generator: np.random.Generator) -> None:
    arrays = random_arrays(case, generator)
    expected = case.expected(*arrays)
    for convert in (np.asarray, jnp.asarray):
        result = case.operation(*(convert(array) for array in arrays))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_traced_graphs(case: Case, generator: np.random.Generator) -> None:
    arrays = random_arrays(case, generator)
    found, expected = traced(case.operation, *arrays), case.expected(*arrays)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_under_jit_and_grad(case: Case, generator: np.random.Generator) -> None:
    """On arrays an operation is ordinary JAX."""
    arrays = [jnp.asarray(array) for array in random_arrays(case, generator)]
    np.testing.assert_allclose(jax.jit(case.operation)(*arrays), case.operation(*arrays), rtol=1e-5, atol=1e-6)
    gradient = jax.eval_shape(jax.grad(lambda *a: jnp.sum(case.operation(*a))), *arrays)
    assert gradient.shape == arrays[0].shape


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_traced_dtypes(dtype: Any) -> None:
    x, w = (jnp.ones(shape, dtype) for shape in ((5, 4), (4, 3)))
    assert traced(lambda x, w: jax.nn.relu(x @ w + w[0]), x, w).dtype == dtype


def test_cross_entropy_of_arrays(generator: np.random.Generator, one_hot: Any) -> None:
    logits, labels = generator.normal(size=(6, 4)), one_hot(6, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(probabilities[labels == 1]))
    for strength in (0.5, 5.0):
        found = pj.cross_entropy(logits, labels, strength=strength)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_margin_loss_of_arrays(generator: np.random.Generator, one_hot: Any) -> None:
    logits, labels = generator.normal(size=(2, 3, 4)), 2 * one_hot(6, 4).reshape(2, 3, 4)
    total = 0.0
    for row, wanted in zip(logits.reshape(-1, 4), labels.reshape(-1, 4), strict=True):
        for logit, label in zip(row, wanted, strict=True):
            violation = label - logit if label > 0 else logit
            total += max(violation, 0) ** 2
    assert float(pj.margin_loss(logits, labels)) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("loss", [pj.cross_entropy, pj.margin_loss])
def test_traced_losses_are_constraints(loss: Any) -> None:
    graph = trace(loss, np.ones((5, 3), np.float32), (np.ones((5, 3), np.float32),))
    (node,) = (node for node in graph.nodes if isinstance(node, Operation))
    assert node.primitive.constrains_output


def test_evaluate_computes(generator: np.random.Generator) -> None:
    def network(params: Any, x: Any) -> Any:
        h = pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"])
        return {"logits": h @ params["w0"].T + 1.0, "hidden": h}

    params = {"w0": np.float32(generator.normal(size=(4, 3))), "b0": np.float32(generator.normal(size=3))}
    x = np.float32(generator.normal(size=(5, 4)))
    found = pj.evaluate(network, params, x)
    h = relu(x @ params["w0"] + params["b0"])
    np.testing.assert_allclose(found["hidden"], h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logits"], h @ params["w0"].T + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: pj.quantize(np.ones(2), 1), "levels is 1; pass an integer"),
        (lambda: pj.quantize(np.ones(2), 3, scale=0), "scale is 0; pass a positive"),
        (lambda: pj.threshold(np.ones(2), np.ones((2, 1)), margin=0), "margin is 0; pass a positive"),
        (lambda: pj.threshold(np.ones(2), np.ones((3, 1)), margin=1), r"x has shape \(2,\) and w \(3, 1\); they must"),
        (lambda: pj.recurrence(np.ones((2, 3, 4)), np.ones((4, 5)), np.ones((4, 5))), r"w_h \(4, 5\); pass x"),
        (lambda: pj.recurrence(np.ones((2, 3, 4)), np.ones((4, 5)), np.ones((5, 5)), np.ones(4)), r"b \(4,\); pass x"),
        (lambda: pj.margin_loss(np.ones((5, 4)), np.ones(4)), r"margin_loss: logits have shape \(5, 4\)"),
        (lambda: pj.cross_entropy(np.ones((5, 4)), np.ones((5, 3))), r"labels \(5, 3\); they must agree"),
        (lambda: pj.cross_entropy(1.0, 1.0), "have an axis"),
    ],
)
def test_shapes_that_do_not_fit(function: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function()


def test_names_that_jax_has_are_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="pj.matmul is deprecated.*use x @ w"):
        pj.matmul(np.ones((2, 3)), np.ones((3, 2)))
