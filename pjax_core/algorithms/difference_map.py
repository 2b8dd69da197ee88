"""The difference map."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jax import Array
from jax.typing import ArrayLike

from pjax_core.algorithms.base import Algorithm, made_once, reflecting_algorithm
from pjax_core.algorithms.reflections import relaxed_reflections
from pjax_core.arrays import arguments
from pjax_core.copies.count import Factor, Move, equals, times
from pjax_core.copies.factored import Copies
from pjax_core.copies.point import Constraints, CopiesState, Point, combined, of_colour
from pjax_core.graph.graph import Colour
from pjax_core.graph.nodes import Node


@made_once
def difference_map(
    beta: ArrayLike = 1.0, *, gamma: ArrayLike = 0.0, copies: str | Copies = "auto", budget: int | None = None
) -> Algorithm:
    """Difference map: ``z <- z + b [P_A(f_B(z)) - P_B(f_A(z))]`` (Elser; paper, section 4).

    ``f_A = (1 - 1/b) P_A + z/b`` and ``f_B = (1 + 1/b) P_B - z/b``.  With b = 1 a step costs as much as one of
    Douglas-Rachford, otherwise twice that.

    Args:
        beta: b, not zero; in a function that JAX traces it may be traced, so that a schedule compiles once.
        gamma: as in :func:`douglas_rachford`.
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        TypeError: ``beta`` or ``gamma`` is not a number.
        ValueError: ``beta`` is zero or not finite, or as in :func:`douglas_rachford`.
    """
    beta = arguments.number_or_traced(
        "beta", beta, lambda b: b != 0 and math.isfinite(b), "a finite number other than 0"
    )

    def step(point: Point) -> CopiesState:
        a, b = of_colour(point.graph, Colour.A), of_colour(point.graph, Colour.B)
        if equals(beta, 1):
            # z + P_A(2 P_B(z) - z) - P_B(z), which is Douglas-Rachford from the other side.
            return relaxed_reflections(point, b, a, 0.5)
        return _difference_map(point, a, b, beta)

    return reflecting_algorithm(step, copies, budget, rate=beta, gamma=gamma)


def _difference_map(point: Point, a: Constraints, b: Constraints, beta: Factor) -> CopiesState:
    """``z + b [P_A(f_B(z)) - P_B(f_A(z))]`` with ``f_A = (1 - 1/b) P_A + z/b``, ``f_B = (1 + 1/b) P_B - z/b``.

    For the copies of the outputs of A, ``P_A(f_B(z))`` is what all share, and ``z`` cancels: their new deviation is
    ``-beta`` times the change of ``P_B`` at ``f_A(z)``.  The other way round for B.
    """
    inverse, minus_inverse, minus_beta = 1 / beta, -1 / beta, -beta
    minus, plus = 1 - 1 / beta, 1 + 1 / beta

    def shifted(old: Mapping[Node, Array], factor: Factor, change: Mapping[Node, Array]) -> dict[Node, Array]:
        return {n: combined((1.0, array), (factor, change[n])) if n in change else array for n, array in old.items()}

    of_a, of_b = (point.project(side, point.shared, point.estimates, lambda *_: Move(1.0, 0.0, 0.0)) for side in (a, b))
    shared_a = {n: combined((minus, output), (inverse, point.shared[n])) for n, output in of_a.outputs.items()}
    shared_b = {n: combined((plus, output), (minus_inverse, point.shared[n])) for n, output in of_b.outputs.items()}
    at_b = point.project(
        a, shared_b, shifted(point.estimates, plus, of_b.changes), lambda *_: Move(minus_inverse, 0.0, beta)
    )
    at_a = point.project(
        b, shared_a, shifted(point.estimates, minus, of_a.changes), lambda *_: Move(inverse, 0.0, minus_beta)
    )
    return point.moved(
        shared={n: combined((beta, at_b.outputs[n]), (1 - beta, output)) for n, output in of_a.outputs.items()}
        | {n: combined((1 + beta, output), (minus_beta, at_a.outputs[n])) for n, output in of_b.outputs.items()},
        means={n: times(minus_beta, change) for n, change in at_a.changes.items()}
        | {n: times(beta, change) for n, change in at_b.changes.items()},
        deviations=at_a.deviations | at_b.deviations,
        projections=(at_b, at_a),
    )
