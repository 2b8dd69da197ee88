"""The ReLU network that the steps of all contenders train, and these: SGD, pjax, and projections with stored copies.

No bias at the logits, cross-entropy, float32, random data. A step is a function state -> state; the data are part of
the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import pjax_core as pj
from benchmarks.measure import naive
from benchmarks.measure.timing import Step

Params = dict[str, list[Array]]

STRENGTH = 5.0


def network(params: Params, x: Array) -> Array:
    """Logits; on plain arrays the operations of pjax simply compute."""
    h = x
    for w, b in zip(params["weights"][:-1], params["biases"], strict=True):
        h = jax.nn.relu(h @ w + b)
    return h @ params["weights"][-1]


def constraint(params: Params, x: Array, y: Array) -> Any:
    """The output constraint of pjax."""
    return pj.cross_entropy(network(params, x), y, strength=STRENGTH)


def random_problem(sizes: list[int], batch: int) -> tuple[Params, Array, Array]:
    """He initialisation, inputs in [0, 1], random one-hot labels; float32."""
    generator = np.random.default_rng(0)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    weights = [generator.normal(size=shape) * np.sqrt(2 / shape[0]) for shape in shapes]
    biases = [generator.normal(size=size) * 0.1 for size in sizes[1:-1]]
    params = {"weights": weights, "biases": biases}
    x = generator.uniform(size=(batch, sizes[0]))
    y = np.eye(sizes[-1])[generator.integers(sizes[-1], size=batch)]
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x, y))


def sgd(params: Params, x: Array, y: Array) -> tuple[Step, Any]:
    """A step of optax.sgd on the mean softmax cross-entropy, and its first state."""
    optimizer = optax.sgd(0.01)

    def loss(params: Params, x: Array, y: Array) -> Array:
        h = x
        for w, b in zip(params["weights"][:-1], params["biases"], strict=True):
            h = jax.nn.relu(h @ w + b)
        return jnp.mean(optax.softmax_cross_entropy(h @ params["weights"][-1], y))

    def step(state: Any) -> Any:
        params, optimizer_state, x, y = state
        gradient = jax.grad(loss)(params, x, y)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, x, y

    return step, (params, optimizer.init(params), x, y)


def pjax(params: Params, x: Array, y: Array, algorithm: pj.Algorithm) -> tuple[Step, Any]:
    """A step of pjax, and its first state."""
    problem = pj.feasibility(constraint)
    return lambda state: algorithm.step(problem, state), algorithm.init(problem, params, x, y)


def stored_copies(params: Params, x: Array, y: Array, iterate: Callable[..., naive.State]) -> tuple[Step, Any]:
    """A step with every copy stored, and its first state."""

    def step(state: Any) -> Any:
        copies, x, y = state
        return iterate(copies, x, y, naive.cross_entropy), x, y

    return step, (naive.init(params["weights"], params["biases"], x), x, y)
