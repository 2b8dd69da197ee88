"""The report of a GPU as far as it goes without one: its checks, its clock, and what it says of failures."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk
from benchmarks.gpu import report
from benchmarks.measure import kernel_cases, timing

SIZES = ("256 x 784 x 256", "4096 x 4096 x 4096")

REPOSITORY = Path(__file__).parents[2]
MACHINE = {
    "chip": "Some GPU-80GB",
    "platform": "driver 1\nversion 2",
    "versions": {"jax": "0.10.2"},
    "date": "2026-01-01",
    "copy_bandwidth": 2e12,
    "matmul_rate": {"highest": 5e13, "high": 1e14, "default": 4e14},
}
TIMES = {"triton": 2e-3, "xla": 3e-3, "reference": 3e-2, "size": 3_000_000_000, "flops": 0, "precision": "highest"}


def doubled(fault: str = "none") -> kernel_cases.Case:
    """As quick to compile as can be: the double and the sum of an array, with a fault where Triton computes them."""

    def call(x: jax.Array, *, implementation: str, increments: bool) -> tuple[jax.Array, jax.Array]:
        assert increments
        double = {"none": 2 * x, "zero": 0 * x, "nan": (2 * x).at[0, 0].set(jnp.nan)}[fault]
        return (double if implementation == "triton" else 2 * x), jnp.sum(x, axis=1)

    return kernel_cases.Case(call, ((5, 7),), lambda rng: (rng.standard_normal((5, 7), np.float32),), 4 * (2 * 35 + 5))


def test_right_results_pass() -> None:
    record = report.check(doubled(), oracle="reference")
    assert "error" not in record
    assert 0 < max(record["errors"]) < 1e-6


@pytest.mark.parametrize("fault", ["zero", "nan"])
def test_wrong_results_do_not(fault: str) -> None:
    assert report.check(doubled(fault), oracle="xla")["error"].startswith("wrong result")


def test_times_are_of_one_call_and_updates_go_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    seen = []

    def call(x: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda u: seen.append(float(u)), u)
        return u + x, x

    sets = [(jnp.full((), step), jnp.full((), start)) for step, start in ((1.0, 10.0), (2.0, 20.0))]
    assert timing.median_time(call, sets, updated=(1,)) == 0.5
    jax.effects_barrier()
    assert sorted(seen)[:2] == [10.0, 11.0]
    assert sorted(seen)[-1] == 20 + 2 * (timing.SAMPLES + 1)


def test_the_report_runs_to_the_end_and_names_what_failed(tmp_path: Path) -> None:
    failing = "dense copies 256 x 784 x 256"

    def run(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in names:
            timed = TIMES if name in kernel_cases.CASES else {}
            record = {"machine": MACHINE, failing: {"error": "exit code -6"}}
            yield name, record.get(name, {"errors": [1e-7], "tolerance": 1e-5} | only_timed(name, timed))

    assert report.report(tmp_path, run) == 1
    whole = json.loads((tmp_path / "gpu_some_gpu_80gb.json").read_text())
    assert set(whole["cases"]) == {*kernel_cases.CASES, *kernel_cases.ODD_CASES}
    text = (tmp_path / "gpu_some_gpu_80gb.md").read_text()
    assert f"| {failing} | FAILED: exit code -6 |" in text
    assert "| bilinear 65536 x 784 | 1.0e-07 | 2 ms | 3 ms | 1.5 ms | 1.33 | 0.67 |" in text
    assert "| margin 65536 x 256 | 1.0e-07 |  | 3 ms | 1.5 ms |  |  |" in text
    for line in (
        "bilinear 65536 x 784: floor/Triton | 0.85 | 0.75 | MISSED",
        f"{failing}: floor/Triton | 0.85 |  | MISSED",
        "dense 4096 x 4096 x 4096, default: XLA/Triton | 1.0 | 1.50 | met",
        "max pool 256 x 56 x 56 x 64, 2 x 2: XLA's sort/Triton | 10.0 | 15.00 | met",
        "sum relu 16384 x 1024: floor/XLA | 0.85 | 0.50 | MISSED",
    ):
        assert f"| {line} |" in text


def only_timed(name: str, times: dict[str, Any]) -> dict[str, Any]:
    """Without the times of implementations that this case has not."""
    untimed = {"triton", "xla", "reference"} - set(kernel_cases.CASES[name].implementations if times else ())
    return {key: value for key, value in times.items() if key not in untimed}


@pytest.mark.parametrize(
    ("goal", "names"),
    [
        (kernel_cases.AT_COPY_BANDWIDTH, ["bilinear", "dense copies", "threshold"]),
        (kernel_cases.NO_SLOWER_THAN_XLA, [f"dense {n}, {p}" for n in SIZES for p in kernel_cases.PRECISIONS]),
        (kernel_cases.FASTER_THAN_SORT, ["max pool"]),
        (kernel_cases.LEFT_TO_XLA, ["sum relu", "quantize", "margin"]),
    ],
)
def test_every_figure_wanted_is_a_goal(goal: kernel_cases.Goal, names: list[str]) -> None:
    cases = {name: case for name, case in kernel_cases.CASES.items() if goal in case.goals}
    assert all(any(case.startswith(name) for case in cases) for name in names)


SCRIPT = """
import json, os, sys, time
for name in sys.argv[2:]:
    with open("seen", "a") as seen:
        print(name, file=seen)
    if name == "hang":
        time.sleep(60)
    if name == "die" or (name == "poisoned" and len(sys.argv) > 3):
        sys.exit("broken context")
    print(json.dumps({"error": name} if name == "fail" else {"name": name}), flush=True)
    if name == "fail":
        break
"""


def run_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *names: str) -> tuple[dict[str, Any], list[str]]:
    """The records of a process that runs the script, and the parts in the order in which they were begun."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PROGRAM", (sys.executable, "part.py"))
    (tmp_path / "part.py").write_text(SCRIPT)
    return dict(report.run_parts(names)), (tmp_path / "seen").read_text().split()


def test_parts_share_a_process_until_one_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records, seen = run_script(monkeypatch, tmp_path, "a", "fail", "b", "die", "c")
    died = {"error": "exit code 1", "log": "broken context\n"}
    assert records == {
        "a": {"name": "a"},
        "fail": {"error": "fail"},
        "b": {"name": "b"},
        "die": died,
        "c": {"name": "c"},
    }
    assert seen == ["a", "fail", "b", "die", "die", "c"]


def test_what_only_others_broke_runs_in_a_new_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records, _ = run_script(monkeypatch, tmp_path, "a", "poisoned")
    assert records == {"a": {"name": "a"}, "poisoned": {"name": "poisoned"}}


def test_a_part_that_hangs_is_stopped_and_the_report_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "SECONDS_A_CASE", 1.0)
    monkeypatch.setattr(report, "SECONDS", 1.0)
    records, _ = run_script(monkeypatch, tmp_path, "hang", "late")
    assert records == {"hang": {"error": "stopped after 1 s"}, "late": {"error": "not run: out of time"}}


def test_exceptions_are_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr(report, "check", fail)
    record = report.part("bilinear 37 x 129")
    assert record["error"] == "ValueError: no such luck"
    assert "Traceback" in record["log"]


def test_without_a_gpu_the_report_stops_at_its_first_check(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.report", "--out", str(tmp_path)]
    environment = {"PYTHONPATH": "kernels", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "no GPU kernel can run here" in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "case",
    [
        kernel_cases.rows_of_copies(6, 5),
        kernel_cases.layer_with_deviations(4, 5, 3),
        kernel_cases.layer_in_consensus(4, 5, 3, "high"),
        kernel_cases.equal_layers(2, 4, 5, 3, "high"),
        kernel_cases.layer_in_factored_form(4, 5, 3, 2, "high"),
        kernel_cases.layer_as_factored_map(4, 5, 3),
        kernel_cases.attention_scores(2, 3, 5, 4),
        kernel_cases.images_and_filters(2, 5, 3, 4),
        kernel_cases.recurrence(2, 3, 4, 5),
        kernel_cases.with_residual(kernel_cases.layer_in_consensus(4, 5, 3), np.matmul, saved=2 * 4 * 5 * 3),
        kernel_cases.sums(pk.project_sum, 4, 5),
        kernel_cases.sums(pk.project_sum_relu, 4, 5),
        kernel_cases.rows_to_sum(4, 5),
        kernel_cases.rows_of_entries(4, 5),
        kernel_cases.windows_of_images(2, 6, 3, 2),
        kernel_cases.rounded(4, 5, 3),
        kernel_cases.logits_and_labels(pk.project_margin, 4, 5),
        kernel_cases.logits_and_labels(pk.prox_cross_entropy, 4, 5),
    ],
)
def test_cases_count_bytes_and_shapes(case: kernel_cases.Case) -> None:
    """By the arrays themselves."""
    arrays = case.arrays(np.random.default_rng(0))
    assert [(array.shape, array.dtype) for array in arrays] == [(shape, np.float32) for shape in case.shapes]
    outputs = jax.eval_shape(lambda *arrays: case.call(*arrays, implementation="xla"), *arrays)
    numbers = jax.tree.leaves(outputs)
    assert case.size == sum(array.size * array.dtype.itemsize for array in (*arrays, *numbers))
    assert all(outputs[i].shape == case.shapes[position] for i, position in enumerate(case.updated))
    assert case.operations >= case.flops
