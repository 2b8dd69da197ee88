"""Algorithms of relaxed reflections: alternating reflections and Douglas-Rachford."""

from __future__ import annotations

from jax.typing import ArrayLike

from pjax_core.algorithms.base import Algorithm, made_once, reflecting_algorithm
from pjax_core.arrays import arguments
from pjax_core.copies.count import Factor, Move, equals, moving_slots
from pjax_core.copies.factored import Copies
from pjax_core.copies.point import Constraints, CopiesState, Point, combined, of_colour
from pjax_core.graph.graph import Colour
from pjax_core.graph.nodes import Operation


@made_once
def alternating_reflections(
    *, gamma: ArrayLike = 0.0, copies: str | Copies = "auto", budget: int | None = None
) -> Algorithm:
    """Alternating reflections: ``z <- R_B(R_A(z))`` with ``R = 2 P - I`` (paper, section 4).

    Deviations of copies do not decay here, so that a truncated history loses much; take ``copies="dense"``.

    Args:
        gamma: as in :func:`douglas_rachford`.
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        TypeError: ``gamma`` is not a number.
        ValueError: as in :func:`douglas_rachford`.
    """
    return douglas_rachford(1.0, gamma=gamma, copies=copies, budget=budget)


@made_once
def douglas_rachford(
    relaxation: ArrayLike = 0.5, *, gamma: ArrayLike = 0.0, copies: str | Copies = "auto", budget: int | None = None
) -> Algorithm:
    """Douglas-Rachford: ``z <- (1 - r) z + r R_B(R_A(z))`` with ``R = 2 P - I`` (paper, section 4).

    With ``gamma`` it has a metric: the means on which the copies of a value agree are weighted by one number for each
    constraint, an entry of an operation's output such as one dot product.  These start from 1 and go by
    ``g += gamma (gap^2 / mean gap^2 - g)``, where the gap is the root mean square, over all that the constraint holds,
    of what a step finds between the points of both sets: so constraints that stay unsatisfied count more and more, and
    it leaves places where it would circle for ever.  All operations are then in A, each with its own copy of its
    output, and copies count by their weights alone, so that a step is that of the formula in a weighted norm.
    Operations that are not known to be entry by entry, such as output constraints, keep a weight of 1; sets of
    parameters are projected onto as without weights.

    Args:
        relaxation: r, in (0, 1]; in a function that JAX traces it may be traced, so that a schedule compiles once.
        gamma: how fast the metric follows the gaps, in [0, 1), such as 1e-3; 0 for plain means.  It needs stored
            copies, and may be traced.
        copies: how dense layers keep the deviations of their copies: "dense" stores them, ``Factored(history=3)``
            keeps coefficients of a few terms, "auto" is ``Factored()`` with a budget of 16 MiB.  Copies are stored
            by all other operations, which hold few, and by dense layers that have outputs which nothing reads.
        budget: operations whose dense copies fit into so many bytes store them under ``Factored`` too.

    Raises:
        TypeError: ``relaxation`` or ``gamma`` is not a number.
        ValueError: ``relaxation``, ``gamma`` or ``budget`` is out of range, or ``copies`` is none of these; in use,
            where ``gamma`` is not 0 and copies are factored, or the function has a recurrence.

    Source: for the metric, Elser, Lal, arXiv 2602.17493.
    """
    relaxation = arguments.number_or_traced("relaxation", relaxation, lambda r: 0 < r <= 1, "a number in (0, 1]")

    def step(point: Point) -> CopiesState:
        a, b = of_colour(point.graph, Colour.A), of_colour(point.graph, Colour.B)
        return relaxed_reflections(point, a, b, relaxation)

    return reflecting_algorithm(step, copies, budget, rate=2 * relaxation, gamma=gamma)


@made_once
def reflect_reflect_relax(
    beta: ArrayLike = 0.5, *, gamma: ArrayLike = 0.0, copies: str | Copies = "auto", budget: int | None = None
) -> Algorithm:
    """Reflect-reflect-relax: ``z <- z + b (P_B(2 P_A(z) - z) - P_A(z))``, Douglas-Rachford with relaxation ``b/2``.

    Args:
        beta: b, in (0, 2]; small for problems that are not convex, such as 0.2 for threshold functions; it may be
            traced.
        gamma: how fast a metric follows the gaps, as in :func:`douglas_rachford`; 1e-3 for threshold functions.
        copies: as in :func:`douglas_rachford`.
        budget: as in :func:`douglas_rachford`.

    Raises:
        TypeError: ``beta`` or ``gamma`` is not a number.
        ValueError: ``beta`` or ``gamma`` is out of range, or as in :func:`douglas_rachford`.

    Source: Elser, The complexity of bit retrieval (2018); for the metric, Elser, Lal, arXiv 2602.17493.
    """
    beta = arguments.number_or_traced("beta", beta, lambda b: 0 < b <= 2, "a number in (0, 2]")
    return douglas_rachford(beta / 2, gamma=gamma, copies=copies, budget=budget)


def relaxed_reflections(point: Point, first: Constraints, second: Constraints, relaxation: Factor) -> CopiesState:
    """``(1 - r) z + r R(R(z))`` with the reflections in ``first``, then in ``second``, and the ``relaxation`` r.

    Written for what the copies share and for their deviations apart.  A reflection in the set that writes a copy
    turns its deviation around (it shares twice the written value less the old one); one in the set of its consumer
    adds twice the change of the projection.  Both together leave ``1 - 2 r`` of a deviation.
    """
    keep, gain = 1 - 2 * relaxation, 2 * relaxation
    minus_gain = -gain

    def move_first(consumer: Operation, place: int) -> Move:
        return Move(1.0, keep, minus_gain) if second.hold(consumer, place) else Move(1.0, 1.0, gain)

    def move_second(consumer: Operation, place: int) -> Move:
        return Move(-1.0, keep, gain) if first.hold(consumer, place) else Move(1.0, 1.0, gain)

    one = point.project(first, point.shared, point.estimates, move_first)
    reflected = point.shared | {node: 2 * new - point.shared[node] for node, new in one.outputs.items()}
    estimates = point.estimates | {node: point.estimates[node] + 2 * d for node, d in one.changes.items()}
    two = point.project(second, reflected, estimates, move_second)

    outputs = one.outputs | two.outputs
    means = {}
    for node, old in point.means.items():
        terms = [(keep if node in outputs else 1.0, old)]
        if node in one.changes:
            terms.append((minus_gain if node in second.nodes else gain, one.changes[node]))
        if node in two.changes:
            terms.append((gain, two.changes[node]))
        means[node] = combined(*terms)
    deviations = one.deviations | two.deviations
    for node in point.copies:
        kept = [keep if first.hold(node, i) or second.hold(node, i) else 1.0 for i in range(moving_slots(node))]
        if node not in deviations and not all(equals(factor, 1) for factor in kept):
            deviations[node] = point.copies[node].scaled(point.deviations(node), kept)
    return point.moved(
        shared={node: combined((keep, point.shared[node]), (gain, output)) for node, output in outputs.items()},
        means=means,
        deviations=deviations,
        projections=(one, two),
    )
