"""The report of a GPU as far as it goes without one: its checks, its clock, and what it says of failures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpu_report
import kernel_cases
import pjax_kernels as pk

REPOSITORY = Path(__file__).parents[2]
MACHINE = {
    "chip": "Some GPU-80GB",
    "platform": "driver 1\nversion 2",
    "versions": {"jax": "0.10.2"},
    "date": "2026-01-01",
    "copy_bandwidth": 2e12,
    "matmul_rate": {"highest": 5e13, "high": 1e14, "default": 4e14},
}
TIMES = {"triton": 2e-3, "triton_again": 2e-3, "xla": 3e-3, "size": 3_000_000_000, "flops": 0, "precision": "highest"}


def doubled(fault: str = "none") -> kernel_cases.Case:
    """As quick to compile as can be: the double and the sum of an array, with a fault where Triton computes them."""

    def call(x: jax.Array, *, implementation: str, increments: bool) -> tuple[jax.Array, jax.Array]:
        assert increments
        double = {"none": 2 * x, "zero": 0 * x, "nan": (2 * x).at[0, 0].set(jnp.nan)}[fault]
        return (double if implementation == "triton" else 2 * x), jnp.sum(x, axis=1)

    return kernel_cases.Case(call, ((5, 7),), lambda rng: (rng.standard_normal((5, 7), np.float32),), 4 * (2 * 35 + 5))


def test_right_results_pass() -> None:
    record = gpu_report.check(doubled(), oracle="reference")
    assert "error" not in record
    assert 0 < max(record["errors"]) < 1e-6


@pytest.mark.parametrize("fault", ["zero", "nan"])
def test_wrong_results_do_not(fault: str) -> None:
    assert gpu_report.check(doubled(fault), oracle="xla")["error"].startswith("wrong result")


def test_times_are_of_one_call_and_updates_go_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(gpu_report.time, "perf_counter", lambda: next(clock))
    seen = []

    def call(x: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda u: seen.append(float(u)), u)
        return u + x, x

    sets = [(jnp.full((), step), jnp.full((), start)) for step, start in ((1.0, 10.0), (2.0, 20.0))]
    assert gpu_report.median_time(call, sets, updated=(1,)) == 0.5
    jax.effects_barrier()
    assert sorted(seen)[:2] == [10.0, 11.0]
    assert sorted(seen)[-1] == 20 + 2 * (gpu_report.SAMPLES + 1)


def test_the_report_runs_to_the_end_and_names_what_failed(tmp_path: Path) -> None:
    failing = "dense copies 256 x 784 x 256"

    def run(name: str, seconds: float) -> dict[str, Any]:
        assert 0 < seconds <= gpu_report.SECONDS_A_CASE
        if name == "machine":
            return MACHINE
        if name == failing:
            return {"error": "exit code -6"}
        return {"errors": [1e-7], "tolerance": 1e-5} | (TIMES if name in kernel_cases.CASES else {})

    assert gpu_report.report(tmp_path, run) == 1
    whole = json.loads((tmp_path / "gpu_some_gpu_80gb.json").read_text())
    assert set(whole["cases"]) == {*kernel_cases.CASES, *kernel_cases.ODD_CASES}
    text = (tmp_path / "gpu_some_gpu_80gb.md").read_text()
    assert f"| {failing} | FAILED: exit code -6 |" in text
    assert "| bilinear 65536 x 784 | 1.0e-07 | 2 ms | 3 ms | 1.5 ms | 1.33 | 0.67 |" in text


def test_a_part_that_dies_or_hangs_is_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "part.py"
    monkeypatch.setattr(gpu_report, "__file__", str(script))
    script.write_text("import sys; print('half'); sys.exit('broken context')")
    assert gpu_report.run_part("a case", 10) == {"error": "exit code 1", "log": "broken context\n"}
    script.write_text("import time; time.sleep(60)")
    assert gpu_report.run_part("a case", 0.5) == {"error": "stopped after 0 s"}


def test_exceptions_are_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such luck")

    monkeypatch.setattr(gpu_report, "check", fail)
    record = gpu_report.part("bilinear 37 x 129")
    assert record["error"] == "ValueError: no such luck"
    assert "Traceback" in record["log"]


def test_without_a_gpu_the_report_stops_at_its_first_check(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu_report.py"), "--out", str(tmp_path)]
    paths = ":".join(str(REPOSITORY / folder) for folder in ("kernels", "benchmarks"))
    run = subprocess.run(command, env={"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert run.returncode == 1
    assert "no GPU kernel can run here" in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "case",
    [
        kernel_cases.rows_of_copies(6, 5),
        kernel_cases.layer_with_deviations(4, 5, 3),
        kernel_cases.layer_in_consensus(4, 5, 3, "high"),
        kernel_cases.factored_layer(4, 5, 3),
        kernel_cases.layer_as_factored_map(4, 5, 3),
        kernel_cases.attention_scores(2, 3, 5, 4),
        kernel_cases.images_and_filters(2, 5, 3, 4),
        kernel_cases.time_steps(2, 3, 4, 5),
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
