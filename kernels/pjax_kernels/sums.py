"""Sums of several arrays in one pass over memory, without storing the terms, as calls of jnp.sum would on a CPU."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from jax import Array, lax

_PARTS = 16
"""Largest number of parts into which a row is cut."""


def over_axis(terms: Sequence[Array], axis: int) -> tuple[Array, ...]:
    """The sum of each of a few arrays of one shape and dtype over ``axis``."""
    zero = np.zeros((), terms[0].dtype)

    def add(totals: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(map(operator.add, totals, more))

    return tuple(lax.reduce(tuple(terms), (zero,) * len(terms), add, (axis % terms[0].ndim,)))


def over_rows(terms: Sequence[Array]) -> tuple[Array, ...]:
    """The same over the last axis, whose size is known."""
    # Sums of a few numbers that are far apart in memory vectorise; those of neighbours wait for each other.
    parts = parts_of(terms[0].shape[-1])
    cut = [term.reshape(*term.shape[:-1], parts, term.shape[-1] // parts) for term in terms]
    return over_axis(over_axis(cut, -2), -1)


def parts_of(length: int) -> int:
    """Into how many equal parts :func:`over_rows` cuts a row."""
    return max(count for count in range(1, _PARTS + 1) if length % count == 0)
