"""Deviations of copies as combinations of a few terms, and which operations have which representation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core.arrays import meshes
from pjax_core.arrays.messages import described
from pjax_core.arrays.norms import rms_of
from pjax_core.arrays.serialization import exportable_dataclass, exportable_namedtuple
from pjax_core.copies.count import Factor, Move, Projected, laid_out, moved, times, wide_slots
from pjax_core.copies.stored import Dense
from pjax_core.graph.nodes import Operation
from pjax_core.operations.primitive import in_places, side_of
from pjax_kernels import Combination

exportable_namedtuple(Combination)


@exportable_dataclass
@dataclass(frozen=True)
class Terms:
    """Deviations ``u`` and ``v`` of the copies of ``x`` and ``w`` as combinations of earlier ones, latest first.

    ``x`` or ``w`` is empty where the operand never moves: its combination has one coefficient, of the operand itself.
    An operand is an array, or a tuple of arrays where the operation has several inputs on a side.
    """

    x: tuple[Any, ...]
    w: tuple[Any, ...]
    u: Combination
    v: Combination


@dataclass(frozen=True)
class Factored:
    """Deviations of the copies of dot products as combinations of the last ``history`` shared operands.

    Memory ``4 history`` arrays in the shape of the operation's output, and ``history`` copies of its operands.  Exact
    with as many terms as projections of the layer (one a step; two in cyclic Douglas-Rachford).  Else each projection
    leaves out the oldest term, whose coefficients have by then been multiplied ``history`` times by the root ``t``,
    about residual/(1 + |x|^2 + |w|^2): safe for wide layers, not for narrow ones.  With a relaxation r other than 1/2
    they also keep a factor 1 - 2 r each time, and do not decay at all in alternating reflections (r = 1).

    The means of the copies are kept beside the terms, with what these leave out: only later projections miss it, and of
    it only what lies across the set that they project onto.  For let ``d`` be what was left out of the copies of a dot
    product, and ``n`` the unit normal of its set there.  To first order, the next step of Douglas-Rachford with
    relaxation r, or with r = 1/2 of the difference map, makes ``n (n . d) + (1 - 2 r) (d - n (n . d))`` of ``d``, and
    takes its mean to what the copies share: across the set it stays, along the set it decays.  Where sets are convex,
    no step makes the distance of two states larger, all copies counted.  So the sum of ``|n . d|`` over the steps, over
    how far all copies have moved, bounds the relative error.  That is ``info.truncation``, with the latest operands in
    the place of those left out, which are a few steps older.

    Attributes:
        history: the number of terms, at least 1.
    """

    history: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.history, bool) or not isinstance(self.history, int) or self.history < 1:
            raise ValueError(f"Factored: history is {described(self.history)}; pass an integer of at least 1")

    def start(self, node: Operation) -> Terms:
        """No deviation: coefficients of zero."""
        assert node.primitive.bilinear is not None
        sides = node.primitive.bilinear.sides
        fixed = [all(node.slots[place].is_fixed for place in side) for side in sides]
        slots = wide_slots(node)
        zeros = [meshes.full(slot, 0) for slot in slots]
        x, w = (
            () if is_fixed else (side_of(zeros, side),) * self.history
            for is_fixed, side in zip(fixed, sides, strict=True)
        )
        output = meshes.shape_of_type(node.shape, jnp.result_type(*(slot.dtype for slot in slots)))
        counts = [1 if is_fixed else self.history for is_fixed in fixed]
        u, v = (
            Combination(*(tuple(meshes.full(output, 0) for _ in range(count)) for count in counts)) for _ in range(2)
        )
        return Terms(x, w, u, v)

    def scaled(self, deviations: Terms, factors: Sequence[Factor]) -> Terms:
        """The deviations of each slot times its factor."""
        u, v = (
            jax.tree.map(lambda coefficient, factor=factor: times(factor, coefficient), combination)
            for factor, combination in zip(factors, (deviations.u, deviations.v), strict=True)
        )
        return Terms(deviations.x, deviations.w, u, v)

    def project(
        self,
        node: Operation,
        shared: Sequence[Array],
        deviations: Terms,
        output: Array | None,
        residual: Array | None,
        moves: Sequence[Move],
        unread: Array | None,
    ) -> Projected:
        """Project the copies, and leave out the oldest terms."""
        bilinear = node.primitive.bilinear
        assert bilinear is not None
        assert output is not None
        assert residual is not None
        assert unread is None
        move_x, move_w = (_common_move(node, moves, side) for side in bilinear.sides)
        # The vectors that span all copies, latest first: what they share now comes before the terms.
        x, w = (
            (side_of(shared, side), *terms)
            for side, terms in zip(bilinear.sides, (deviations.x, deviations.w), strict=True)
        )
        fixed = (not deviations.x, not deviations.w)
        u = _before_shared(fixed, deviations.u, move_x.scale)
        v = _before_shared(fixed, deviations.v, move_w.scale)
        found = bilinear.project_factored(x, w, u, v, output, residual=residual, **node.settings)
        u = _moved_terms(move_x, fixed, deviations.u, found.u, output)
        v = _moved_terms(move_w, fixed, deviations.v, found.v, output)

        dropped = ((sum(c.x[self.history :]), sum(c.w[self.history :])) for c in (u, v))
        squares = bilinear.squared_norms(x[0], w[0], **node.settings)
        missed = _missed(*squares, output - residual, found.z_change, *dropped)
        free = times(move_x.gain, jnp.sqrt(found.squared_free / output.size))  # as of the other side
        kept = (Combination(c.x[: self.history], c.w[: self.history]) for c in (u, v))
        return Projected(
            in_places((found.x_mean, found.w_mean), bilinear.sides),
            found.z_change,
            Terms(deviations.x and x[: self.history], deviations.w and w[: self.history], *kept),
            jnp.hypot(missed, free),
        )

    def __str__(self) -> str:
        return f"factored, history {self.history}"


Copies: TypeAlias = Dense | Factored
"""How an operation keeps the deviations of its copies."""


def choose(node: Operation, wanted: Copies, budget: int, unread: bool) -> Copies:
    """The representation of an operation's copies: the ``wanted`` one if it can be, dense within ``budget`` bytes.

    Outputs that may be ``unread`` need dense copies; those of open batches may be of any size.
    """
    can_be_factored = node.primitive.bilinear is not None and not unread
    if node.primitive.spread is None:
        if can_be_factored and isinstance(wanted, Factored):
            return wanted
        raise ValueError(
            f"{node.name}: its copies cannot be stored, since it was declared without a layout for them"
            + (", and some of its outputs may be read by nothing; " if unread else "; ")
            + "take copies=pj.Factored(...), give pj.bilinear a spread, or use alternating or cyclic projections"
        )
    copies = laid_out(node)
    if not can_be_factored or not meshes.is_open(*copies) and n_bytes(copies) <= budget:
        return Dense()
    return wanted


def n_bytes(arrays: Any) -> int:
    """The size of a tree of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


def _common_move(node: Operation, moves: Sequence[Move], side: Sequence[int]) -> Move:
    """The move of all slots of a side."""
    # A traced number is the same one only where it is one object.
    if len({tuple(id(n) if isinstance(n, Array) else n for n in moves[place]) for place in side}) > 1:
        raise ValueError(
            f"{node.name}: inputs on one side of its dot products move differently, since they are in different "
            'layers, which factored copies cannot do; take copies="dense", or another algorithm'
        )
    return moves[side[0]]


def _before_shared(fixed: tuple[bool, bool], deviation: Combination, scale: Factor) -> Combination:
    """The coefficients of what copies have beyond what they share, 0 for that unless it is a fixed operand."""
    return Combination(
        *(
            (*(() if is_fixed else (0.0,)), *(times(scale, term) for term in terms))
            for is_fixed, terms in zip(fixed, deviation, strict=True)
        )
    )


def _moved_terms(
    move: Move, fixed: tuple[bool, bool], deviation: Combination, change: Combination, like: Array
) -> Combination:
    """The coefficients of the deviations after a change, those of what the copies share first."""
    return Combination(
        *(
            tuple(
                jnp.broadcast_to(moved(move, old, new), like.shape)
                for old, new in zip(terms if is_fixed else (None, *terms), changes, strict=True)
            )
            for is_fixed, terms, changes in zip(fixed, deviation, change, strict=True)
        )
    )


def _missed(
    x_squares: Array, w_squares: Array, product: Array, z_change: Array, u: tuple[Any, Any], v: tuple[Any, Any]
) -> Array:
    """The root mean square of the distances by which copies without ``u x + u' w`` and ``v x + v' w`` miss their sets.

    To first order, from ``|x|^2``, ``|w|^2`` and ``x . w``: at the projected copies, which are about ``x`` and ``w``,
    the normal of the set before them is ``(w + t x, x + t w)``, over its length.
    """
    (of_u_x, of_u_w), (of_v_x, of_v_w) = u, v
    across = (of_u_x + of_v_w) * product + of_u_w * w_squares + of_v_x * x_squares
    along = (of_u_w + of_v_x) * product + of_u_x * x_squares + of_v_w * w_squares
    return rms_of((across - z_change * along) / jnp.sqrt(1 + x_squares + w_squares))
