"""The derivative of the projection onto a normalisation, by the implicit function theorem.

With ``q = |y|^2`` and ``h(q) = sqrt(n/(q + n epsilon))`` the new row ``y`` is normalised to ``h y``.  It minimises
``|y - x|^2/2 + q h^2/2 - h y . z``, so that ``a y = x + h z`` with ``a = 1 + (q h^2)' - 2 h' y . z``, and moves by

    a dy + y (2 a' r - 2 h' s) - 2 h' z r = dx + h dz + 2 h' y (y . dz),   a' = (q h^2)'' - 2 h'' y . z,

whose products with ``y`` and with ``z`` are two equations for ``r = y . dy`` and ``s = z . dy``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def normalize_formula(
    changes: tuple[Array, Array], x: Array, z: Array, *, epsilon: float, centred: bool
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z`` over the last axis."""
    entries, target = (_centred(array) if centred else array for array in (x, z))
    new = _nearest(epsilon, entries + changes[0], entries, target)
    return new - entries, new * _scale(_dot(new, new), new.shape[-1], epsilon) - z


def _centred(rows: Array) -> Array:
    return rows - jnp.mean(rows, axis=-1, keepdims=True)


def _dot(left: Array, right: Array) -> Array:
    return jnp.sum(left * right, axis=-1, keepdims=True)


def _scale(squared: Array, count: int, epsilon: float) -> Array:
    """``h``, what a row of this squared length is multiplied by."""
    return jnp.sqrt(count / (squared + count * epsilon))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _nearest(epsilon: float, new: Array, x: Array, z: Array) -> Array:
    """The known row ``new``, as a function of ``x`` and ``z`` alone."""
    del x, z
    return new


@_nearest.defjvp
def _(epsilon: float, primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    _, x, z = primals
    _, d_x, d_z = tangents
    y = _nearest(epsilon, *primals)
    count, squared, along = y.shape[-1], _dot(y, y), _dot(y, z)
    h = _scale(squared, count, epsilon)
    below = squared + count * epsilon
    h_slope, h_bend = -h / (2 * below), 3 * h / (4 * below**2)
    image_slope = count * count * epsilon / below**2  # of q h^2
    a = 1 + image_slope - 2 * h_slope * along
    a_slope = -2 * image_slope / below - 2 * h_bend * along
    pull = d_x + h * d_z + 2 * h_slope * y * _dot(y, d_z)
    turn = 2 * h_slope
    of_y = a + 2 * a_slope * squared - turn * along, -turn * squared
    of_z = 2 * a_slope * along - turn * _dot(z, z), a - turn * along
    y_pull, z_pull = _dot(y, pull), _dot(z, pull)
    determinant = of_y[0] * of_z[1] - of_y[1] * of_z[0]
    r = (y_pull * of_z[1] - z_pull * of_y[1]) / determinant
    s = (z_pull * of_y[0] - y_pull * of_z[0]) / determinant
    return y, (pull - y * (2 * a_slope * r - turn * s) + turn * z * r) / a
