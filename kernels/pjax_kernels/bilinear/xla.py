"""Projection onto ``z = a . b`` in jax.numpy: any platform."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels import root, roots


def bilinear_increments(a: Array, b: Array, z: Array, residual: Array | None = None) -> tuple[Array, Array, Array]:
    """The changes of ``a`` (..., N), ``b`` (..., N) and ``z`` (...)."""
    if a.shape[-1] == 0:  # the only point of the set has z = 0
        return a, b, -z
    p, q = jnp.sum(a * b, axis=-1), jnp.sum(a * a + b * b, axis=-1)
    scaled = root.scaled_residual(p, q, z, residual)

    def near(a: Array, b: Array, steps: int = 2) -> tuple[Array, Array, Array]:
        t, beta, gamma, _ = root.near_coefficients(root.near_root(scaled, p, q, steps=steps))
        beta, gamma = beta[..., None], gamma[..., None]
        return gamma * a + beta * b, gamma * b + beta * a, -t

    def far(a: Array, b: Array) -> tuple[Array, Array, Array]:
        is_near = jnp.abs(scaled) <= root.near_limits(z.dtype)[-1]
        (a_near, b_near, z_near), (a_far, b_far, z_far) = near(a, b, steps=3), _far_increments(a, b, z)
        return (
            jnp.where(is_near[..., None], a_near, a_far),
            jnp.where(is_near[..., None], b_near, b_far),
            jnp.where(is_near, z_near, z_far),
        )

    return lax.cond(jnp.all(jnp.abs(scaled) <= root.NEAR), near, far, a, b)


def _far_increments(a: Array, b: Array, z: Array) -> tuple[Array, Array, Array]:
    """The increments by way of a + b and a - b, exact when these nearly vanish."""
    half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
    plus, minus = jnp.sum(half_sum * half_sum, axis=-1), jnp.sum(half_difference * half_difference, axis=-1)
    t, beta, gamma, radius = roots.far_roots(_exact_squares, (plus, minus), z)
    of_sum, of_difference = root.changes_of_halves(t, beta, gamma)
    sum_part = of_sum[..., None] * half_sum
    difference_part = of_difference[..., None] * half_difference
    free_part = radius[..., None] * jnp.full_like(a, max(a.shape[-1], 1) ** -0.5)
    return (
        sum_part + difference_part + free_part,
        sum_part - difference_part + t[..., None] * free_part,
        -t,
    )


def _exact_squares(plus: Array, minus: Array) -> tuple[root.Square, root.Square]:
    return root.Square(plus, jnp.zeros_like(plus)), root.Square(minus, jnp.zeros_like(minus))
