"""Functions exported for any batch size agree with those called with one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import pjax_core as pj
import pjax_kernels as pk
from pjax_core.graph.nodes import Operation
from pjax_core.trace.jaxpr import trace

RNG = np.random.default_rng(11)
W0, B0, W1, FILTERS = (np.float32(RNG.normal(size=shape)) for shape in ((8, 12), (12,), (12, 2), (3, 3, 1, 2)))
PARAMS = {"w0": W0, "b0": B0, "w1": W1}


def network(p: Any, x: Any) -> Any:
    return pj.matmul(pj.sum_relu(pj.matmul(x, p["w0"]), p["b0"]), p["w1"])


PROBLEM = pj.feasibility(lambda p, x, y: pj.margin_loss(network(p, x), y))
AP = pj.alternating_projections()
MOVES = {"scale": (1.0, 1.0), "keep": (1.0, 1.0), "gain": (1.0, 1.0)}

FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "network": (lambda x: network(PARAMS, x), [(8,)]),
    "dense": (lambda x, z: pk.project_dense(x, W0, z), [(8,), (12,)]),
    "conv2d": (lambda x, z: pk.project_conv2d(x, FILTERS, z), [(4, 4, 1), (2, 2, 2)]),
    "dense_copies": (
        lambda x, u, v, z: pk.project_dense_copies(x, W0, u, v, z, **MOVES),
        [(8,), (12, 8), (12, 8), (12,)],
    ),
    "dense_factored": (
        lambda x, z: pk.project_dense_factored((x,), (W0,), ((1.0,), (0.5,)), ((0.5,), (1.0,)), z),
        [(8,), (12,)],
    ),
    "recurrence": (
        lambda x, h, z: pk.project_recurrence(x, h, W0, W0[:, :12].T @ W0, z),
        [(3, 8), (3, 12), (3, 12)],
    ),
    "solve": (lambda x, y: pj.solve(PROBLEM, PARAMS, x, jnp.abs(y), algorithm=AP, steps=2).params, [(8,), (2,)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_open_batch_sizes(name: str) -> None:
    """With near roots and with far ones."""
    function, shapes = FUNCTIONS[name]
    (batch,) = export.symbolic_shape("b")
    stored = export.export(jax.jit(function))(*(jax.ShapeDtypeStruct((batch, *s), jnp.float32) for s in shapes))
    for size, far in itertools.product((1, 5), (0.3, 30.0)):
        arrays = [np.float32(far * RNG.normal(size=(size, *shape))) for shape in shapes]
        expected, found = function(*arrays), stored.call(*arrays)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.linalg.norm(left - right) <= 1e-5 * np.linalg.norm(right)


MASK = np.array([True, False, True, True])
KNOTS = np.float32([-1, 0.5, 0, 2])
ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "where a mask": lambda h, x: jnp.where(MASK, h, 0),
    "where data": lambda h, x: jnp.where(x[:, :4] > 0, h, 0.0),
    "where values": lambda h, x: jnp.where(h > h[:, ::-1], h, 0.3),
    "where places": lambda h, x: jnp.where(jnp.arange(h.shape[0])[:, None] % 2 == 0, h, 0.0),
    "where finite": lambda h, x: jnp.where(jnp.isfinite(h), h, 0.0),
    "masked softmax": lambda h, x: jax.nn.softmax(jnp.where(MASK, h, -jnp.inf)),
    "dropout": lambda h, x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), h / 0.5, 0),
    "select": lambda h, x: jnp.select([h > 0.5, h > -0.5], [h, h[:, ::-1]], 0.0),
    "clip": lambda h, x: jnp.clip(h, -1, 1),
    "maximum of a number": lambda h, x: jnp.maximum(h, 0.0),
    "maximum of constants": lambda h, x: jnp.maximum(h, KNOTS),
    "zeros_like": lambda h, x: jnp.concatenate([h[:, :2], jnp.zeros_like(h[:, :2])], 1),
    "ones_like": lambda h, x: h + 2 * jnp.ones_like(h),
    "concatenate": lambda h, x: jnp.concatenate([h[:, :3], jnp.ones((h.shape[0], 1), h.dtype)], 1),
    "pad": lambda h, x: jnp.pad(h, ((1, 0), (0, 1)))[:-1, 1:],
    "one_hot of data": lambda h, x: h * jax.nn.one_hot(jnp.argmax(x[:, :4], 1), 4),
    "one_hot of values": lambda h, x: h + jax.nn.one_hot(jnp.argmax(h, 1), 4),
    "take_along_axis": lambda h, x: h + jnp.take_along_axis(h, jnp.argmax(h, 1, keepdims=True), 1),
    "top_k": lambda h, x: jax.lax.top_k(h, 4)[0],
    "sort the batch": lambda h, x: h + jnp.sort(h, 0),
    "largest of the batch": lambda h, x: h - jnp.max(h, 0),
    "broadcast_to": lambda h, x: h + jnp.broadcast_to(KNOTS, h.shape),
    "numbers of conditions": lambda h, x: (h > 0).astype(h.dtype) + h,
    "cond": lambda h, x: jax.lax.cond(jnp.sum(h) > 0, jnp.tanh, jnp.sin, h),
    "set": lambda h, x: h.at[:, 0].set(0.0),
    "multiply": lambda h, x: h.at[:, 0].multiply(h[:, 1]),
    "cumsum": lambda h, x: jnp.cumsum(h, 1),
    "einsum": lambda h, x: jnp.einsum("bi,bi,bj->bj", h, h, h),
    "triangle": lambda h, x: jnp.triu(jnp.einsum("bi,bj->bij", h, h)).sum(1),
    "scan": lambda h, x: jax.lax.scan(lambda c, r: (c + r, c), jnp.zeros(h.shape[0]), h.T)[1].T,
}
SMALL = {"w0": W0[:, :4], "w1": W1[:4]}


def loss_with(*activations: Callable[..., Any]) -> Callable[..., Any]:
    def loss(p: Any, x: Any, y: Any) -> Any:
        h = x @ p["w0"]
        for activation in activations:
            h = activation(h, x)
        return pj.squared_error(h @ p["w1"], y)

    return loss


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_constants_beside_an_open_batch(name: str) -> None:
    """They become what they are for a batch of known size, and directions are traced: those of some below."""
    loss = loss_with(ACTIVATIONS[name])

    def names_of_operations(size: Any) -> list[str]:
        data = tuple(jax.ShapeDtypeStruct((size, width), jnp.float32) for width in (8, 2))
        if not isinstance(size, int) and not any(name in names for names in COMPOSED.values()):
            jax.eval_shape(functools.partial(pj.direction, pj.feasibility(loss), SMALL), *data)
        return [node.name for node in trace(loss, SMALL, data).nodes if isinstance(node, Operation)]

    (batch,) = export.symbolic_shape("b")
    assert names_of_operations(batch) == names_of_operations(5)


COMPOSED = {
    "selections": ("where a mask", "where data", "pad", "one_hot of values", "where places", "maximum of constants"),
    "counts": ("zeros_like", "multiply", "cumsum", "set", "sort the batch", "largest of the batch"),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_directions_of_open_batches_agree(name: str, generator: np.random.Generator) -> None:
    problem = pj.feasibility(loss_with(*(ACTIVATIONS[activation] for activation in COMPOSED[name])))

    def direction(x: Any, y: Any) -> Any:
        return pj.direction(problem, SMALL, x, y)

    (batch,) = export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((batch, width), jnp.float32) for width in (8, 2)]
    stored = export.export(jax.jit(direction))(*shapes)
    x, y = (np.float32(generator.normal(size=(20, width))) for width in (8, 2))
    for left, right in zip(*(jax.tree.leaves(function(x, y)) for function in (stored.call, direction)), strict=True):
        assert np.linalg.norm(right) > 0
        assert np.linalg.norm(left - right) <= 1e-5 * np.linalg.norm(right)


def test_means_over_an_open_batch_are_quotients(generator: np.random.Generator) -> None:
    """Of the sum and the size, which is one of the data: for a batch of known size the mean is one constraint."""
    problem = pj.feasibility(loss_with(lambda h, x: h - jnp.mean(h, 0)))
    (batch,) = export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((batch, width), jnp.float32) for width in (8, 2)]
    stored = export.export(jax.jit(lambda x, y: pj.direction(problem, SMALL, x, y)))(*shapes)
    x, y = (np.float32(generator.normal(size=(20, width))) for width in (8, 2))
    gradients = jax.grad(lambda p: problem.function(p, x, y))(SMALL)
    for found, gradient in zip(jax.tree.leaves(stored.call(x, y)), jax.tree.leaves(gradients), strict=True):
        assert np.vdot(found, gradient) > 0.5 * np.linalg.norm(found) * np.linalg.norm(gradient)


def of_images(p: Any, x: Any, y: Any) -> Any:
    h = jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pooled = jax.lax.reduce_window(jax.nn.relu(h), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return pj.squared_error(pooled.reshape(h.shape[0], -1), y)


def of_sequences(p: Any, x: Any, y: Any) -> Any:
    return pj.squared_error(pj.recurrence(x[:, :, 0], p["w"][0, 0], p["w"][1, :2, 0])[:, -1], y)


@pytest.mark.parametrize("algorithm", [None, AP, pj.douglas_rachford()], ids=["direction", "AP", "DR"])
@pytest.mark.parametrize(("function", "shape", "width"), [(of_images, (4, 4, 1), 8), (of_sequences, (3, 1, 1), 2)])
def test_open_batches_of_images_and_sequences(function: Any, shape: Any, width: int, algorithm: Any) -> None:
    """Directions, and steps that keep copies within a budget of bytes or factored, are traced."""
    problem, params = pj.feasibility(function), {"w": FILTERS}
    (batch,) = export.symbolic_shape("b")
    data = [jax.ShapeDtypeStruct((batch, *s), jnp.float32) for s in (shape, (width,))]
    if algorithm is None:
        found = jax.eval_shape(functools.partial(pj.direction, problem, params), *data)
    else:
        solve = functools.partial(pj.solve, problem, params, algorithm=algorithm, steps=1, tolerance=np.inf)
        found = jax.eval_shape(lambda *data: solve(*data).change, *data)
    assert found["w"].shape == FILTERS.shape
