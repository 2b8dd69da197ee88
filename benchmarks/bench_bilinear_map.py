"""``project_bilinear_map`` beside a gradient step of the same map, the scores of attention."""

from collections.abc import Callable

import pytest

import pjax_kernels as pk
from kernel_cases import scores
from rows import Row, gradient_step, kernel_rows

ROWS = kernel_rows(pk.project_bilinear_map, {"gradients": gradient_step(scores)})


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bilinear_map(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
