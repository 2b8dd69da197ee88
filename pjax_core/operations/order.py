"""Projections onto entries of rows in their order: by sorting, and pooling those that would change places."""

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


def at_rank(scores: Array, cases: Array, ranks: Array) -> Array:
    """The case of each row, along the last axis but one, whose score has the rank: 0 for the largest."""
    index = jnp.take_along_axis(jnp.argsort(-scores, -1), ranks[..., None], -1)
    return jnp.take_along_axis(cases, index[..., None], -2)[..., 0, :]


def project_at_rank(
    scores: Array, cases: Array, ranks: Array, z: Array, residual: Array | None
) -> tuple[tuple[Array, Array], Array]:
    """The changes of ``scores``, ``cases`` and ``z`` to the nearest point with ``z`` the case at the rank.

    A union of a piece for each case, of which the nearest is taken.  For its score to have the rank, it and those that
    are larger and should not be, or smaller and should not be, meet at one number: the farthest of the means of it and
    of the next of these, so many as make it so.
    """
    order, ranks = jnp.argsort(-scores, -1), ranks[..., None]
    ranked = jnp.take_along_axis(scores, order, -1)
    place = jnp.arange(scores.shape[-1])
    others = place != place[:, None]
    # Of all scores, along the last axis, beyond that of each case: small changes of large values would be rounded away.
    beyond = ranked[..., None, :] - ranked[..., None]
    above = others & (place - (place > place[:, None]) < ranks[..., None])
    below = others & ~above
    rises = jnp.max(jnp.cumsum(jnp.where(below, beyond, 0), -1) / (1 + jnp.cumsum(below, -1)), -1)
    falls = jnp.min(
        lax.cumsum(jnp.where(above, beyond, 0), beyond.ndim - 1, reverse=True)
        / (1 + lax.cumsum(above.astype(beyond.dtype), beyond.ndim - 1, reverse=True)),
        -1,
    )
    own = jnp.maximum(rises, 0) + jnp.minimum(falls, 0)
    excess = beyond - own[..., None]
    moves = jnp.where(others, -jnp.where(above, jnp.minimum(excess, 0), jnp.maximum(excess, 0)), own[..., None])
    cases_by_rank = jnp.take_along_axis(cases, order[..., None], -2)
    here = jnp.take_along_axis(cases_by_rank, ranks[..., None], -2)
    wanted = (here - cases_by_rank + (z[..., None, :] - here if residual is None else residual[..., None, :])) / 2
    cost = jnp.sum(moves**2, -1) + 2 * jnp.sum(wanted**2, -1)
    best = jnp.argmin(cost, -1)[..., None]
    best = jnp.where(jnp.take_along_axis(cost, ranks, -1) <= jnp.take_along_axis(cost, best, -1), ranks, best)
    of_best = jnp.take_along_axis(moves, best[..., None], -2)[..., 0, :]
    half = jnp.take_along_axis(wanted, best[..., None], -2)
    back = jnp.argsort(order, -1)
    chosen = jnp.take_along_axis(place == best, back, -1)
    return (jnp.take_along_axis(of_best, back, -1), jnp.where(chosen[..., None], half, 0)), -half[..., 0, :]


def _change_to_descending(ranked: Array, wanted: Array, weights: Array) -> Array:
    """What descending numbers change by, to the nearest descending ones, by weights, to their sums with ``wanted``."""

    def change(begins: Array) -> Array:
        """By pools that begin where it says: to the mean of each, as a distance from its first entry."""
        pool = jnp.cumsum(begins) - 1
        total = lambda array: jnp.zeros_like(array).at[pool].add(array, indices_are_sorted=True)[pool]  # noqa: E731
        behind = ranked - jnp.full_like(ranked, -jnp.inf).at[pool].max(ranked, indices_are_sorted=True)[pool]
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
