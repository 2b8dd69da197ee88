"""Every kernel that is declared, on its cases (kernel_cases.py), beside its baselines (baselines.py)."""

from collections.abc import Callable

import pytest

from benchmarks.measure.rows import Row, kernel_rows
from pjax_kernels.kernel import declared

ROWS = [row for kernel in declared() for row in kernel_rows(kernel)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_kernel(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
