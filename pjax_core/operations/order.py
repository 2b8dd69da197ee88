"""Projection onto the largest entries of rows, in order: by sorting, and pooling those that would change places."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax


def largest_of(x: Array, count: int) -> Array:
    """The ``count`` largest entries of each row, from the largest to the smallest."""
    return -jnp.sort(-x, axis=-1)[..., :count]


def project_largest(x: Array, z: Array, residual: Array | None, count: int) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z`` to the nearest point with ``z`` the ``count`` largest entries of each row of x.

    In the new row the entries are ranked as they were, since no other assignment of the same numbers is nearer.  Their
    numbers are then the nearest ones that do not ascend, to means of an entry and its output, counted twice, and to the
    entries behind these: monotone regression, which pools neighbours until none ascends.
    """
    order = jnp.argsort(-x, axis=-1)
    ranked = jnp.take_along_axis(x, order, -1)
    beyond = z - ranked[..., :count] if residual is None else residual.astype(x.dtype)
    others = x.shape[-1] - count
    wanted = jnp.concatenate([beyond / 2, jnp.zeros((*x.shape[:-1], others), x.dtype)], -1)
    weights = jnp.where(lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1) < count, 2, 1).astype(x.dtype)
    rows = [array.reshape(-1, x.shape[-1]) for array in (ranked, wanted, weights)]
    change = jax.vmap(_change_to_descending)(*rows).reshape(x.shape)
    return jnp.take_along_axis(change, jnp.argsort(order, -1), -1), change[..., :count] - beyond


def at_largest(scores: Array, cases: Array) -> Array:
    """The case of each row, along the last axis but one, whose score is the largest."""
    return jnp.take_along_axis(cases, jnp.argmax(scores, -1)[..., None, None], -2)[..., 0, :]


def project_at_largest(
    scores: Array, cases: Array, z: Array, residual: Array | None
) -> tuple[tuple[Array, Array], Array]:
    """The changes of ``scores``, ``cases`` and ``z`` to the nearest point with ``z`` the case of the largest score.

    A union of a piece for each case, of which the nearest is taken: its score rises, and those above it fall, to one
    number, the largest of the means of it and of the largest scores, so many as make it so.
    """
    below = jnp.max(scores, -1, keepdims=True) - scores  # small changes of large values would be rounded away
    counts = jnp.arange(1, scores.shape[-1])
    above = jnp.cumsum(jnp.sort(below, -1), -1)[..., None, :-1]
    falls = jnp.min((below[..., None] + above) / (counts + 1), -1, initial=jnp.inf)
    falls = jnp.minimum(falls, below)
    lost = jnp.sum(jnp.maximum(falls[..., None] - below[..., None, :], 0) ** 2, -1)  # not by the case itself
    first = jnp.argmax(scores, -1)
    here = at_largest(scores, cases)
    beyond = ((here[..., None, :] - cases) + (z - here if residual is None else residual)[..., None, :]) / 2
    cost = lost + (below - falls) ** 2 + 2 * jnp.sum(beyond**2, -1)
    best = jnp.argmin(cost, -1)
    of_first, of_best = (jnp.take_along_axis(cost, i[..., None], -1)[..., 0] for i in (first, best))
    best = jnp.where(of_first <= of_best, first, best)
    is_best = best[..., None] == jnp.arange(scores.shape[-1])
    fall = jnp.take_along_axis(falls, best[..., None], -1)
    score_change = jnp.where(is_best, below - fall, -jnp.maximum(fall - below, 0))
    half = jnp.take_along_axis(beyond, best[..., None, None], -2)
    return (score_change, jnp.where(is_best[..., None], half, 0)), -half[..., 0, :]


def _change_to_descending(ranked: Array, wanted: Array, weights: Array) -> Array:
    """What descending numbers change by, to the nearest descending ones, by weights, to their sums with ``wanted``."""
    length = len(ranked)

    def change(begins: Array) -> Array:
        """By pools that begin where it says: to the mean of each, as a distance from its first entry."""
        pool = jnp.cumsum(begins) - 1
        total = lambda array: jax.ops.segment_sum(array, pool, length, indices_are_sorted=True)[pool]  # noqa: E731
        behind = ranked - jax.ops.segment_max(ranked, pool, length, indices_are_sorted=True)[pool]
        return total(weights * (behind + wanted)) / total(weights) - behind

    def ascends(begins: Array) -> Array:
        new = ranked + change(begins)
        return begins & jnp.concatenate([jnp.zeros(1, bool), new[1:] > new[:-1]])

    def pooled(state: tuple[Array, Array]) -> tuple[Array, Array]:
        begins = state[0] & ~state[1]
        return begins, ascends(begins)

    alone = jnp.full_like(ranked, True, dtype=bool)  # like the row, which may vary over devices
    begins, _ = lax.while_loop(lambda state: jnp.any(state[1]), pooled, (alone, ascends(alone)))
    return change(begins)
