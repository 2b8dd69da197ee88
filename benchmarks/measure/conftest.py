"""How bench_*.py are measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measure.kernel_cases import PRECISIONS
from benchmarks.measure.machine import machine
from benchmarks.measure.rows import Compiled, Row
from benchmarks.measure.timing import copy_bandwidth, matmul_rate

WARM_UP = 2
"""Calls before the clock is started; the plugin's calibration makes more."""


CEILINGS = pytest.StashKey[dict[str, Any]]()


@pytest.fixture(scope="session")
def ceilings(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Bytes a second of a copy and flops a second of matrix products, measured once."""
    on_cpu = jax.default_backend() == "cpu"
    count, size = (1 << 25, 1024) if on_cpu else (1 << 28, 8192)
    # Processors multiply float32 in one way, whatever the precision.
    rates = {"highest": matmul_rate("highest", size)} | {
        precision: matmul_rate(precision, size) for precision in (() if on_cpu else PRECISIONS[1:])
    }
    measured = {"copy_bandwidth": copy_bandwidth(count), "matmul_rate": rates}
    pytestconfig.stash[CEILINGS] = measured
    return measured


@pytest.fixture
def measure(benchmark: BenchmarkFixture, ceilings: dict[str, Any]) -> Callable[[Row], None]:
    """Time a row; skip it, with the reason, where its contender cannot run."""

    def measure_row(row: Row) -> None:
        try:
            row.trace()
        except NotImplementedError as reason:
            pytest.skip(str(reason))
        benchmark.group = row.group
        call = Compiled(row)
        for _ in range(WARM_UP):
            call()
        benchmark(call)
        benchmark.extra_info["compile_seconds"] = call.compile_seconds
        if benchmark.stats:  # else --benchmark-disable
            benchmark.extra_info |= row.figures(benchmark.stats.stats.median, ceilings)

    return measure_row


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", metavar="NAME", help="of a kernel, or of it on arrays")


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """The rows that are named, in short rounds, so that all of bench_*.py take minutes."""
    if name := config.getoption("--rows"):
        chosen = [item for item in items if re.match(rf"{re.escape(name)}(?!\w)", item.callspec.params["row"].group)]
        if not chosen:
            raise pytest.UsageError(f"no rows are named {name!r}; bench.md has the names")
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
    for item in items:
        if "measure" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(min_rounds=5, max_time=0.2))


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[BenchmarkFixture], output_json: dict[str, Any]
) -> None:
    """What was measured on, as in every result of this folder, in place of what names a computer and its users."""
    del benchmarks
    output_json["machine_info"] = machine() | {"ceilings": config.stash.get(CEILINGS, None)}
    output_json["commit_info"] = {key: output_json["commit_info"].get(key) for key in ("id", "dirty")}
