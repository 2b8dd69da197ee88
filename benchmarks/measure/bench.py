"""Measures every kernel and the steps of the algorithms (bench_*.py), and compares them with an earlier run.

Writes bench.json (of pytest-benchmark), bench.md (the table) and roofline.png; then time and memory against width
(representations.py) and time against depth (depth.py).  With --compare, --rows or --only, nothing is written without
--output.

A comparison is of ratios: the least time of a row over that of its group's baseline in the same run, now and then. So
a slower machine, or one that is busy throughout, changes nothing.  Groups beyond the threshold are measured again, at
most three times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks import RESULTS, ROOT

HERE = Path(__file__).parent
OUTPUT = RESULTS / "bench"
WIDTHS = ("64", "256", "1024")
MEASURED_AGAIN = 3
"""How often rows are that seem slower."""

KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
"""What lets the C library of Linux keep memory that a call freed: to give outputs of 16 MiB back to the system, which
clears them before the next call, takes some machines four times as long as a kernel."""

Results = dict[str, Any]
"""What pytest-benchmark writes."""

Key = tuple[str, str]
"""A group and a contender."""


class Change(NamedTuple):
    """The ratio of a row to its baseline, in two runs."""

    group: str
    contender: str
    then: float
    now: float

    @property
    def factor(self) -> float:
        return self.now / self.then


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 if a row has become slower, or measuring failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help=f"folder (default: {OUTPUT.relative_to(ROOT)})")
    parser.add_argument(
        "--rows", metavar="NAME", help="those of a kernel, or of it on arrays: project_dense 32 x 64 x 32"
    )
    parser.add_argument("--only", metavar="EXPRESSION", help="rows that match, as of pytest -k; no plots against size")
    parser.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="fail if a row became slower than it was there"
    )
    parser.add_argument("--threshold", type=float, default=1.2, help="slower by more than this factor (default: 1.2)")
    parser.add_argument("--results", type=Path, metavar="NEW.json", help="report on these instead of measuring")
    options = parser.parse_args(arguments)
    partial_run = options.rows or options.only or options.compare or options.results
    output = options.output or (None if partial_run else OUTPUT)
    old = json.loads(options.compare.read_text()) if options.compare else None

    chosen = pytest_arguments(options.rows, options.only)
    results = json.loads(options.results.read_text()) if options.results else measure(chosen)
    if results is None:
        return 1
    print(table(results))
    if output:
        write(results, output)
        if not partial_run:
            measure_sizes(output)
    if old is None:
        return 0
    found = changes(old, results)
    for _ in range(0 if options.results else MEASURED_AGAIN):
        again = slower(found, options.threshold)
        if not again:
            break
        print(f"Measuring {len(again)} rows again, and all of their groups")
        repeated = measure(names(results, {change.group for change in again}))
        found = found if repeated is None else better(found, changes(old, repeated))
    return report(found, options.threshold, keys(old) ^ keys(results), bool(options.rows or options.only))


def pytest_arguments(rows: str | None, only: str | None) -> list[str]:
    """All files, or what is named or matches in them."""
    files = [str(path) for path in sorted(HERE.glob("bench_*.py"))]
    return [*files, *(["--rows", rows] if rows else []), *(["-k", only] if only else [])]


def measure(chosen: Sequence[str]) -> Results | None:
    """Run pytest on files or rows; None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.json"
        settings = ["--quiet", "-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={path}"]
        command = [sys.executable, "-m", "pytest", *settings, *chosen]
        run = subprocess.run(command, cwd=ROOT, env=os.environ | KEPT_MEMORY)
        if run.returncode:
            print(f"pytest failed with exit code {run.returncode}", file=sys.stderr)
            return None
        results: Results = json.loads(path.read_text())
        for row in results["benchmarks"]:
            row["stats"].pop("data", None)  # every single time: megabytes
        return results


def measure_sizes(output: Path) -> None:
    """Time and memory against width, time against depth."""
    for study, arguments in {"representations": ("--widths", *WIDTHS), "depth": ("--rounds", "3")}.items():
        command = [sys.executable, "-m", f"benchmarks.studies.{study}", "--out", str(output.resolve()), *arguments]
        subprocess.run(command, cwd=ROOT, env=os.environ | KEPT_MEMORY, check=True)


def write(results: Results, output: Path) -> None:
    """The results, the table and the roofline."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "bench.md").write_text(table(results))
    roofline(results).savefig(output / "roofline.png", dpi=150)


def median(row: dict[str, Any]) -> float:
    """Seconds of a call."""
    return float(row["stats"]["median"])


def least(row: dict[str, Any]) -> float:
    """Seconds of the fastest round of calls: other work on a machine only ever adds to it."""
    return float(row["stats"]["min"])


def ratios(results: Results, seconds: Callable[[dict[str, Any]], float] = median) -> dict[Key, float]:
    """The median time of each row over that of its group's baseline, or another time of both."""
    bases = baselines(results)
    return {
        (row["group"], row["extra_info"]["contender"]): seconds(row) / seconds(bases[row["group"]])
        for row in results["benchmarks"]
        if not row["extra_info"]["baseline"] and row["group"] in bases
    }


def baselines(results: Results) -> dict[str, dict[str, Any]]:
    """The baseline of each group, but of those that were measured without."""
    return {row["group"]: row for row in results["benchmarks"] if row["extra_info"]["baseline"]}


def keys(results: Results) -> set[Key]:
    """The rows that are not baselines."""
    return set(ratios(results))


def changes(old: Results, new: Results) -> list[Change]:
    """Of the rows that both runs have."""
    then, now = ratios(old, least), ratios(new, least)
    return [Change(*key, then[key], now[key]) for key in now if key in then]


def slower(found: Sequence[Change], threshold: float) -> list[Change]:
    """Those beyond the threshold."""
    return [change for change in found if change.factor > threshold]


def better(first: Sequence[Change], second: Sequence[Change]) -> list[Change]:
    """The faster of two measurements of each row that was measured twice: noise only ever makes a row slower."""
    again = {change[:2]: change for change in second}
    return [min(change, again.get(change[:2], change), key=lambda c: c.factor) for change in first]


def names(results: Results, groups: set[str]) -> list[str]:
    """What pytest calls the rows of groups."""
    return [row["fullname"] for row in results["benchmarks"] if row["group"] in groups]


def report(found: Sequence[Change], threshold: float, unpaired: set[Key], part: bool) -> int:
    """Print all changes, the largest last; 1 if one is beyond the threshold or there are none."""
    print(f"{'then':>10}{'now':>10}{'factor':>8}  times of a row over its baseline's")
    for change in sorted(found, key=lambda change: change.factor):
        mark = "  SLOWER" if change.factor > threshold else ""
        print(f"{change.then:10.3f}{change.now:10.3f}{change.factor:8.2f}  {change.group}, {change.contender}{mark}")
    if unpaired and not part:
        print("In one of the runs only: " + "; ".join(sorted(", ".join(key) for key in unpaired)))
    if not found:
        print("The runs have no row in common: nothing was compared", file=sys.stderr)
        return 1
    count = len(slower(found, threshold))
    print(f"{count} of {len(found)} rows became slower by a factor of more than {threshold}")
    return 1 if count else 0


def table(results: Results) -> str:
    """In Markdown, a line for each row that is no baseline."""
    machine = results["machine_info"]
    rates = machine["ceilings"]
    bases = baselines(results)
    copy, product = rates["copy_bandwidth"] / 1e9, rates["matmul_rate"]["highest"] / 1e9
    lines = [
        f"# {machine['cores']} x {machine['cpu']}",
        "",
        f"{machine['date']}; jax {machine['jax']} on {machine['platform']}. Medians. "
        f"Measured ceilings: copy {copy:.1f} GB/s, products of float32 {product:.0f} GFLOP/s. "
        "The floor is the longer of bytes over the one and flops of matrix products over the other; what stays in a "
        "cache can be faster. GFLOP/s counts all operations.",
        "",
        "| arrays | contender | ms | baseline | ratio | GB/s | GFLOP/s | share of floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    relative = ratios(results)
    for row in results["benchmarks"]:
        info = row["extra_info"]
        if info["baseline"]:
            continue
        base, ratio = "not measured", ""  # where a part was chosen that leaves the baseline out
        if row["group"] in bases:
            baseline = bases[row["group"]]
            base = f"{baseline['extra_info']['contender']} {1e3 * median(baseline):.3g} ms"
            ratio = f"{relative[row['group'], info['contender']]:.2f}"
        lines.append(
            f"| {row['group']} | {info['contender']} | {1e3 * median(row):.3g} | {base} | {ratio} "
            f"| {info['GB/s']:.3g} | {info['GFLOP/s']:.3g} | {info['share_of_floor']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def roofline(results: Results) -> Figure:
    """Operations a second against operations a byte, of the fastest implementation on each kernel's largest arrays."""
    rates = results["machine_info"]["ceilings"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    panel = figure.subplots()
    fastest: dict[str, dict[str, Any]] = {}
    for row in results["benchmarks"]:
        info = row["extra_info"]
        if row["group"].endswith("float32") and not info["baseline"] and info["contender"] != "reference":
            # Groups go from small to large arrays, so that a later one replaces an earlier one.
            same_group = fastest.get(info["subject"], {}).get("group") == row["group"]
            if not same_group or median(row) < median(fastest[info["subject"]]):
                fastest[info["subject"]] = row
    for place, (subject, row) in enumerate(fastest.items()):
        info = row["extra_info"]
        marker = "osD^v"[place // 10]
        panel.plot(info["operations_a_byte"], info["GFLOP/s"], marker, color=f"C{place % 10}", label=subject)
    intensities = sorted(row["extra_info"]["operations_a_byte"] for row in fastest.values()) or [1.0]
    bandwidth, rate = rates["copy_bandwidth"] / 1e9, rates["matmul_rate"]["highest"] / 1e9
    roof = sorted({intensities[0] / 2, rate / bandwidth, intensities[-1] * 2})
    panel.plot(roof, [min(rate, bandwidth * x) for x in roof], "k", lw=1)
    panel.annotate(f"{bandwidth:.1f} GB/s, {rate:.0f} GFLOP/s", (rate / bandwidth, rate), ha="right", va="bottom")
    panel.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s", title="float32")
    panel.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize="small")
    return figure


if __name__ == "__main__":
    sys.exit(main())
