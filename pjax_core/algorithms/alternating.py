"""Alternating projections."""

from __future__ import annotations

from pjax_core.algorithms.base import Algorithm, consensus_algorithm, made_once
from pjax_core.arrays.messages import described
from pjax_core.copies.consensus import LARGE
from pjax_core.graph.graph import Colour


@made_once
def alternating_projections(*, in_turn: bool = False) -> Algorithm:
    """Alternating projections: ``z <- P_B(P_A(z))`` (paper, section 4), in consensus form.

    No copy is stored, since after ``P_A`` all copies of a value agree.  The state is kept after ``P_A``, one half
    step on, where the fewest arrays are alive; the parameters read from it are those after whole steps.

    Args:
        in_turn: let the projections onto all layers work one after the other, as those onto large ones do in any case.
            On CPUs that takes less memory, and with many small layers, whose work the cores would share, more time;
            elsewhere it changes nothing.

    Raises:
        TypeError: ``in_turn`` is not True or False.
    """
    if not isinstance(in_turn, bool):
        raise TypeError(f"in_turn is {described(in_turn)}; pass True for less memory, or False for less time")
    return consensus_algorithm(
        lambda graph: (graph.coloured(Colour.B), graph.coloured(Colour.A)), started=True, large=1 if in_turn else LARGE
    )
