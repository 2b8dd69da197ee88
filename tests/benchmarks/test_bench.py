"""The benchmarks cover every kernel, and each of their rows can be traced."""

import contextlib
import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = sorted(path.stem for path in BENCHMARKS.glob("bench_*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_rows_can_be_traced(module):
    for row in importlib.import_module(module).ROWS:
        if row.contender in ("triton", "tpu"):
            with contextlib.suppress(NotImplementedError):
                row.trace()
        else:
            row.trace()
