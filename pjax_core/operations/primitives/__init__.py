"""The operations of this package, each declared in one place."""

from pjax_core.operations.primitives.choices import at_rank, choice, largest, maximum, minimum, quantize, threshold
from pjax_core.operations.primitives.outputs import (
    MULTIPLIED,
    absolute_error,
    cross_entropy,
    cross_entropy_rows,
    margin_loss,
    output_constraint,
    pull_of_losses,
    squared_error,
)
from pjax_core.operations.primitives.products import (
    divide,
    dot,
    einsum,
    matmul,
    matmul_transposed,
    multiply,
    recurrence,
)
from pjax_core.operations.primitives.scalars import affine, clip, elementwise, straight_through
from pjax_core.operations.primitives.sums import add, identity, scatter_sum, signed_sum, sum_over, sum_relu
from pjax_core.operations.primitives.windows import average_pool, conv2d, convolution_of_any_kind, max_pool

__all__ = [
    "MULTIPLIED",
    "absolute_error",
    "add",
    "affine",
    "at_rank",
    "average_pool",
    "choice",
    "clip",
    "conv2d",
    "convolution_of_any_kind",
    "cross_entropy",
    "cross_entropy_rows",
    "divide",
    "dot",
    "einsum",
    "elementwise",
    "identity",
    "largest",
    "margin_loss",
    "matmul",
    "matmul_transposed",
    "max_pool",
    "maximum",
    "minimum",
    "multiply",
    "output_constraint",
    "pull_of_losses",
    "quantize",
    "recurrence",
    "scatter_sum",
    "signed_sum",
    "squared_error",
    "straight_through",
    "sum_over",
    "sum_relu",
    "threshold",
]
