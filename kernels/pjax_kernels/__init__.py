"""Fused projections onto the constraints of a neural network's elementary operations.

What all kernels have in common:

- They return their arrays after the projection, in the structures, shapes and dtypes given, computed in float32 or
  wider; with ``increments=True`` the changes instead, in the dtype of the computation: a change is often far smaller
  than the rounding of the value.  The factored kernels and those of stored deviations say what they return.
- ``residual``, of the shape of ``z``, is what ``z`` has beyond the output that follows from the inputs, where known
  better than by subtraction: changes far below the rounding of ``z`` are lost in that.
- ``implementation`` is one of those listed, or None for the best that runs here.  A ``ValueError`` says where it is
  unknown, a ``NotImplementedError`` where there is none of that name for the kernel, or it cannot run here.
"""

from pjax_kernels.affine.api import project_affine
from pjax_kernels.average_pool.api import project_average_pool
from pjax_kernels.bilinear.api import project_bilinear
from pjax_kernels.bilinear_map.api import project_bilinear_map
from pjax_kernels.bilinear_map_factored.api import project_bilinear_map_factored
from pjax_kernels.combination import Coefficient, Combination, FactoredChanges
from pjax_kernels.conv.api import project_conv2d
from pjax_kernels.dense.api import project_dense
from pjax_kernels.dense_copies.api import DenseCopies, project_dense_copies
from pjax_kernels.dense_factored.api import project_dense_factored
from pjax_kernels.elementwise.api import project_elementwise
from pjax_kernels.elementwise.functions import ELEMENTWISE
from pjax_kernels.layer.api import project_layer
from pjax_kernels.maximum.api import project_max, project_max_pool, project_min
from pjax_kernels.normalize.api import project_normalize
from pjax_kernels.output.api import project_margin, prox_cross_entropy
from pjax_kernels.quantize.api import project_quantize
from pjax_kernels.recurrence.api import project_recurrence
from pjax_kernels.regression.api import project_box, prox_absolute_error, prox_squared_error
from pjax_kernels.sets.api import (
    project_levels,
    project_one_hot,
    project_orthonormal,
    project_simplex,
    project_sparse,
    project_sphere,
)
from pjax_kernels.sum.api import project_sum, project_sum_over
from pjax_kernels.sum_relu.api import project_sum_relu
from pjax_kernels.threshold.api import project_threshold, project_threshold_dense
from pjax_kernels.threshold.root import ThresholdRoot, threshold_root

__all__ = [
    "ELEMENTWISE",
    "Coefficient",
    "Combination",
    "DenseCopies",
    "FactoredChanges",
    "ThresholdRoot",
    "project_affine",
    "project_average_pool",
    "project_bilinear",
    "project_bilinear_map",
    "project_bilinear_map_factored",
    "project_box",
    "project_conv2d",
    "project_dense",
    "project_dense_copies",
    "project_dense_factored",
    "project_elementwise",
    "project_layer",
    "project_levels",
    "project_margin",
    "project_max",
    "project_max_pool",
    "project_min",
    "project_one_hot",
    "project_orthonormal",
    "project_normalize",
    "project_quantize",
    "project_recurrence",
    "project_simplex",
    "project_sparse",
    "project_sphere",
    "project_sum",
    "project_sum_over",
    "project_sum_relu",
    "project_threshold",
    "project_threshold_dense",
    "prox_absolute_error",
    "prox_cross_entropy",
    "prox_squared_error",
    "threshold_root",
]
