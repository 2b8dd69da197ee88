"""``project_bilinear_map_factored`` of a matrix product, beside a gradient step and the kernel for dense layers."""

from collections.abc import Callable
from functools import partial

import pytest

import kernel_cases
import pjax_kernels as pk
from bench_dense_factored import gradients
from rows import Row, kernel_rows

DENSE = kernel_cases.layer_in_factored_form(1, 1, 1, history=1)  # the call is the same for arrays of every shape

ROWS = kernel_rows(
    pk.project_bilinear_map_factored,
    {"gradients": gradients, "project_dense_factored": partial(DENSE.call, implementation=None)},
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bilinear_map_factored(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
