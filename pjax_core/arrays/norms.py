"""Root mean squares of numbers that may be too small to be squared."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Norms(NamedTuple):
    """Norms of the parts of an array that has so many entries, in its place."""

    values: Array
    size: int


def rms(changes: Sequence[Array | Norms]) -> Array:
    """The root mean square of all entries."""
    parts = [change if isinstance(change, Norms) else Norms(change, change.size) for change in changes]
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(part.values), initial=0) for part in parts))
    scale = jnp.where(largest > 0, largest, 1)
    total = sum(jnp.sum((part.values / scale) ** 2) for part in parts)
    return scale * jnp.sqrt(total / sum(part.size for part in parts))
