"""Dot products, products and quotients."""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.operations.primitive import (
    Batching,
    Bilinear,
    Primitive,
    Projected,
    bilinear,
    bilinear_increment,
    by_kernel,
    losses_of_products,
    units_of_sides,
)


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


_ONE_EACH = ((0,), (1,))
_UNITS = functools.partial(units_of_sides, _ONE_EACH)
dot = Primitive(
    "dot",
    forward=_dot,
    project=by_kernel(pk.project_bilinear),
    increment=bilinear_increment(_dot, _ONE_EACH),
    units=_UNITS,
)


def spread_matmul(x: Array, w: Array) -> tuple[Array, Array]:
    """Each dot product with its own row of ``x`` and column of ``w``."""
    copies = (x.shape[0], w.shape[1], x.shape[1])
    return jnp.broadcast_to(x[:, None, :], copies), jnp.broadcast_to(w.T[None, :, :], copies)


def _squared_norms(x: Array, w: Array) -> tuple[Array, Array]:
    """Of the rows of ``x`` and the columns of ``w``."""
    return jnp.sum(x * x, axis=1, keepdims=True), jnp.sum(w * w, axis=0, keepdims=True)


matmul = Primitive(
    "matmul",
    forward=jnp.matmul,
    project=jax.jit(by_kernel(pk.project_dense)),  # traced once for all layers of one shape
    spread=spread_matmul,
    increment=bilinear_increment(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), _ONE_EACH),
    copywise=dot,
    bilinear=Bilinear(_ONE_EACH, pk.project_dense_factored, _squared_norms, pk.project_dense_copies),
    batching=Batching.ROWS,
    losses=functools.partial(losses_of_products, _ONE_EACH, _squared_norms),
    units=_UNITS,
)


def _transposed_factored(x: Any, w: Any, u: Any, v: Any, z: Array, **known: Any) -> pk.FactoredChanges:
    found = pk.project_dense_factored(x, [array.T for array in w], u, v, z, **known)
    return found._replace(w_mean=found.w_mean.T)


def _transposed_copies(x: Array, w: Array, *copies: Array, **moves: Any) -> pk.DenseCopies:
    found = pk.project_dense_copies(x, w.T, *copies, **moves)
    return found._replace(w_mean=found.w_mean.T)


def _matmul_transposed(x: Array, w: Array, *, precision: Any = None) -> Array:
    return jnp.matmul(x, w.T, precision=precision)


def _squared_norms_of_transposed(x: Array, w: Array) -> tuple[Array, Array]:
    return _squared_norms(x, w.T)


matmul_transposed = replace(
    matmul,
    forward=_matmul_transposed,
    project=jax.jit(by_kernel(pk.project_dense, transposed=True)),
    spread=lambda x, w: spread_matmul(x, w.T),
    increment=bilinear_increment(functools.partial(_matmul_transposed, precision=lax.Precision.HIGHEST), _ONE_EACH),
    bilinear=Bilinear(_ONE_EACH, _transposed_factored, _squared_norms_of_transposed, _transposed_copies),
    losses=functools.partial(losses_of_products, _ONE_EACH, _squared_norms_of_transposed),
)
"""``x w^T``: products with weights (out, in), as Equinox keeps them, which stay so."""


def _aligned(a: Array, b: Array, equation: str) -> tuple[Array, Array]:
    """Both operands of an einsum with all its axes, those of the output first, of length 1 where one has none."""
    left, output = equation.split("->")
    labels = left.split(",")
    axes = output + "".join(label for label in dict.fromkeys("".join(labels)) if label not in output)

    def aligned(array: Array, own: str) -> Array:
        array = jnp.einsum(f"{own}->{''.join(label for label in axes if label in own)}", array)  # diagonals
        return jnp.expand_dims(array, [place for place, label in enumerate(axes) if label not in own])

    return aligned(a, labels[0]), aligned(b, labels[1])


def _spread_einsum(a: Array, b: Array, *, equation: str) -> tuple[Array, Array]:
    """Each dot product of an einsum along the last axis."""
    n_axes = len(equation.split("->")[1])
    a, b = jnp.broadcast_arrays(*_aligned(a, b, equation))
    return a.reshape(*a.shape[:n_axes], -1), b.reshape(*b.shape[:n_axes], -1)


def _squared_norms_of_einsum(a: Array, b: Array, *, equation: str) -> tuple[Array, Array]:
    """Of the entries of each operand in each dot product."""
    a, b = _aligned(a, b, equation)
    contracted = tuple(range(len(equation.split("->")[1]), a.ndim))

    def squared_norm(array: Array, other: Array) -> Array:
        times_each = math.prod(other.shape[axis] for axis in contracted if array.shape[axis] == 1)
        return times_each * jnp.sum(array * array, axis=contracted)

    return squared_norm(a, b), squared_norm(b, a)


einsum = bilinear(
    "einsum",
    lambda a, b, *, equation: jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST),
    spread=_spread_einsum,
    squared_norms=_squared_norms_of_einsum,
)


def _spread_multiply(a: Array, b: Array) -> tuple[Array, ...]:
    """Each product along a last axis of length 1."""
    return tuple(array[..., None] for array in jnp.broadcast_arrays(a, b))


multiply = bilinear("multiply", jnp.multiply, spread=_spread_multiply, batching=Batching.BROADCAST)


def _project_divide(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
    """The same set as that of ``output * divisor = dividend``."""
    dividend, divisor = (jnp.broadcast_to(x, output.shape) for x in inputs)
    z_change, divisor_change, dividend_change = pk.project_bilinear(
        output[..., None],
        divisor[..., None],
        dividend,
        residual=None if residual is None else -divisor * residual,
        increments=True,
    )
    changes = (dividend_change, divisor_change[..., 0])
    return tuple(map(_mean_of_copies, inputs, changes)), z_change[..., 0]


def _slopes_of_quotient(dividend: Array, divisor: Array) -> tuple[Array, Array]:
    """The derivatives by dividend and divisor, 0 where they are no numbers."""
    inverse = jnp.where(divisor == 0, 0, 1 / divisor)
    return inverse, -dividend * inverse * inverse


def _losses_of_quotients(inputs: Sequence[Array], weights: Container[int]) -> Array:
    del weights
    by_dividend, by_divisor = _slopes_of_quotient(*inputs)
    return 1 + by_dividend**2 + by_divisor**2


def _onto_tangent_of_quotients(inputs: tuple[Array, ...], residual: Array) -> Projected:
    multiplier = residual / _losses_of_quotients(inputs, ())
    changes = (multiplier * slope for slope in _slopes_of_quotient(*inputs))
    return tuple(map(_mean_of_copies, inputs, changes)), -multiplier


def _mean_of_copies(x: Array, change: Array) -> Array:
    """The mean over the copies of each element of what broadcasts."""
    if x.shape == change.shape:
        return change
    (total,) = jax.linear_transpose(lambda a: jnp.broadcast_to(a, change.shape), jnp.zeros(x.shape, change.dtype))(
        change
    )
    return total * (x.size / change.size)


divide = Primitive(
    "divide",
    forward=jnp.divide,
    project=_project_divide,
    project_tangent=_onto_tangent_of_quotients,
    spread=lambda *inputs, **_: tuple(jnp.broadcast_arrays(*inputs)),
    losses=_losses_of_quotients,
    batching=Batching.BROADCAST,
)


def _recurrence_products(x: Array, h: Array, w_x: Array, w_h: Array) -> Array:
    """``x w_x + h w_h``."""
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return product(x, w_x) + product(h, w_h)


def _spread_recurrence(x: Array, h: Array, w_x: Array, w_h: Array) -> tuple[Array, ...]:
    """Each dot product of a recurrence along the last axis."""

    def rows(array: Array) -> Array:
        return jnp.broadcast_to(array[..., None, :], (*array.shape[:-1], w_x.shape[1], array.shape[-1]))

    def columns(array: Array) -> Array:
        return jnp.broadcast_to(array.T, (*x.shape[:-1], *array.T.shape))

    return rows(x), rows(h), columns(w_x), columns(w_h)


def _squared_norms_of_recurrence(x: Sequence[Array], w: Sequence[Array]) -> tuple[Array, Array]:
    """Of the rows of inputs and states, and of the columns of both weights."""
    of_x, of_h = (jnp.sum(array * array, axis=-1, keepdims=True) for array in x)
    of_w_x, of_w_h = (jnp.sum(array * array, axis=0) for array in w)
    return of_x + of_h, (of_w_x + of_w_h)[None, None]


recurrence = bilinear(
    "recurrence",
    _recurrence_products,
    sides=((0, 1), (2, 3)),
    spread=_spread_recurrence,
    project=by_kernel(pk.project_recurrence),
    squared_norms=_squared_norms_of_recurrence,
    batching=Batching.EACH,
)
