"""Many starts side by side, of which those that are solved leave the work, and the best of them."""

from __future__ import annotations

import functools
import operator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.algorithms.base import Algorithm
from pjax_core.arrays import arguments
from pjax_core.problem import Problem
from pjax_core.solve import Solution, solve
from pjax_core.until import Until


def restarts(
    problem: Problem, starts: Any, *data: Any, algorithm: Algorithm, steps: int, until: Until, every: int = 500
) -> Solution:
    """Run :func:`solve` from many starts side by side; after each ``every`` steps only those go on that are not solved.

    They are gathered in numbers that are powers of two, so that few programs are compiled.  It is called outside
    ``jax.jit``, since it looks at what is solved.

    Args:
        problem: from :func:`feasibility`.
        starts: parameters, all with a first axis of starts.
        *data: what else the problem's function takes, the same for all.
        algorithm: such as :func:`reflect_reflect_relax`, made once.
        steps: how many a start makes at the most, positive.
        until: from :func:`gap_below`; with ``any_of="starts"`` all end once one is solved.
        every: how many steps lie between two looks at which starts are solved, of which ``until`` takes more.

    Returns:
        A :class:`Solution` with a first axis of starts, as :func:`jax.vmap` gives it; :func:`best` takes the best.

    Raises:
        TypeError: as in :func:`solve`.
        ValueError: as in :func:`solve`, ``starts`` have no common first axis, or ``steps`` or ``every`` is below 1.

    Source: restarts of Elser, Lal, arXiv 2602.17493.
    """
    steps = arguments.integer("steps", steps, 1, "an integer of at least 1")
    every = arguments.integer("every", every, 1, "an integer of at least 1")
    if not isinstance(until, Until):
        raise TypeError(f"until is of type {type(until).__name__}; pass pj.gap_below(1e-2)")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(starts)]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or not shapes[0] or not shapes[0][0]:
        raise ValueError(f"starts have shapes {shapes}; pass arrays that all have the same first axis, of starts")
    count = shapes[0][0]
    starts = jax.tree.map(jnp.asarray, starts)
    going, found = np.arange(count), None
    for made in range(0, steps, every):
        lanes = np.resize(going, min(count, 1 << (going.size - 1).bit_length()))
        given, state = jax.tree.map(operator.itemgetter(lanes), (starts, None if found is None else found.state))
        new = _side_by_side(problem, algorithm, min(every, steps - made), until, given, data, state)
        found = _with_round(found, new, going, made, steps)
        solved = np.asarray(new.info.solved)[: going.size]
        going = going[~solved]
        if not going.size or (until.any_of is not None and solved.any()):
            break
    assert found is not None
    return found


def best(solutions: Solution) -> Solution:
    """Of solutions side by side, with a leading axis as ``jax.vmap`` gives them, that of the smallest gap of outputs.

    Args:
        solutions: of :func:`solve` with ``until``.

    Raises:
        ValueError: there are no gaps, or not one axis of them.
    """
    gaps = solutions.info.gaps
    if gaps is None or gaps["outputs"].ndim != 1:
        raise ValueError("best takes solutions of jax.vmap over pj.solve(..., until=pj.gap_below(1e-2)), on one axis")
    place = jnp.argmin(jnp.nan_to_num(gaps["outputs"], nan=jnp.inf, posinf=jnp.inf))
    return jax.tree.map(lambda array: array[place], solutions)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _side_by_side(
    problem: Problem, algorithm: Algorithm, steps: int, until: Until, starts: Any, data: tuple[Any, ...], state: Any
) -> Solution:
    """The solutions of one round; the axis has the name that ``any_of`` gives it."""

    def one(params: Any, state: Any) -> Solution:
        return solve(
            problem,
            params,
            *data,
            algorithm=algorithm,
            steps=steps,
            until=until,
            state=state,
            tolerance=float("inf"),
        )

    return jax.vmap(one, axis_name="starts")(starts, state)


def _with_round(found: Solution | None, new: Solution, going: np.ndarray, made: int, steps: int) -> Solution:
    """What was found before, with a round of the starts that went on, after so many steps had been ``made``."""

    def in_place(rows: Array) -> Array:
        return jnp.pad(rows, ((0, 0), (made, steps - made - rows.shape[1])))

    info = new.info
    assert info.steps is not None
    residual, truncation = jax.tree.map(in_place, (info.residual, info.truncation))
    new = replace(new, info=replace(info, residual=residual, truncation=truncation, steps=made + info.steps))
    if found is None:
        return new
    merged = jax.tree.map(lambda all_starts, array: all_starts.at[going].set(array[: going.size]), found, new)
    # Of the steps of this round nothing stood there before.
    residual, truncation = jax.tree.map(
        lambda before, array: before.at[going].add(array[: going.size]),
        (found.info.residual, found.info.truncation),
        (residual, truncation),
    )
    return replace(merged, info=replace(merged.info, residual=residual, truncation=truncation))
