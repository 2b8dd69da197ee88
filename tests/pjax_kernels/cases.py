"""One small call of every public kernel, as a function of its arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import pjax_kernels as pk

FAR = np.array([0.1, 1.0, 60.0])
"""Sizes of residuals: near roots, those in between, and far ones."""


class Case(NamedTuple):
    """``kernel(*arrays, implementation=...)``."""

    kernel: Callable[..., Any]
    arrays: tuple[Any, ...]


def attention(q: Any, k: Any) -> Any:
    """A bilinear map that selects."""
    return q @ k.swapaxes(-1, -2)


def dense_copies(x: Any, w: Any, u: Any, v: Any, z: Any, scale: Any, keep: Any, gain: Any, **options: Any) -> Any:
    """Scalars as arguments."""
    numbers = {name: tuple(pair) for name, pair in (("scale", scale), ("keep", keep), ("gain", gain))}
    return tuple(pk.project_dense_copies(x, w, u, v, z, **numbers, **options))


def dense_factored(x: Any, w: Any, u: Any, v: Any, z: Any, **options: Any) -> Any:
    """Two operands of each kind, with numbers among the coefficients."""
    return pk.project_dense_factored(x, w, ((1.0, u[0]), (u[1],)), ((0.0, 0.5), (v,)), z, **options)


def bilinear_map_factored(x: Any, w: Any, u: Any, v: Any, z: Any, **options: Any) -> Any:
    """One operand of each kind."""
    return pk.project_bilinear_map_factored(attention, (x,), (w,), ((u,), (0.0,)), ((v,), (1.0,)), z, **options)


def quantize(x: Any, z: Any, scale: Any, **options: Any) -> Any:
    """The scale as an argument."""
    return pk.project_quantize(x, z, levels=4, scale=scale, **options)


def cross_entropy(logits: Any, labels: Any, strength: Any, **options: Any) -> Any:
    """The strength as an argument."""
    return pk.prox_cross_entropy(logits, labels, strength=strength, **options)


def affine(x: Any, z: Any, scale: Any, offset: Any, **options: Any) -> Any:
    """The coefficients as arguments."""
    return pk.project_affine(x, z, scale=scale, offset=offset, **options)


def clip(x: Any, z: Any, low: Any, **options: Any) -> Any:
    """The limit as an argument."""
    return pk.project_elementwise("clip", x, z, low=low, **options)


def wave(x: Any, scale: Any) -> Any:
    """A smooth function with a constant."""
    return scale * jnp.sin(x) + x


def scaled_sine(x: Any, z: Any, scale: Any, **options: Any) -> Any:
    """The constant as an argument."""
    return pk.project_elementwise(wave, x, z, constants=(scale,), **options)


def squared_error(prediction: Any, target: Any, strength: Any, weights: Any, **options: Any) -> Any:
    """Strength and weights as arguments."""
    return pk.prox_squared_error(prediction, target, strength=strength, weights=weights, **options)


def absolute_error(prediction: Any, target: Any, strength: Any, weights: Any, **options: Any) -> Any:
    """Strength and weights as arguments."""
    return pk.prox_absolute_error(prediction, target, strength=strength, weights=weights, **options)


def weighted_cross_entropy(logits: Any, labels: Any, weights: Any, **options: Any) -> Any:
    """The weights as an argument."""
    return pk.prox_cross_entropy(logits, labels, weights=weights, **options)


def threshold(a: Any, b: Any, z: Any, margin: Any, **options: Any) -> Any:
    """The margin as an argument."""
    return pk.project_threshold(a, b, z, margin=margin, **options)


def threshold_dense(x: Any, w: Any, z: Any, margin: Any, **options: Any) -> Any:
    """The margin as an argument."""
    return pk.project_threshold_dense(x, w, z, margin=margin, **options)


def sphere(value: Any, norm: Any, **options: Any) -> Any:
    """The norm as an argument."""
    return pk.project_sphere(value, norm=norm, **options)


def simplex(value: Any, total: Any, **options: Any) -> Any:
    """The total as an argument."""
    return pk.project_simplex(value, total=total, **options)


def one_hot(value: Any, low: Any, high: Any, **options: Any) -> Any:
    """The numbers as arguments."""
    return pk.project_one_hot(value, low=low, high=high, **options)


def cases(rng: np.random.Generator) -> dict[str, Case]:
    """Random arrays in float64, with near and far roots, apart from the borders between branches."""
    n = lambda *shape: rng.normal(size=shape)  # noqa: E731
    x, w = n(3, 4), n(4, 2)
    z = x @ w + FAR[:, None] * n(3, 2)
    a, b = n(3, 5), n(3, 5)
    q, k = n(2, 3, 4), n(2, 2, 4)
    probabilities = np.abs(n(3, 5)) + 0.1
    probabilities /= probabilities.sum(-1, keepdims=True)
    pair = lambda *numbers: tuple(map(np.float64, numbers))  # noqa: E731
    average_pool = partial(
        pk.project_average_pool, window=(1, 3, 2), strides=(1, 2, 1), padding=((0, 0), (1, 1), (0, 1))
    )
    pool = partial(pk.project_max_pool, window=(3, 2), strides=(2, 1), padding=((1, 0), (0, 0)))
    return {
        "project_affine": Case(affine, (n(3, 4), n(3, 4), n(4), n(3, 1))),
        "project_average_pool": Case(average_pool, (n(2, 5, 3), n(2, 3, 3))),
        "project_bilinear": Case(pk.project_bilinear, (a, b, np.sum(a * b, -1) + FAR * n(3))),
        "project_bilinear_map": Case(
            partial(pk.project_bilinear_map, attention), (q, k, attention(q, k) + FAR[:, None] * n(2, 3, 2))
        ),
        "project_bilinear_map_factored": Case(
            bilinear_map_factored, (q, k, n(2, 3, 2), n(2, 3, 2), FAR[:, None] * n(2, 3, 2))
        ),
        "project_conv2d": Case(
            partial(pk.project_conv2d, strides=(1, 2), padding="SAME"),
            (n(2, 3, 4, 2), n(2, 3, 2, 3), FAR * n(2, 3, 2, 3)),
        ),
        "project_dense": Case(pk.project_dense, (x, w, z)),
        "project_dense_copies": Case(
            dense_copies,
            (x, w, n(3, 2, 4), n(3, 2, 4), z, pair(-1.0, -0.9), pair(0.3, 0.4), pair(0.6, 0.7)),
        ),
        "project_dense_factored": Case(
            dense_factored, ((x, n(3, 4)), (w,), (n(3, 2), n(3, 2)), n(3, 2), FAR[:, None] * n(3, 2))
        ),
        "project_box": Case(pk.project_box, (n(3, 4), -np.abs(n(4)), np.abs(n(3, 1)))),
        "project_elementwise, log": Case(partial(pk.project_elementwise, "log"), (n(3, 4), n(3, 4))),
        "project_elementwise, tanh": Case(partial(pk.project_elementwise, "tanh"), (n(3, 4), 2 * n(3, 4))),
        "project_elementwise, clip": Case(clip, (n(3, 4), n(3, 4), n(4) - 1)),
        "project_elementwise, function": Case(scaled_sine, (n(3, 4), n(3, 4), n(4))),
        "project_normalize": Case(pk.project_normalize, (n(3, 5), n(3, 5))),
        "project_normalize, root mean square": Case(
            partial(pk.project_normalize, axis=0, centred=False, epsilon=0.1), (n(3, 4), n(3, 4))
        ),
        "project_levels": Case(partial(pk.project_levels, levels=(-1, 0, 1)), (n(3, 4),)),
        "project_layer": Case(partial(pk.project_layer, jnp.matmul), (x, w, z)),
        "project_margin": Case(pk.project_margin, (n(3, 5), 2 * np.eye(3, 5))),
        "project_max": Case(partial(pk.project_max, axis=(0, 2)), (n(3, 4, 2), n(4) + [0, 4, 0, 4])),
        "project_max_pool": Case(pool, (n(2, 4, 3, 2), n(2, 2, 2, 2))),
        "project_min": Case(pk.project_min, (n(3, 4), n(3))),
        "project_one_hot": Case(one_hot, (n(3, 4), np.float64(-1.0), np.float64(2.0))),
        "project_orthonormal": Case(pk.project_orthonormal, (n(5, 3),)),
        "project_quantize": Case(quantize, (2 * n(3, 5), 2 * n(3, 5), np.float64(1.5))),
        "project_quantize, relaxed": Case(
            partial(pk.project_quantize, levels=3, scale=1.5, relaxed=True), (2 * n(3, 5), 2 * n(3, 5))
        ),
        "project_recurrence": Case(
            pk.project_recurrence, (n(2, 3, 4), n(2, 3, 2), n(4, 2), n(2, 2), FAR[:, None] * n(2, 3, 2))
        ),
        "project_simplex": Case(simplex, (n(3, 4), np.float64(1.5))),
        "project_sparse": Case(partial(pk.project_sparse, count=2), (n(3, 4),)),
        "project_sphere": Case(sphere, (n(3, 4), np.float64(1.5))),
        "project_sum": Case(pk.project_sum, ((n(3, 4), n(4)), n(3, 4))),
        "project_sum, difference": Case(partial(pk.project_sum, coefficients=(1.5, -1.0)), ((n(3, 4), n(4)), n(3, 4))),
        "project_sum_over": Case(partial(pk.project_sum_over, axis=1), (n(3, 4, 2), n(3, 2))),
        "project_sum_relu": Case(pk.project_sum_relu, ((n(3, 4), n(4)), n(3, 4))),
        "project_threshold": Case(threshold, (a, b, n(3), np.float64(8.0))),
        "project_threshold_dense": Case(threshold_dense, (x, w, n(3, 2), np.float64(2.0))),
        "prox_absolute_error": Case(absolute_error, (3 * n(3, 4), n(3, 4), np.float64(2.0), np.abs(n(4)) + 0.1)),
        "prox_cross_entropy": Case(cross_entropy, (5 * n(3, 5), probabilities, np.float64(5.0))),
        "prox_cross_entropy, weights": Case(weighted_cross_entropy, (5 * n(3, 5), probabilities, np.abs(n(3)))),
        "prox_squared_error": Case(squared_error, (n(3, 4), n(3, 4), np.float64(1.0), np.array([0.0, 0.3, 1.0, 5.0]))),
    }
