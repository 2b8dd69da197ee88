"""Root mean squares of numbers that may be too small to be squared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_core.arrays.meshes import varying, varying_axes


class Norms(NamedTuple):
    """Norms of the parts of an array that has so many entries, in its place."""

    values: Array
    size: int


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def rms(changes: Callable[..., Sequence[Array | Norms]], *operands: Any) -> Array:
    """The root mean square of all entries of ``changes(*operands)``, nearly always read once.

    In units of a power of two that lets squares neither vanish nor overflow: first of 1.
    """

    def look(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        unit = carry[0] * carry[2]  # 1 to begin with
        # Else the compiler would take the changes out of the loop, and store them.
        mean = _mean_square(changes(*lax.optimization_barrier(operands)), unit)
        to_next = jnp.where(mean < least, step, jnp.where(jnp.isinf(mean), 1 / step, one))
        return unit, mean, jnp.where((unit * to_next >= step**2) & (unit * to_next <= step**-2), to_next, one)

    one = jnp.ones((), jax.eval_shape(lambda: _mean_square(changes(*operands), jnp.ones(()))).dtype)
    info = jnp.finfo(one.dtype)
    least = 2.0 ** (info.minexp + info.nmant)  # squares that add up to this have lost no digit
    step = one * 2.0 ** ((info.minexp + info.nmant) // 2)
    start = varying((0.5 * one, one, 2 * one), varying_axes(operands))
    unit, mean, _ = lax.while_loop(lambda carry: carry[2] != 1, look, start)
    return unit * jnp.sqrt(mean)


@rms.defjvp
def _(changes: Callable[..., Any], operands: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    found = rms(changes, *operands)
    unit = jnp.where(found > 0, found, 1)
    return found, jax.jvp(lambda *operands: 0.5 * unit * _mean_square(changes(*operands), unit), operands, tangents)[1]


def rms_of(array: Array) -> Array:
    """The root mean square of one array, read twice: with no loop, which takes longer to compile."""
    unit = jnp.maximum(jnp.max(jnp.abs(array), initial=0), jnp.finfo(array.dtype).tiny)
    return unit * jnp.sqrt(_mean_square([array], unit))


def _mean_square(changes: Sequence[Array | Norms], unit: Array) -> Array:
    """In units of the square of a unit."""
    parts = [change if isinstance(change, Norms) else Norms(change, change.size) for change in changes]
    dtype = jnp.result_type(*(part.values.dtype for part in parts))  # units may be none of numbers of a narrower one
    total = sum(jnp.sum((part.values.astype(dtype) * (1 / unit).astype(dtype)) ** 2) for part in parts)
    return jnp.asarray(total / sum(part.size for part in parts))
