"""Fused projections onto the constraints of a neural network's elementary operations."""

from pjax_kernels.bilinear.api import project_bilinear
from pjax_kernels.bilinear_map.api import project_bilinear_map
from pjax_kernels.bilinear_map_factored.api import project_bilinear_map_factored
from pjax_kernels.combination import Coefficient, Combination, FactoredChanges
from pjax_kernels.conv.api import project_conv2d
from pjax_kernels.dense.api import project_dense
from pjax_kernels.dense_copies.api import DenseCopies, project_dense_copies
from pjax_kernels.dense_factored.api import project_dense_factored
from pjax_kernels.layer.api import project_layer
from pjax_kernels.maximum.api import project_max, project_max_pool
from pjax_kernels.output.api import project_margin, prox_cross_entropy
from pjax_kernels.quantize.api import project_quantize
from pjax_kernels.recurrence.api import project_recurrence
from pjax_kernels.sum.api import project_sum, project_sum_over
from pjax_kernels.sum_relu.api import project_sum_relu

__all__ = [
    "Coefficient",
    "Combination",
    "DenseCopies",
    "FactoredChanges",
    "project_bilinear",
    "project_bilinear_map",
    "project_bilinear_map_factored",
    "project_conv2d",
    "project_dense",
    "project_dense_copies",
    "project_dense_factored",
    "project_layer",
    "project_margin",
    "project_max",
    "project_max_pool",
    "project_quantize",
    "project_recurrence",
    "project_sum",
    "project_sum_over",
    "project_sum_relu",
    "prox_cross_entropy",
]
