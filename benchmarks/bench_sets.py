"""The projections onto sets beside a copy of the array, the least that a projection must do."""

from collections.abc import Callable

import jax
import pytest

import pjax_kernels as pk
from rows import Row, kernel_rows


def copy(value: jax.Array) -> list[jax.Array]:
    return [2 * value]


ROWS = [
    row
    for kernel in (
        pk.project_sphere,
        pk.project_levels,
        pk.project_sparse,
        pk.project_one_hot,
        pk.project_simplex,
        pk.project_orthonormal,
    )
    for row in kernel_rows(kernel, {"copy": copy})
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_sets(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
