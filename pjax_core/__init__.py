"""Train networks by projections: a function becomes a feasibility problem, an algorithm solves it."""

from pjax_core.algorithms import (
    DENSE_BUDGET,
    Algorithm,
    alternating_projections,
    alternating_reflections,
    cyclic_douglas_rachford,
    cyclic_projections,
    difference_map,
    douglas_rachford,
)
from pjax_core.copies import Factored
from pjax_core.ops import (
    add,
    broadcast_to,
    concatenate,
    cross_entropy,
    dot,
    index,
    margin_loss,
    matmul,
    relu,
    reshape,
    stack,
    sum_relu,
    transpose,
)
from pjax_core.solve import Info, Solution, evaluate, feasibility, solve

__all__ = [
    "DENSE_BUDGET",
    "Algorithm",
    "Factored",
    "Info",
    "Solution",
    "add",
    "alternating_projections",
    "alternating_reflections",
    "broadcast_to",
    "concatenate",
    "cross_entropy",
    "cyclic_douglas_rachford",
    "cyclic_projections",
    "difference_map",
    "dot",
    "douglas_rachford",
    "evaluate",
    "feasibility",
    "index",
    "margin_loss",
    "matmul",
    "relu",
    "reshape",
    "solve",
    "stack",
    "sum_relu",
    "transpose",
]
