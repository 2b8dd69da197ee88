"""``project_conv2d`` beside a gradient step of the convolution."""

from collections.abc import Callable

import pytest

import pjax_kernels as pk
from bilinear import convolve
from rows import Row, gradient_step, kernel_rows

ROWS = kernel_rows(pk.project_conv2d, {"gradients": gradient_step(convolve)})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_conv(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
