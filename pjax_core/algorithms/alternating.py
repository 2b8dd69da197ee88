"""Alternating projections."""

from __future__ import annotations

from pjax_core.algorithms.base import Algorithm, consensus_algorithm, made_once
from pjax_core.arrays.messages import described
from pjax_core.graph.colour import Colour


@made_once
def alternating_projections(*, in_turn: bool = False) -> Algorithm:
    """Alternating projections: ``z <- P_B(P_A(z))`` (paper, section 4), in consensus form.

    No copy is stored, since after ``P_A`` all copies of a value agree.  The state is kept after ``P_A``, one half
    step on, where the fewest arrays are alive; the parameters read from it are those after whole steps.

    Args:
        in_turn: let the projections work one after the other and in place, each in a loop that runs once.  That takes
            more time, and less memory but where the batch is small beside the inputs, whose weights are held whole.
            Loops are for CPUs: elsewhere such weights are all that changes.

    Raises:
        TypeError: ``in_turn`` is not True or False.
    """
    if not isinstance(in_turn, bool):
        raise TypeError(f"in_turn is {described(in_turn)}; pass True for less memory, or False for less time")
    return consensus_algorithm(
        lambda graph: (graph.coloured(Colour.B), graph.coloured(Colour.A)), started=True, in_turn=in_turn
    )
