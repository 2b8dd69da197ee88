"""Time to compile a step of each algorithm beside one of SGD by jax.grad, on 16 dense layers of different widths.

Then the same for each public kernel alone.  Every round lowers and compiles anew, with all caches cleared.  Beside the
wall time stands the time of all processors, which other programs on the machine disturb less, and the size of the
program: what decides is the number of kernels that the compiler makes, hardly how long they are.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import pjax_core as pj
from benchmarks.measure.kernel_cases import BENCHMARKS
from benchmarks.measure.machine import machine
from benchmarks.measure.networks import pjax, random_problem, sgd

LAYERS = 16
ALGORITHMS: dict[str, Callable[[], pj.Algorithm]] = {
    "AP": pj.alternating_projections,
    "CP": pj.cyclic_projections,
    "DR": pj.douglas_rachford,
    "DM": pj.difference_map,
}

Row = dict[str, Any]


def measure(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], rounds: int) -> Row:
    """Seconds from tracing to the compiled program, least and median of the rounds, and the size of the program."""
    wall, processors = [], []
    for _ in range(rounds):
        jax.clear_caches()
        begin, begin_processors = time.perf_counter(), time.process_time()
        lowered = jax.jit(function).lower(*arguments)
        compiled = lowered.compile()
        wall.append(time.perf_counter() - begin)
        processors.append(time.process_time() - begin_processors)
    text = compiled.as_text() or ""
    return {
        "name": name,
        "seconds": min(wall),
        "median_seconds": statistics.median(wall),
        "processor_seconds": min(processors),
        "stablehlo_lines": lowered.as_text().count("\n"),
        "instructions": text.count(" = "),
        "fusions": len(re.findall(r" fusion\(", text)),
    }


def steps(algorithms: list[str], batch: int, rounds: int) -> list[Row]:
    """SGD, then the algorithms."""
    problem = random_problem([64 + 8 * k for k in range(LAYERS + 1)], batch)
    contenders = {"SGD": sgd(*problem)} | {name: pjax(*problem, ALGORITHMS[name]()) for name in algorithms}
    return [measure(name, step, (start,), rounds) for name, (step, start) in contenders.items()]


def kernels(rounds: int) -> list[Row]:
    """Each public kernel on its largest arrays, by the implementation in jax.numpy."""

    def alone(kernel: str) -> Row:
        name, case = list(BENCHMARKS[kernel].items())[-1]
        shapes = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in case.shapes)
        return measure(f"{kernel} {name}", lambda *a: case.call(*a, implementation="xla"), shapes, rounds)

    return [alone(kernel) for kernel in BENCHMARKS]


def print_rows(rows: list[Row]) -> None:
    """Ratios are to the first row, by the least times."""
    print(f"{'':36}{'min':>8}{'median':>9}{'ratio':>8}{'CPU':>8}{'ratio':>8}{'StableHLO':>11}{'HLO':>8}{'fusions':>9}")
    for row in rows:
        ratios = [row[key] / rows[0][key] for key in ("seconds", "processor_seconds")]
        print(
            f"{row['name'][:36]:36}{row['seconds']:7.2f}s{row['median_seconds']:8.2f}s{ratios[0]:8.1f}"
            f"{row['processor_seconds']:7.2f}s{ratios[1]:8.1f}"
            f"{row['stablehlo_lines']:11}{row['instructions']:8}{row['fusions']:9}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="*", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-kernels", action="store_true", help="leave out the kernels alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args()
    rows = steps(arguments.algorithms, arguments.batch, arguments.rounds)
    rows += [] if arguments.no_kernels else kernels(arguments.rounds)
    print_rows(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(machine() | {"batch": arguments.batch, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
