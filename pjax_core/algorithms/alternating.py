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
        in_turn: let each projection work in place, in a loop that runs once.  That takes less memory where weights are
            larger than values, and more time.  It matters on CPUs: elsewhere nothing changes.

    Raises:
        TypeError: ``in_turn`` is not True or False.
    """
    if not isinstance(in_turn, bool):
        raise TypeError(f"in_turn is {described(in_turn)}; pass True for less memory, or False for less time")
    return consensus_algorithm(
        lambda graph: (graph.coloured(Colour.B), graph.coloured(Colour.A)), started=True, in_turn=in_turn
    )
