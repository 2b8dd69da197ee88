"""Graphs of continuous functions made of straight pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


@dataclass(frozen=True)
class Pieces:
    """``f(x) = slope x + intercept`` on each piece, which ends where the next begins.

    Attributes:
        value: ``f``.
        breaks: where pieces meet, in increasing order: numbers, or arrays that broadcast to the shape of ``x``.
        slopes: of each piece, one more than there are ``breaks``.
        intercepts: likewise.
    """

    value: Callable[[Array], Array]
    breaks: tuple[ArrayLike, ...]
    slopes: tuple[float, ...]
    intercepts: tuple[ArrayLike, ...]


def piecewise_increments(x: Array, z: Array, residual: Array, pieces: Pieces) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``: to the nearest of the pieces, of equally near ones that of ``x``, or the first.

    ``residual`` is ``z - f(x)``.
    """
    ends = [-math.inf, *pieces.breaks, math.inf]
    candidates = []
    for low, high, slope, intercept in zip(ends, ends[1:], pieces.slopes, pieces.intercepts, strict=False):
        low, high = (jnp.asarray(end, x.dtype) for end in (low, high))
        intercept = jnp.asarray(intercept, x.dtype)
        own = (low <= x) & (x <= high)
        gap = jnp.where(own, residual, z - (slope * x + intercept))
        share = gap / (1 + slope**2)
        beyond = jnp.where(x + slope * share < low, low, jnp.where(x + slope * share > high, high, jnp.nan))
        at_end = ~jnp.isnan(beyond)
        x_change = jnp.where(at_end, beyond - x, slope * share)
        z_change = jnp.where(at_end, slope * beyond + intercept - z, -share)
        candidates.append((own, x_change, z_change))
    best = _first_of_own(candidates)
    for _, x_change, z_change in candidates:
        nearer = x_change**2 + z_change**2 < best[0] ** 2 + best[1] ** 2
        best = jnp.where(nearer, x_change, best[0]), jnp.where(nearer, z_change, best[1])
    return best


def _first_of_own(candidates: list[tuple[Array, Array, Array]]) -> tuple[Array, Array]:
    """The changes to the piece that holds ``x``."""
    _, *best = candidates[-1]
    for own, *changes in reversed(candidates[:-1]):
        best = [jnp.where(own, new, old) for new, old in zip(changes, best, strict=True)]
    return best[0], best[1]


def _clip(low: ArrayLike | None = None, high: ArrayLike | None = None) -> Pieces:
    """``min(max(x, low), high)``; None for no limit."""
    breaks: list[ArrayLike] = [limit for limit in (low, high) if limit is not None]
    slopes, intercepts = [1.0], [0.0]
    if low is not None:
        slopes, intercepts = [0.0, *slopes], [low, *intercepts]  # type: ignore[list-item]
    if high is not None:
        slopes, intercepts = [*slopes, 0.0], [*intercepts, high]  # type: ignore[list-item]
    return Pieces(lambda x: jnp.clip(x, low, high).astype(x.dtype), tuple(breaks), tuple(slopes), tuple(intercepts))


def _leaky_relu(negative_slope: float = 0.01) -> Pieces:
    return Pieces(lambda x: jax.nn.leaky_relu(x, negative_slope), (0.0,), (negative_slope, 1.0), (0.0, 0.0))


NAMED: Mapping[str, Callable[..., Pieces]] = {
    "abs": lambda: Pieces(jnp.abs, (0.0,), (-1.0, 1.0), (0.0, 0.0)),
    "clip": _clip,
    "leaky_relu": _leaky_relu,
    "hard_sigmoid": lambda: Pieces(jax.nn.hard_sigmoid, (-3.0, 3.0), (0.0, 1 / 6, 0.0), (0.0, 0.5, 1.0)),
}
"""What makes the pieces of a function, from its settings."""
