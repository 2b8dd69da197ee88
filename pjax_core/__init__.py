"""Train networks by projections: a function becomes a feasibility problem, an algorithm solves it."""

from pjax_core.algorithms import Algorithm, alternating_projections, cyclic_projections
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
    "Algorithm",
    "Info",
    "Solution",
    "add",
    "alternating_projections",
    "broadcast_to",
    "concatenate",
    "cross_entropy",
    "cyclic_projections",
    "dot",
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
