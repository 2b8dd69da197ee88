"""Fused projections onto the constraints of a neural network's elementary operations."""

from pjax_kernels.bilinear.api import project_bilinear
from pjax_kernels.bilinear_map.api import project_bilinear_map
from pjax_kernels.combination import Coefficient, Combination, FactoredChanges
from pjax_kernels.dense.api import project_dense
from pjax_kernels.dense_copies.api import DenseCopies, project_dense_copies
from pjax_kernels.dense_factored.api import project_dense_factored
from pjax_kernels.dense_factored.combination import Coefficient, Combination, DenseFactored
from pjax_kernels.maximum.api import project_max, project_max_pool
from pjax_kernels.output.api import project_margin, prox_cross_entropy
from pjax_kernels.quantize.api import project_quantize
from pjax_kernels.sum.api import project_sum
