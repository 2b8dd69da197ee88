"""Checks and times every kernel on this machine's GPU, and writes a report.

The cases run in a process that is replaced after each failure, so that one that fails, even by breaking its GPU
context, is named in the report and the others still run.  A case is checked on fresh random inputs against float64,
then timed beside XLA and the floor: the larger of bytes over the measured copy bandwidth and flops over the measured
rate of matrix products.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import RESULTS, ROOT
from benchmarks.measure.kernel_cases import CASES, ODD_CASES, PRECISIONS, Case
from benchmarks.measure.timing import copy_bandwidth, floor, matmul_rate, median_time
from pjax_kernels import gpu

SECONDS = 420
"""For all cases; those that would start later are reported as not run."""

SECONDS_A_CASE = 90

TOLERANCES = {"highest": 1e-5, "high": 1e-4, "default": 5e-3}
"""Of the relative error of changes, by the precision of the products; residuals are 2 % of ``1 + |x|^2 + |w|^2``."""

PROGRAM = sys.executable, "-m", "benchmarks.gpu.report"

INPUT_SETS = 4
"""For which the calls are compiled together: no cache holds the inputs, and no call waits for Python."""


def main() -> int:
    """Run everything, or in this process the parts that ``--only`` names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="'machine' or cases: print a line of JSON for each, up to a failure")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    options = parser.parse_args()
    if not options.only:
        return report(options.out, run_parts)
    obstacle = gpu.obstacle()
    for name in options.only:
        record = {"error": f"no GPU kernel can run here: {obstacle}"} if obstacle else part(name)
        print(json.dumps(record), flush=True)
        if "error" in record:
            break  # what comes next deserves a new process
        jax.clear_caches()
    return 0


def report(out: Path, run: Callable[[Sequence[str]], Iterator[tuple[str, dict[str, Any]]]]) -> int:
    """Run the parts one after the other, write the files after each; 1 if something failed."""
    whole: dict[str, Any] = {"machine": {}, "cases": {}, "goals": []}
    for name, record in run(("machine", *ODD_CASES, *CASES)):
        if name == "machine" and "error" in record:
            print(record["error"], file=sys.stderr)
            return 1
        if name == "machine":
            whole["machine"] = record
        else:
            whole["cases"][name] = record
        whole["goals"] = goals(whole)
        write(whole, out)
        print(f"{name}: {record.get('error', 'done')}", file=sys.stderr)
    print(table(whole))
    return 1 if any("error" in record for record in whole["cases"].values()) else 0


def write(whole: dict[str, Any], out: Path) -> None:
    """The report so far, named after the chip."""
    out.mkdir(parents=True, exist_ok=True)
    stem = "gpu_" + re.sub(r"\W+", "_", whole["machine"]["chip"]).strip("_").lower()
    (out / f"{stem}.json").write_text(json.dumps(whole, indent=1) + "\n")
    (out / f"{stem}.md").write_text(table(whole))


def run_parts(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts one after the other, each with its record, or what went wrong."""
    end = time.monotonic() + SECONDS
    remaining = list(names)
    while remaining:
        for record in run_process(remaining, end):
            yield remaining.pop(0), record


def run_process(names: Sequence[str], end: float) -> Iterator[dict[str, Any]]:
    """The records of the first ``names``, at least one, as far as one process gets."""
    if time.monotonic() >= end:
        yield {"error": "not run: out of time"}
        return
    command = [*PROGRAM, "--only", *names]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        for number in range(len(names)):
            seconds = max(0.0, min(end - time.monotonic(), SECONDS_A_CASE))
            timer = threading.Timer(seconds, process.kill)
            timer.start()
            line = process.stdout.readline()
            in_time = timer.is_alive()
            timer.cancel()
            if line.startswith("{"):
                yield json.loads(line)
                continue
            code = process.wait()
            if not in_time:
                yield {"error": f"stopped after {seconds:.0f} s"}
            elif number == 0:
                log.seek(0)
                yield {"error": f"exit code {code}", "log": log.read()[-4000:]}
            return  # after others, which may have broken it, it is tried again in a process of its own


def part(name: str) -> dict[str, Any]:
    """The record of the machine or of a case; an exception is part of it."""
    try:
        if name == "machine":
            return machine()
        if name in ODD_CASES:
            return check(ODD_CASES[name], oracle="reference")
        checked = check(CASES[name], oracle="xla")
        return checked if "error" in checked else checked | times(CASES[name])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300], "log": traceback.format_exc()[-4000:]}


def machine() -> dict[str, Any]:
    """The chip, the versions, the date, and the two ceilings."""
    packages = ("jax", "jaxlib", "jax-triton", "triton", "numpy")
    return {
        "chip": jax.devices()[0].device_kind,
        "platform": jax.extend.backend.get_backend().platform_version,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "date": datetime.date.today().isoformat(),
        "copy_bandwidth": copy_bandwidth(),
        "matmul_rate": {precision: matmul_rate(precision) for precision in PRECISIONS},
    }


def check(case: Case, *, oracle: str) -> dict[str, Any]:
    """The largest relative errors of two calls on fresh inputs, the memory of whose outputs held NaN before."""
    checked = case.implementations[0]
    compiled = jax.jit(lambda *arrays: case.call(*arrays, implementation=checked, increments=True))
    errors: list[list[float]] = []
    for _ in range(2):
        arrays = case.arrays(np.random.default_rng())
        inputs = jax.block_until_ready([jnp.asarray(array) for array in arrays])
        poison(jax.eval_shape(compiled, *inputs))
        results = [np.asarray(result, np.float64) for result in compiled(*inputs)]
        errors.append(relative_errors(results, expected_results(case, arrays, oracle)))
    worst: list[float] = np.max(np.array(errors), axis=0).tolist()
    record: dict[str, Any] = {"errors": worst, "tolerance": TOLERANCES[case.precision]}
    if not all(error <= TOLERANCES[case.precision] for error in worst):  # NaN never passes
        record["error"] = f"wrong result: relative errors {worst}"
    return record


def poison(shapes: Sequence[jax.ShapeDtypeStruct]) -> None:
    """Fills memory with NaN, and frees it for outputs of these shapes to be put there."""
    blocks = [jnp.full(shape.shape, jnp.nan, shape.dtype) for shape in shapes]
    for block in jax.block_until_ready(blocks):
        block.delete()


def expected_results(case: Case, arrays: Sequence[np.ndarray], oracle: str) -> list[np.ndarray]:
    """In float64, on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [jnp.asarray(array, np.float64) for array in arrays]
        results = jax.jit(lambda *arrays: case.call(*arrays, implementation=oracle, increments=True))(*wide)
        return [np.asarray(result) for result in results]


def relative_errors(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[float]:
    """``|result - expected| / |expected|`` of each."""
    pairs = zip(results, expected, strict=True)
    return [float(np.linalg.norm(x - y) / max(float(np.linalg.norm(y)), 1e-300)) for x, y in pairs]


def times(case: Case) -> dict[str, Any]:
    """Seconds a call, by each implementation, and by the first again: the difference of the two is noise."""
    rng = np.random.default_rng()
    sets = [tuple(jnp.asarray(array) for array in case.arrays(rng)) for _ in range(INPUT_SETS)]
    record: dict[str, Any] = {"size": case.size, "flops": case.flops, "precision": case.precision}
    for implementation in (*case.implementations, case.implementations[0]):
        name = f"{implementation}_again" if implementation in record else implementation
        record[name] = median_time(partial(case.call, implementation=implementation), sets, case.updated)
    return record


def table(whole: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine = whole["machine"]
    rates = ", ".join(f"{name} {rate / 1e12:.1f} Tflop/s" for name, rate in machine["matmul_rate"].items())
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"# Kernels on {machine['chip']}",
        "",
        f"{machine['date']}; {versions}; {' '.join(machine['platform'].split())}.",
        f"Measured ceilings: copy {machine['copy_bandwidth'] / 1e9:.0f} GB/s; products of float32: {rates}.",
        "",
        "| case | largest error | Triton | XLA | floor | Triton/floor | Triton/XLA |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [row(name, record, machine) for name, record in whole["cases"].items()]
    lines += ["", "| goal | at least | measured | |", "| --- | --- | --- | --- |"]
    for goal in whole["goals"]:
        measured = "" if goal["measured"] is None else f"{goal['measured']:.2f}"
        lines.append(f"| {goal['name']} | {goal['least']} | {measured} | {'met' if goal['met'] else 'MISSED'} |")
    return "\n".join(lines) + "\n"


def row(name: str, record: dict[str, Any], machine: dict[str, Any]) -> str:
    """Of one case."""
    if "error" in record:
        return f"| {name} | FAILED: {record['error'].replace('|', '/')} | | | | | |"
    error = f"{max(record['errors']):.1e}"
    if "xla" not in record:
        return f"| {name} | {error} | | | | | |"
    triton, xla, lowest = record.get("triton"), record["xla"], floor(record, machine)
    times = " | ".join("" if seconds is None else f"{1e3 * seconds:.4g} ms" for seconds in (triton, xla, lowest))
    ratios = " | ".join("" if triton is None else f"{triton / other:.2f}" for other in (lowest, xla))
    return f"| {name} | {error} | {times} | {ratios} |"


def goals(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal of each case so far, and whether it is met: not where the case failed."""
    labels = {"floor": "floor", "triton": "Triton", "xla": "XLA", "reference": "XLA's sort"}
    judged = []
    for name, record in whole["cases"].items():
        for goal in CASES[name].goals if name in CASES else ():
            measured = None
            if "error" not in record:
                record = record | {"floor": floor(record, whole["machine"])}
                measured = record[goal.slower] / record[goal.faster]
            judged.append(
                {
                    "name": f"{name}: {labels[goal.slower]}/{labels[goal.faster]}",
                    "least": goal.times,
                    "measured": measured,
                    "met": measured is not None and measured >= goal.times,
                }
            )
    return judged


if __name__ == "__main__":
    sys.exit(main())
