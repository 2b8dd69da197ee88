"""Speed and memory of one iteration: SGD by jax.grad and optax, pjax, and textbook projections (naive.py).

All train the same ReLU network (no bias at the logits) with cross-entropy, in float32, on random data. Every
contender is a function state -> state, jitted with its state donated; the data are part of the state.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import pjax_core as pj
from benchmarks.measure import naive
from benchmarks.measure.machine import machine
from benchmarks.measure.networks import constraint, pjax, random_problem, sgd, stored_copies
from benchmarks.measure.timing import Contender, prepare

SCAN_LENGTH = 20
SOLVE_STEPS = 10


def solve_against_sgd(sizes: list[int], batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of calls of `solve`, the first of which compiles, and their ratios to as many steps of SGD in a scan."""
    params, x, y = random_problem(sizes, batch)
    problem, algorithm = pj.feasibility(constraint), pj.alternating_projections()

    def solve() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(
            pj.solve(problem, params, x, y, algorithm=algorithm, steps=SOLVE_STEPS, tolerance=math.inf)
        )
        return time.perf_counter() - begin

    first = solve()
    steps = prepare("SGD", batch, *sgd(params, x, y), length=SOLVE_STEPS, calls=1)
    ratios, seconds = [], []
    for _ in range(10 * rounds):
        seconds.append(solve())
        steps.measure()
        ratios.append(seconds[-1] / (SOLVE_STEPS * steps.seconds["scan"][-1]))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "solve_first_call_seconds": first,
        "solve_seconds": statistics.median(seconds),
        "solve_ratio": middle,
        "solve_ratio_quartiles": [low, high],
    }


def compare(sizes: list[int], batch: int, naive_batch: int, repeats: int, reflect: bool) -> list[Contender]:
    """Measure all contenders in turn, round after round, so that drift of the machine hits all alike."""
    contenders = []
    for size in sorted({batch, naive_batch}, reverse=True):
        problem = random_problem(sizes, size)
        contenders.append(prepare("SGD", size, *sgd(*problem), length=SCAN_LENGTH, calls=10))
        steps: dict[str, tuple[pj.Algorithm, Callable[..., naive.State] | None]] = {
            "AP": (pj.alternating_projections(), naive.alternating_projections),
            "AP in turn": (pj.alternating_projections(in_turn=True), None),
        }
        if reflect:
            factored = pj.douglas_rachford(copies=pj.Factored(history=1), budget=pj.DENSE_BUDGET)
            steps["DR"] = (factored, naive.douglas_rachford)
        for name, (algorithm, iterate) in steps.items():
            contenders.append(prepare(f"pjax {name}", size, *pjax(*problem, algorithm), length=SCAN_LENGTH, calls=10))
            if iterate is not None and size == naive_batch:
                contenders.append(prepare(f"naive {name}", size, *stored_copies(*problem, iterate), length=2, calls=1))
    for _ in range(repeats):
        for contender in contenders:
            contender.measure()
    return contenders


def figures(contenders: list[Contender]) -> list[dict[str, Any]]:
    """One row a contender; ratios are to SGD at the same batch size."""
    rows = []
    for contender in contenders:
        base = next(c for c in contenders if c.name == "SGD" and c.batch == contender.batch)
        row: dict[str, Any] = {"name": contender.name, "batch": contender.batch}
        for form in ("single", "scan"):
            row[f"{form}_ms"] = contender.milliseconds(form)
            row[f"{form}_ratio"] = contender.milliseconds(form) / base.milliseconds(form)
        row |= {"memory_bytes": contender.memory, "memory_ratio": contender.memory / base.memory}
        row["compile_seconds"] = contender.compile_seconds
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]], repeats: int) -> None:
    """The table, then pjax against naive."""
    print(f"\nMedian time of one iteration, {repeats} interleaved rounds; ratios to SGD at the same batch.")
    forms = "".join(f"{form:>13}{'ratio':>9}" for form in ("one call", "in a scan", "memory"))
    print(f"{'':16}{'batch':>6}{forms}{'compile':>10}")
    for row in rows:
        print(
            f"{row['name']:16}{row['batch']:6}"
            f"{row['single_ms']:10.3f} ms{row['single_ratio']:9.2f}"
            f"{row['scan_ms']:10.3f} ms{row['scan_ratio']:9.2f}"
            f"{row['memory_bytes'] / 2**20:9.2f} MiB{row['memory_ratio']:9.2f}"
            f"{row['compile_seconds']:8.2f} s"
        )
    for fast in (row for row in rows if row["name"].startswith("pjax")):
        slow = next(row for row in rows if row["name"] == f"naive {fast['name'].split()[1]}")
        single, scan = (slow[form] / fast[form] for form in ("single_ms", "scan_ms"))
        print(
            f"{slow['name']} at batch {slow['batch']} takes {single:.0f} times as long as {fast['name']} "
            f"at {fast['batch']} (one call; in a scan {scan:.0f})"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 256, 256, 10], metavar="N")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--naive-batch", type=int, default=64, help="batch for naive.py (default: 64)")
    parser.add_argument("--repeats", type=int, help="rounds (default: 15, or 3 if --quick)")
    parser.add_argument("--reflect", action="store_true", help="Douglas-Rachford too: large layers factored, history 1")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args()
    arguments.repeats = arguments.repeats or (3 if arguments.quick else 15)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    network_name = "-".join(map(str, arguments.sizes))
    described = machine()
    print(f"{network_name}, float32, jax {described['jax']}, {described['cores']} x {described['cpu']}")
    solving = solve_against_sgd(arguments.sizes, arguments.batch, arguments.repeats)
    print(
        f"pjax.solve, {SOLVE_STEPS} steps of AP: {solving['solve_first_call_seconds']:.2f} s with compilation, then "
        f"{1e3 * solving['solve_seconds']:.1f} ms, {solving['solve_ratio']:.2f} times as many steps of SGD in a scan "
        f"(quartiles {solving['solve_ratio_quartiles'][0]:.2f} and {solving['solve_ratio_quartiles'][1]:.2f})"
    )
    rows = figures(
        compare(arguments.sizes, arguments.batch, arguments.naive_batch, arguments.repeats, arguments.reflect)
    )
    print_table(rows, arguments.repeats)
    if arguments.json:
        settings = {"sizes": arguments.sizes, "repeats": arguments.repeats}
        result = described | settings | solving | {"rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
