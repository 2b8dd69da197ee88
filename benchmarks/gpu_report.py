"""Checks and times every kernel on this machine's GPU, and writes a report.

Each case runs in a process of its own, so that one that fails, even by breaking its GPU context, is named in the report
and the others still run.  A case is checked on fresh random inputs against float64, then timed beside XLA and the
floor: the larger of bytes over the measured copy bandwidth and flops over the measured rate of matrix products.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernel_cases import CASES, ODD_CASES, PRECISIONS, Case
from pjax_kernels import gpu

RESULTS = Path(__file__).parent / "results"

SECONDS = 420
"""For all cases; those that would start later are reported as not run."""

SECONDS_A_CASE = 90

TOLERANCES = {"highest": 1e-5, "high": 1e-4, "default": 5e-3}
"""Of the relative error of changes, by the precision of the products; residuals are 2 % of ``1 + |x|^2 + |w|^2``."""

SAMPLES = 15
SMALLEST_SAMPLE = 4e-3
"""Seconds: a sample repeats calls until it is at least this long."""

INPUT_SETS = 4
"""For which the calls are compiled together: no cache holds the inputs, and no call waits for Python."""


def main() -> int:
    """Run everything, or the part that ``--only`` names, in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="'machine' or one case: print its record as JSON")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    options = parser.parse_args()
    if options.only:
        obstacle = gpu.obstacle()
        record = {"error": f"no GPU kernel can run here: {obstacle}"} if obstacle else part(options.only)
        print(json.dumps(record))
        return 0
    return report(options.out, run_part)


def report(out: Path, run: Callable[[str, float], dict[str, Any]]) -> int:
    """Run the parts one after the other, write the files; 1 if something failed."""
    start = time.monotonic()
    machine = run("machine", SECONDS_A_CASE)
    if "error" in machine:
        print(machine["error"], file=sys.stderr)
        return 1
    records = {}
    for name in (*ODD_CASES, *CASES):
        left = SECONDS - (time.monotonic() - start)
        records[name] = run(name, min(left, SECONDS_A_CASE)) if left > 0 else {"error": "not run: out of time"}
        print(f"{name}: {records[name].get('error', 'done')}", file=sys.stderr)
    whole = {"machine": machine, "cases": records}
    out.mkdir(parents=True, exist_ok=True)
    stem = "gpu_" + re.sub(r"\W+", "_", machine["chip"]).strip("_").lower()
    (out / f"{stem}.json").write_text(json.dumps(whole, indent=1) + "\n")
    (out / f"{stem}.md").write_text(table(whole))
    print(table(whole))
    return 1 if any("error" in record for record in records.values()) else 0


def run_part(name: str, seconds: float) -> dict[str, Any]:
    """A part in a process of its own; what went wrong, if something did."""
    command = [sys.executable, __file__, "--only", name]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {seconds:.0f} s"}
    try:
        record: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": f"exit code {run.returncode}", "log": run.stderr[-4000:]}
    return record


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


def copy_bandwidth(count: int = 1 << 28) -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    x = jax.random.normal(jax.random.key(0), (count,))
    seconds = median_time(lambda x: (-x,), [(x,)])
    return 2 * x.nbytes / seconds


def matmul_rate(precision: str, size: int = 8192) -> float:
    """Flops a second of a large product of float32."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    seconds = median_time(lambda x, y: (jnp.matmul(x, y, precision=precision),), [(x, x.T)])
    return 2 * size**3 / seconds


def check(case: Case, *, oracle: str) -> dict[str, Any]:
    """The largest relative errors of two calls on fresh inputs, the memory of whose outputs held NaN before."""
    compiled = jax.jit(lambda *arrays: case.call(*arrays, implementation="triton", increments=True))
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
    """Seconds a call, by Triton, by XLA, and by Triton again: the difference of the two is noise."""
    rng = np.random.default_rng()
    sets = [tuple(jnp.asarray(array) for array in case.arrays(rng)) for _ in range(INPUT_SETS)]
    record: dict[str, Any] = {"size": case.size, "flops": case.flops, "precision": case.precision}
    for name, implementation in (("triton", "triton"), ("xla", "xla"), ("triton_again", "triton")):
        record[name] = median_time(partial(case.call, implementation=implementation), sets, case.updated)
    return record


def median_time(call: Callable[..., Any], sets: list[tuple[jax.Array, ...]], updated: tuple[int, ...] = ()) -> float:
    """Seconds a call, the median over samples, of calls for every set compiled together."""

    @partial(jax.jit, donate_argnums=0)
    def call_all(updates: list[list[jax.Array]], sets: list[tuple[jax.Array, ...]]) -> list[Any]:
        return [call(*merged(arrays, updated, update)) for update, arrays in zip(updates, sets, strict=True)]

    # Donated: what a call updates in place goes into the next one.  The rest is passed without it.
    updates = [[jnp.copy(arrays[position]) for position in updated] for arrays in sets]
    others = [merged(arrays, updated, [jnp.zeros(())] * len(updated)) for arrays in sets]

    def sample(repetitions: int) -> float:
        nonlocal updates
        start = time.perf_counter()
        for _ in range(repetitions):
            results = call_all(updates, others)
            updates = [list(result[: len(updated)]) for result in results]
        jax.block_until_ready(results)
        return time.perf_counter() - start

    sample(1)  # compiles
    repetitions = 1
    while sample(repetitions) < SMALLEST_SAMPLE:
        repetitions *= 2
    return statistics.median(sample(repetitions) for _ in range(SAMPLES)) / repetitions / len(sets)


def merged(arrays: Sequence[jax.Array], positions: Sequence[int], new: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """``arrays`` with those at ``positions`` replaced."""
    replaced = list(arrays)
    for position, array in zip(positions, new, strict=True):
        replaced[position] = array
    return tuple(replaced)


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
    return "\n".join(lines) + "\n"


def row(name: str, record: dict[str, Any], machine: dict[str, Any]) -> str:
    """Of one case."""
    if "error" in record:
        return f"| {name} | FAILED: {record['error'].replace('|', '/')} | | | | | |"
    error = f"{max(record['errors']):.1e}"
    if "triton" not in record:
        return f"| {name} | {error} | | | | | |"
    triton, xla = record["triton"], record["xla"]
    lowest = floor(record, machine)
    milliseconds = " | ".join(f"{1e3 * seconds:.4g} ms" for seconds in (triton, xla, lowest))
    return f"| {name} | {error} | {milliseconds} | {triton / lowest:.2f} | {triton / xla:.2f} |"


def floor(record: dict[str, Any], machine: dict[str, Any]) -> float:
    """Seconds that no version can be much faster than."""
    return max(
        record["size"] / machine["copy_bandwidth"], record["flops"] / machine["matmul_rate"][record["precision"]]
    )


if __name__ == "__main__":
    sys.exit(main())
