"""The search for blocks, without a GPU: by a clock that knows which are best."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import tune
from benchmarks.measure.kernel_cases import TRITON_CASES, Case
from pjax_kernels import blocks, gpu

REPOSITORY = Path(__file__).parents[2]
START: Any = {
    "chip": "a chip",
    "kernel": "dense",
    "numbers": "tf32",
    "shape": [1, 256, 1024, 256],
    "blocks": {"TILE": 64, "INNER": 32, "num_warps": 4, "num_stages": 3},
}
BEST = {"TILE": 128, "INNER": 32, "num_warps": 8, "num_stages": 5}


def distance(sizes: blocks.Blocks) -> float:
    """In doublings, and stages, from the best."""
    return sum(
        abs(size - BEST[name]) if name == "num_stages" else max(size / BEST[name], BEST[name] / size)
        for name, size in sizes.items()
    )


def search(seconds: Any, *, limit: float = 60) -> Any:
    return tune.search(START, seconds, time.monotonic() + limit)


def test_the_search_climbs_to_the_best() -> None:
    seen = []

    def seconds(entry: Any) -> float:
        seen.append(entry["blocks"])
        assert {name: value for name, value in entry.items() if name != "blocks"} == {
            name: value for name, value in START.items() if name != "blocks"
        }
        return distance(entry["blocks"])

    found, ratio = search(seconds)
    assert found == START | {"blocks": BEST}
    assert ratio == pytest.approx(distance(BEST) / distance(START["blocks"]))
    assert len({tune.key(sizes) for sizes in seen}) == len(seen) - 2  # the first and the best are timed again
    assert all(1 <= sizes["num_warps"] <= 16 and 1 <= sizes["num_stages"] <= 6 for sizes in seen)


def test_what_does_not_run_is_passed_over() -> None:
    def seconds(entry: Any) -> float:
        if entry["blocks"]["TILE"] > 64:
            raise RuntimeError("out of resource: shared memory")
        return distance(entry["blocks"])

    assert search(seconds)[0]["blocks"] == BEST | {"TILE": 64}


def test_defaults_stay_where_others_are_faster_by_noise_only() -> None:
    assert search(lambda entry: 1.0 if entry["blocks"] == START["blocks"] else 0.98) is None


def test_a_lucky_measurement_is_not_believed() -> None:
    times = {tune.key(START["blocks"] | {"INNER": 64}): iter([0.5, 1.0])}
    assert search(lambda entry: next(times.get(tune.key(entry["blocks"]), iter([1.0])))) is None


def test_the_search_ends_in_time() -> None:
    calls = []
    assert search(lambda entry: calls.append(entry) or 1.0, limit=-1) is None
    assert len(calls) == 1


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu, "obstacle", lambda: None)
    monkeypatch.setattr(gpu, "chip", lambda: "a chip")


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", TRITON_CASES)
def test_every_case_asks_for_blocks_that_can_be_tuned(name: str) -> None:
    entry = tune.looked_up(TRITON_CASES[name])
    assert entry["chip"] == "a chip"
    assert set(entry["blocks"]) == set(blocks.DEFAULTS[entry["kernel"]](entry["shape"], entry["numbers"]))
    assert all(set(sizes) == set(entry["blocks"]) for sizes in tune.neighbours(entry["blocks"]))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_table_gets_what_is_found_and_failures_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, better, same = "bilinear 65536 x 784", "dense 256 x 784 x 256, high", "max 65536 x 784"
    table = tmp_path / "blocks.json"
    older = {"chip": "a chip", "kernel": "dense", "numbers": "tf32x3", "shape": [1, 256, 1024, 256], "blocks": {}}
    table.write_text(json.dumps([older | {"chip": "older chip"}, older]))

    def clock(case: Case) -> Any:
        if case is TRITON_CASES[failing]:
            raise RuntimeError("no such luck")
        return lambda entry: 1.0 if case is TRITON_CASES[same] else 1 / entry["blocks"]["num_warps"]

    assert tune.tune([failing, better, same], table, clock) == 1
    output = capsys.readouterr()
    assert f"{failing}: FAILED: RuntimeError: no such luck" in output.err
    assert f"{same}: " in output.out
    first, second = json.loads(table.read_text())
    assert first == older | {"chip": "a chip", "blocks": second and first["blocks"]}
    assert first["blocks"]["num_warps"] == 16
    assert second == older | {"chip": "older chip"}
    assert len(table.read_text().splitlines()) == 4


def test_without_a_gpu_it_stops_at_its_first_check() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.tune"]
    environment = {"PYTHONPATH": "kernels", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("no GPU kernel can be tuned here: ")
    assert len(run.stderr.splitlines()) == 1
    assert run.stdout == ""
