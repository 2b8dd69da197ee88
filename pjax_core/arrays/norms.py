"""Root mean squares of numbers that may be too small to be squared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


class Norms(NamedTuple):
    """Norms of the parts of an array that has so many entries, in its place."""

    values: Array
    size: int


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def rms(changes: Callable[..., Sequence[Array | Norms]], *operands: Any) -> Array:
    """The root mean square of all entries of ``changes(*operands)``, nearly always read once.

    In units of a power of two that lets squares neither vanish nor overflow: first of 1.
    """

    def better(unit: Array, mean: Array) -> Array:
        """By what to multiply the unit."""
        factor = jnp.where(mean < least, step, jnp.where(jnp.isinf(mean), 1 / step, one))
        return jnp.where((unit * factor >= step**2) & (unit * factor <= step**-2), factor, one)

    def look(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        # Else the compiler would take the changes out of the loop, and store them: all that is the same each time.
        unit, again = lax.optimization_barrier((carry[0] * carry[2], operands))
        mean = _mean_square(changes(*again), unit)
        return unit, mean, better(unit, mean)

    mean = _mean_square(changes(*operands))
    one = jnp.ones_like(mean)
    info = jnp.finfo(one.dtype)
    least = 2.0 ** (info.minexp + info.nmant)  # squares that add up to this have lost no digit
    step = one * 2.0 ** ((info.minexp + info.nmant) // 2)
    unit, mean, _ = lax.while_loop(lambda carry: carry[2] != 1, look, (one, mean, better(one, mean)))
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


def _mean_square(changes: Sequence[Array | Norms], unit: ArrayLike = 1) -> Array:
    """In units of the square of a unit."""
    parts = [change if isinstance(change, Norms) else Norms(change, change.size) for change in changes]
    dtype = jnp.result_type(*(part.values.dtype for part in parts))  # units may be none of numbers of a narrower one
    scale = jnp.asarray(1 / unit, dtype)
    total = sum(jnp.sum((part.values.astype(dtype) * scale) ** 2) for part in parts)
    return jnp.asarray(total / sum(part.size for part in parts))
