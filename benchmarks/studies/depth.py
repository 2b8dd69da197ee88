"""Time of an iteration against depth: alternating projections beside SGD by jax.grad, on equal layers.

Every layer is as wide as the batch is large, 128 by default.  Medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.figure import Figure

import pjax_core as pj
from benchmarks.measure.machine import machine
from benchmarks.measure.networks import pjax, random_problem, sgd
from benchmarks.measure.timing import Contender, prepare

SCAN_LENGTH = 5
FORMS = {"single": "one call", "scan": "in a scan"}


@dataclass(frozen=True)
class Row:
    """One depth and contender."""

    depth: int
    contender: str
    single_ms: float
    scan_ms: float
    compile_seconds: float  # of a single step, with tracing
    instructions: int  # of its compiled program


def measure(depth: int, width: int, rounds: int) -> list[Row]:
    """SGD, then AP, on ``depth`` layers."""
    problem = random_problem([width] * (depth + 1), width)
    starts = {"SGD": sgd(*problem), "AP": pjax(*problem, pj.alternating_projections())}
    contenders = [prepare(name, width, *start, length=SCAN_LENGTH, calls=5) for name, start in starts.items()]
    for _ in range(rounds):
        for contender in contenders:
            contender.measure()
    return [row(depth, contender) for contender in contenders]


def row(depth: int, contender: Contender) -> Row:
    return Row(
        depth=depth,
        contender=contender.name,
        single_ms=contender.milliseconds("single"),
        scan_ms=contender.milliseconds("scan"),
        compile_seconds=contender.compile_seconds,
        instructions=contender.instructions,
    )


def ratios(rows: Sequence[Row], depth: int) -> dict[str, float]:
    """AP over SGD at a depth, by form."""
    ap, base = (next(r for r in rows if (r.depth, r.contender) == (depth, name)) for name in ("AP", "SGD"))
    return {form: getattr(ap, f"{form}_ms") / getattr(base, f"{form}_ms") for form in FORMS}


def draw(rows: Sequence[Row], width: int) -> Figure:
    """Time against depth, a line for each contender and form."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    depths = sorted({row.depth for row in rows})
    for name, colour in (("SGD", "C7"), ("AP", "C0")):
        for form, style in (("single", "-"), ("scan", "--")):
            times = [getattr(r, f"{form}_ms") for r in rows if r.contender == name]
            panel.plot(depths, times, colour + style, marker="o", label=f"{name}, {FORMS[form]}")
    panel.set(xscale="log", yscale="log", xlabel="layers", ylabel="ms an iteration", title=f"width and batch {width}")
    panel.set_xticks(depths, [str(depth) for depth in depths], minor=False)
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def write(rows: Sequence[Row], width: int, folder: Path) -> None:
    """depth.csv and depth.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "depth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    draw(rows, width).savefig(folder / "depth.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], metavar="LAYERS")
    parser.add_argument("--width", type=int, default=128, help="of every layer, and samples in the batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for depth.csv and depth.png")
    arguments = parser.parse_args()
    described = machine()
    print(f"float32, jax {described['jax']}, {described['cores']} x {described['cpu']}")
    print(f"{'layers':>6}  {'':4}{'one call':>14}{'in a scan':>14}{'compilation':>14}{'instructions':>14}")
    rows: list[Row] = []
    for depth in arguments.depths:
        rows += measure(depth, arguments.width, arguments.rounds)
        for r in rows[-2:]:
            times = f"{r.single_ms:11.3f} ms{r.scan_ms:11.3f} ms{r.compile_seconds:12.2f} s{r.instructions:14}"
            print(f"{r.depth:6}  {r.contender:4}{times}", flush=True)
        ratio = ratios(rows, depth)
        print(f"        AP takes {ratio['single']:.2f} times as long as SGD, {ratio['scan']:.2f} in a scan", flush=True)
        if arguments.out:
            write(rows, arguments.width, arguments.out)


if __name__ == "__main__":
    main()
