"""Train networks by projections: a function becomes a feasibility problem, an algorithm solves it."""

from pjax_core import deprecated, metric
from pjax_core.algorithms.alternating import alternating_projections
from pjax_core.algorithms.base import DENSE_BUDGET, Algorithm
from pjax_core.algorithms.cyclic import cyclic_douglas_rachford, cyclic_projections
from pjax_core.algorithms.difference_map import difference_map
from pjax_core.algorithms.reflections import alternating_reflections, douglas_rachford, reflect_reflect_relax
from pjax_core.copies.factored import Factored
from pjax_core.deprecated import *  # noqa: F403
from pjax_core.direction import direction, value_and_direction
from pjax_core.graph.layers import Layer
from pjax_core.graph.sets import Box, Levels, OneHot, Orthonormal, Simplex, Sparse, Sphere
from pjax_core.problem import feasibility
from pjax_core.restarts import best, restarts
from pjax_core.solve import Info, Solution, evaluate, solve
from pjax_core.testing import check_projection
from pjax_core.threshold_networks import Circuits, CircuitSearch, ThresholdNetwork
from pjax_core.trace.named.added import bilinear, primitive
from pjax_core.trace.named.choices import identity, quantize, threshold
from pjax_core.trace.named.losses import absolute_error, cross_entropy, margin_loss, output, squared_error, within
from pjax_core.trace.named.recurrence import recurrence
from pjax_core.until import gap_below

__all__ = [
    "DENSE_BUDGET",
    "Algorithm",
    "Box",
    "CircuitSearch",
    "Circuits",
    "Factored",
    "Info",
    "Layer",
    "Levels",
    "OneHot",
    "Orthonormal",
    "Simplex",
    "Solution",
    "Sparse",
    "Sphere",
    "ThresholdNetwork",
    "absolute_error",
    "alternating_projections",
    "alternating_reflections",
    "best",
    "bilinear",
    "check_projection",
    "cross_entropy",
    "cyclic_douglas_rachford",
    "cyclic_projections",
    "difference_map",
    "direction",
    "douglas_rachford",
    "evaluate",
    "feasibility",
    "gap_below",
    "identity",
    "margin_loss",
    "metric",
    "output",
    "primitive",
    "quantize",
    "recurrence",
    "reflect_reflect_relax",
    "restarts",
    "solve",
    "squared_error",
    "threshold",
    "value_and_direction",
    "within",
]
__all__ += deprecated.__all__  # for one release
