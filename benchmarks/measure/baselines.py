"""What each kernel is measured beside: a gradient step of the same operation, or the textbook's stored copies."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.measure import kernel_cases, naive

Call = Callable[..., Any]

RATE = 1e-3
"""Of the steps along gradients."""


def descend(loss: Callable[[list[Array]], Array], inputs: list[Array]) -> list[Array]:
    """The inputs after one step."""
    gradients = jax.grad(loss)(inputs)
    return [(old - RATE * slope).astype(old.dtype) for old, slope in zip(inputs, gradients, strict=True)]


def gradient_step(forward: Call) -> Call:
    """A step along the gradients of half the squared error of ``forward(*inputs)``, a function of inputs and ``z``."""

    def step(*arrays: Array) -> list[Array]:
        *inputs, z = arrays

        def loss(inputs: list[Array]) -> Array:
            return jnp.sum((forward(*inputs) - z) ** 2) / 2

        return descend(loss, inputs)

    return step


# Dot products


def dot_products(a: Array, b: Array) -> Array:
    """Of rows."""
    return jnp.sum(a * b, axis=-1)


def convolve(x: Array, w: Array, padding: str = "VALID") -> Array:
    """Windows of images times filters."""
    return lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def hidden_states(x: Array, w_x: Array, w_h: Array, bias: Array) -> Array:
    """Of a recurrence that starts from zero, at every time step."""

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        h = jax.nn.relu(x @ w_x + h @ w_h + bias)
        return h, h

    start = jnp.zeros((len(x), len(bias)), x.dtype)
    return lax.scan(step, start, x.swapaxes(0, 1))[1].swapaxes(0, 1)


def back_propagation(x: Array, h: Array, w_x: Array, w_h: Array, z: Array) -> list[Array]:
    """A gradient step of the weights, for half the squared error of all hidden states."""
    del h  # computed, one after the other

    def loss(weights: list[Array]) -> Array:
        w_x, w_h = weights
        return jnp.sum((hidden_states(x, w_x, w_h, jnp.zeros(z.shape[-1], z.dtype)) - z) ** 2) / 2

    return descend(loss, [w_x, w_h])


def layer_step(x: Array, _x: Array, w: Array, *others: Array) -> list[Array]:
    """A gradient step of the layer whose copies are factored."""
    return gradient_step(jnp.matmul)(x, w, others[-1])


def copies_of_layer(x: Array, w: Array, u: Array, v: Array, z: Array) -> tuple[Array, ...]:
    """The step of :func:`kernel_cases.layer_with_deviations`, and the means, by the textbook's projection."""
    a, b = x[:, None] - u, w.T[None] - v
    new_a, new_b, new_z = naive.project_dot(a, b, z)
    change_a, change_b = new_a - a, new_b - b
    means = jnp.mean(change_a, axis=1), jnp.mean(change_b, axis=0).T
    return (0.4 * u + 0.6 * change_a, 0.4 * v + 0.6 * change_b, *means, new_z - z)


def copies_of_factors(x: Array, x_1: Array, w: Array, w_1: Array, *others: Array) -> tuple[Array, ...]:
    """Projects the copies that the coefficients of the case stand for, and averages them."""
    u_x, u_w, v_x, v_w = (coefficient[..., None] for coefficient in others[:4])
    z = others[4]
    u = x[:, None] + u_x * x_1[:, None] + u_w * w_1.T
    v = w.T + v_x * x_1[:, None] + v_w * w_1.T
    new_u, new_v, new_z = naive.project_dot(u, v, z)
    return new_u, new_v, jnp.mean(new_u, axis=1), jnp.mean(new_v, axis=0).T, new_z


# The same call for arrays of every shape.
FACTORED_DENSE = partial(kernel_cases.layer_in_factored_form(1, 1, 1, history=1).call, implementation=None)


# Functions of entries, and of windows


def rounded(x: Array) -> Array:
    """The nearest of 4 levels from -1 to 1, with the derivative of the identity."""
    levels = jnp.round((jnp.clip(x, -1, 1) + 1) * 1.5) / 1.5 - 1
    return x + lax.stop_gradient(levels - x)


def sign(x: Array) -> Array:
    """With the derivative of the identity."""
    return x + lax.stop_gradient(jnp.sign(x) - x)


def max_pool(images: Array) -> Array:
    """The maxima of 2 x 2 windows."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def average_pool(images: Array) -> Array:
    """The means of 2 x 2 windows."""
    zero = np.zeros((), images.dtype)
    return lax.reduce_window(images, zero, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4


def normalised(x: Array) -> Array:
    """Layer normalisation without scale and bias."""
    entries = x - jnp.mean(x, axis=-1, keepdims=True)
    return entries * lax.rsqrt(jnp.mean(entries**2, axis=-1, keepdims=True) + 1e-5)


# Losses and sets


def hinge_step(logits: Array, labels: Array) -> list[Array]:
    """Down the squared distance from a margin."""
    signs = jnp.where(labels > 0, -1, 1)
    return descend(lambda x: jnp.sum(jax.nn.relu(signs * x[0] + labels) ** 2), [logits])


def cross_entropy_step(logits: Array, labels: Array) -> list[Array]:
    return descend(lambda x: -jnp.sum(labels * jax.nn.log_softmax(x[0])), [logits])


def error_step(error: Callable[[Array], Array]) -> Call:
    """Down the sum of errors of a prediction."""
    return lambda prediction, target: descend(lambda x: jnp.sum(error(x[0] - target)), [prediction])


def box_step(value: Array) -> list[Array]:
    """Down the squared distance from a box."""
    return descend(lambda x: jnp.sum((x[0] - jnp.clip(x[0], -0.5, 0.5)) ** 2), [value])


def copy(value: Array) -> list[Array]:
    """The least that a projection onto a set must do."""
    return [2 * value]


def gradients(forward: Call) -> dict[str, Call]:
    return {"gradients": gradient_step(forward)}


COPY = {"copy": copy}

BASELINES: Mapping[str, Mapping[str, Call]] = {
    "project_bilinear": gradients(dot_products) | {"naive": naive.project_dot},
    "project_bilinear_map": gradients(kernel_cases.scores),
    "project_bilinear_map_factored": {"gradients": layer_step, "project_dense_factored": FACTORED_DENSE},
    "project_conv2d": gradients(convolve),
    "project_dense": gradients(jnp.matmul),
    "project_dense_copies": {"naive": copies_of_layer},
    "project_dense_factored": {"gradients": layer_step, "naive": copies_of_factors},
    "project_elementwise": gradients(jnp.tanh),
    "project_affine": gradients(lambda x: 2 * x),
    "project_average_pool": gradients(average_pool),
    "project_min": gradients(partial(jnp.min, axis=-1)),
    "project_normalize": gradients(normalised),
    "project_layer": gradients(jnp.matmul),
    "project_max": gradients(partial(jnp.max, axis=-1)),
    "project_max_pool": gradients(max_pool),
    "project_margin": {"gradients": hinge_step},
    "prox_cross_entropy": {"gradients": cross_entropy_step},
    "project_quantize": gradients(rounded),
    "project_recurrence": {"gradients": back_propagation},
    "prox_squared_error": {"gradients": error_step(jnp.square)},
    "prox_absolute_error": {"gradients": error_step(jnp.abs)},
    "project_box": {"gradients": box_step},
    "project_sphere": COPY,
    "project_levels": COPY,
    "project_sparse": COPY,
    "project_one_hot": COPY,
    "project_simplex": COPY,
    "project_orthonormal": COPY,
    "project_sum": gradients(operator.add),
    "project_sum_over": gradients(partial(jnp.sum, axis=-1)),
    "project_sum_relu": gradients(lambda x, bias: jax.nn.relu(x + bias)),
    "project_threshold": gradients(lambda a, b: sign(jnp.sum(a * b, axis=0))),
    "project_threshold_dense": gradients(lambda x, w: sign(x @ w)),
}
"""By kernel; the first of each is what ratios are to. Functions of the arrays of its cases."""
