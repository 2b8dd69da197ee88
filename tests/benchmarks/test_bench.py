"""The benchmarks cover every kernel, each row can be traced, and a comparison finds what became slower."""

import contextlib
import json
import re
import subprocess
import sys

import pytest

import pjax_kernels as pk
from benchmarks import ROOT
from benchmarks.measure import bench, bench_kernels, bench_steps
from benchmarks.studies import depth

LARGE_MAX = "2048 x 784, float32", "2048 x 784, bfloat16"
KERNELS = {name for name in pk.__all__ if name.startswith(("project_", "prox_"))}


def test_every_kernel_has_rows_and_each_group_one_baseline_that_comes_first():
    rows = [*bench_kernels.ROWS, *bench_steps.ROWS]
    assert {row.subject for row in rows} == KERNELS | {"step"}
    groups = {row.group: [] for row in rows}
    for row in rows:
        groups[row.group].append(row)
    for group in groups.values():
        assert [row.is_baseline for row in group] == [True] + [False] * (len(group) - 1)
        assert len({row.contender for row in group}) == len(group) > 1
        assert group[0].size > 0


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_rows_can_be_traced(kernel):
    for row in bench_kernels.ROWS:
        if row.subject != kernel:
            continue
        if row.contender in ("triton", "tpu"):
            with contextlib.suppress(NotImplementedError):
                row.trace()
        else:
            row.trace()


def test_steps_can_be_traced():
    """The smallest network, one step; the others differ in shapes alone."""
    group = bench_steps.ROWS[0].group
    for row in bench_steps.ROWS:
        if row.group == group:
            row.trace()


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("project_dense 32 x 64 x 32", {"project_dense 32 x 64 x 32, float32"}),
        ("project_max", {f"project_max {size}" for size in ("32 x 32, float32", *LARGE_MAX)}),
        ("784-128-10", {row.group for row in bench_steps.ROWS if row.group.startswith("784-128-10,")}),
    ],
)
def test_rows_are_chosen_by_name(name, groups):
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *bench.pytest_arguments(name, None)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    rows = [row for row in (*bench_kernels.ROWS, *bench_steps.ROWS) if row.group in groups]
    assert sorted(re.findall(r"\[(.*)\]", listed)) == sorted(map(str, rows)) != []


def test_no_rows_of_an_unknown_name(capfd):
    assert bench.main(["--rows", "project_den"]) == 1
    assert "no rows are named 'project_den'" in capfd.readouterr().err


def test_a_run_of_a_file_is_reported(tmp_path, capfd, monkeypatch):
    """With its baseline and the implementations that run here; on a busy machine, so no figure is compared."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # the plugin measures nothing in parallel runs
    assert bench.main(["--only", "project_margin and 256", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["extra_info"]["contender"]: row for row in results["benchmarks"]}
    assert set(rows) == {"gradients", "reference", "xla"}
    assert len({row["group"] for row in rows.values()}) == 1
    info, seconds = rows["xla"]["extra_info"], rows["xla"]["stats"]["median"]
    assert info["GB/s"] * seconds == pytest.approx(3 * 4 * 256 * 10 / 1e9)
    assert info["GFLOP/s"] * seconds == pytest.approx(3 * 256 * 10 / 1e9)
    ceilings = results["machine_info"]["ceilings"]
    assert info["share_of_floor"] * seconds == pytest.approx(3 * 4 * 256 * 10 / ceilings["copy_bandwidth"])
    assert "node" not in results["machine_info"]
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "bench.md").read_text()
    assert "| project_margin 256 x 10, float32 | xla |" in table
    assert table in capfd.readouterr().out


def results(**milliseconds):
    """Made up: names are GROUP_CONTENDER, and the baselines are called base."""
    return {
        "machine_info": {
            "cores": 2,
            "cpu": "cpu",
            "date": "2026-01-01",
            "jax": "0.10",
            "platform": "cpu",
            "ceilings": {"copy_bandwidth": 1e10, "matmul_rate": {"highest": 1e11}},
        },
        "benchmarks": [
            {
                "group": f"{name.split('_')[0]}, float32",
                "fullname": f"bench_x.py::{name}",
                "stats": {"median": 1e-3 * time, "min": 1e-3 * time},
                "extra_info": {
                    "contender": name.split("_")[1],
                    "subject": "project_x",
                    "baseline": name.endswith("base"),
                    "GB/s": 1.0,
                    "GFLOP/s": 2.0,
                    "operations_a_byte": 0.5,
                    "share_of_floor": 0.25,
                },
            }
            for name, time in milliseconds.items()
        ],
    }


OLD = results(small_base=2, small_xla=3, large_base=10, large_xla=10, large_triton=5)


def compare(tmp_path, new, *options):
    paths = tmp_path / "old.json", tmp_path / "new.json"
    for path, content in zip(paths, (OLD, new), strict=True):
        path.write_text(json.dumps(content))
    return bench.main(["--compare", str(paths[0]), "--results", str(paths[1]), *options])


def test_a_part_without_its_baseline_is_reported(tmp_path, capsys):
    new = results(small_xla=3, large_base=10, large_xla=10)
    assert compare(tmp_path, new) == 0
    printed = capsys.readouterr().out
    assert "| small, float32 | xla | 3 | not measured |  |" in printed
    assert "| large, float32 | xla | 10 | base 10 ms | 1.00 |" in printed
    assert "0 of 1 rows became slower" in printed


def test_a_slower_machine_is_no_regression(tmp_path, capsys):
    new = results(small_base=20, small_xla=30, large_base=35, large_xla=35, large_triton=17.5)
    assert compare(tmp_path, new, "--threshold", "1.01") == 0
    assert "0 of 3 rows became slower" in capsys.readouterr().out


def test_a_row_that_became_slower_than_its_baseline_fails(tmp_path, capsys):
    new = results(small_base=1, small_xla=1.5, large_base=5, large_xla=6.5, large_triton=2.5)
    assert compare(tmp_path, new) == 1
    printed = capsys.readouterr().out
    assert "1 of 3 rows became slower by a factor of more than 1.2" in printed
    (line,) = [line for line in printed.splitlines() if line.endswith("SLOWER")]
    assert line.split() == ["1.000", "1.300", "1.30", "large,", "float32,", "xla", "SLOWER"]
    assert compare(tmp_path, new, "--threshold", "1.4") == 0


def test_a_faster_baseline_counts_as_a_slower_row(tmp_path):
    assert compare(tmp_path, results(small_base=1, small_xla=3)) == 1


def test_rows_of_one_run_only_are_named(tmp_path, capsys):
    assert compare(tmp_path, results(small_base=2, small_xla=3, small_tpu=9)) == 0
    printed = capsys.readouterr().out
    assert "In one of the runs only: large, float32, triton; large, float32, xla; small, float32, tpu" in printed
    assert "0 of 1 rows" in printed


def test_nothing_in_common_fails(tmp_path, capsys):
    assert compare(tmp_path, results(other_base=1, other_xla=1)) == 1
    assert "no row in common" in capsys.readouterr().err


@pytest.mark.parametrize(("again", "code"), [([3], 0), ([4, 3], 0), ([4, 5, 4], 1)])
def test_what_became_slower_is_measured_again(tmp_path, monkeypatch, again, code):
    runs = [results(small_base=2, small_xla=5, large_base=10, large_xla=10)]
    runs += [results(small_base=2, small_xla=time) for time in again]
    chosen = []

    def measure(arguments):
        chosen.append(arguments)
        return runs.pop(0)

    monkeypatch.setattr(bench, "measure", measure)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(OLD))
    assert bench.main(["--compare", str(path)]) == code
    assert chosen[1:] == [["bench_x.py::small_base", "bench_x.py::small_xla"]] * len(again)
    assert path.read_text() == json.dumps(OLD)


def test_a_comparison_that_cannot_be_measured_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda arguments: None)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(OLD))
    assert bench.main(["--compare", str(path)]) == 1


def test_the_default_run_writes_everything(tmp_path, monkeypatch):
    scripts = []
    monkeypatch.setattr(bench, "measure", lambda arguments: OLD)
    monkeypatch.setattr(bench.subprocess, "run", lambda command, **_: scripts.append(command[2]))
    assert bench.main(["--output", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.md", "roofline.png"}
    assert scripts == ["benchmarks.studies.representations", "benchmarks.studies.depth"]


def test_times_against_depth_are_written_and_compared(tmp_path):
    times = (2, "SGD", 1.0, 0.5), (2, "AP", 3.0, 1.0), (4, "SGD", 2.0, 1.0), (4, "AP", 3.0, 4.0)
    rows = [depth.Row(*row, compile_seconds=1.0, instructions=100) for row in times]
    assert depth.ratios(rows, 2) == {"single": 3.0, "scan": 2.0}
    assert depth.ratios(rows, 4) == {"single": 1.5, "scan": 4.0}
    depth.write(rows, 128, tmp_path)
    lines = (tmp_path / "depth.csv").read_text().splitlines()
    assert lines[:2] == ["depth,contender,single_ms,scan_ms,compile_seconds,instructions", "2,SGD,1.0,0.5,1.0,100"]
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
