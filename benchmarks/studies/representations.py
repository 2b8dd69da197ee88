"""Time and memory of a step by how copies are kept, against the width of a layer; and one very wide layer.

The network is 64-N-N-10: the N x N layer holds 2 batch N N copies. Memory is what the state of the algorithm and the
temporaries of a compiled step take, without parameters and data.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import pjax_core as pj
from benchmarks.measure.machine import machine
from benchmarks.measure.networks import constraint, random_problem
from benchmarks.measure.timing import copied

INPUTS, CLASSES = 64, 10
REPRESENTATIONS: dict[str, Callable[[], pj.Algorithm]] = {
    "consensus (AP)": pj.alternating_projections,
    "factored, history 1 (DR)": lambda: pj.douglas_rachford(copies=pj.Factored(history=1)),
    "factored, history 3 (DR)": lambda: pj.douglas_rachford(copies=pj.Factored(history=3)),
    "dense (DR)": lambda: pj.douglas_rachford(copies="dense"),
}


@dataclass(frozen=True)
class Row:
    """One width and representation."""

    width: int
    batch: int
    representation: str
    milliseconds: float  # of a step, median
    mebibytes: float  # of state and temporaries, without parameters and data


def n_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure(sizes: list[int], batch: int, name: str, limit: int, calls: int) -> Row | None:
    """Time and memory of a step; None if the copies before and after it would take more than `limit` bytes."""
    if name.startswith("dense") and 16 * batch * max(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True)) > limit:
        return None
    params, x, y = random_problem(sizes, batch)
    problem, algorithm = pj.feasibility(constraint), REPRESENTATIONS[name]()
    state = copied(algorithm.init(problem, params, x, y))
    step = jax.jit(lambda state: algorithm.step(problem, state), donate_argnums=0).lower(state).compile()
    used: Any = step.memory_analysis()
    beyond = n_bytes(state) + used.output_size_in_bytes - used.alias_size_in_bytes + used.temp_size_in_bytes
    beyond -= n_bytes((params, x, y))
    state = jax.block_until_ready(step(state))
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        state = jax.block_until_ready(step(state))
        seconds.append(time.perf_counter() - begin)
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state)):
        raise AssertionError(f"{name} of width {max(sizes)} is not finite")
    return Row(max(sizes), batch, name, 1e3 * statistics.median(seconds), beyond / 2**20)


def wide_layer(width: int, batch: int) -> dict[str, Any]:
    """One Douglas-Rachford step of a width x width layer that is not the first, factored with a history of 1."""
    params, x, y = random_problem([INPUTS, width, width], batch)
    problem, algorithm = pj.feasibility(constraint), pj.douglas_rachford(copies=pj.Factored(history=1))
    state = copied(algorithm.init(problem, params, x, y))
    step = jax.jit(lambda state: algorithm.step(problem, state), donate_argnums=0).lower(state).compile()
    used: Any = step.memory_analysis()
    begin = time.perf_counter()
    state = jax.block_until_ready(step(state))
    seconds = time.perf_counter() - begin
    return {
        "width": width,
        "batch": batch,
        "seconds": seconds,
        "arguments_gib": used.argument_size_in_bytes / 2**30,
        "beyond_arguments_gib": (used.output_size_in_bytes - used.alias_size_in_bytes + used.temp_size_in_bytes)
        / 2**30,
        "stored_copies_gib": 8 * batch * width * width / 2**30,
        "finite": all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state)),
    }


def draw(rows: list[Row]) -> Figure:
    """Time and memory against width, a line for each representation."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for name in REPRESENTATIONS:
        chosen = [row for row in rows if row.representation == name]
        for panel, values in zip(panels, ("milliseconds", "mebibytes"), strict=True):
            panel.plot([r.width for r in chosen], [getattr(r, values) for r in chosen], marker="o", label=name)
    for panel, label in zip(panels, ("ms a step", "MiB besides parameters and data"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="width N of 64-N-N-10", ylabel=label)
        panel.set_xticks([row.width for row in rows], [str(row.width) for row in rows], minor=False)
        panel.grid(alpha=0.3)
    panels[0].set_title(f"batch {rows[0].batch}, float32")
    panels[0].legend()
    return figure


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit-gib", type=float, default=6.0, help="leave out what needs more (default: 6)")
    parser.add_argument("--calls", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--wide", type=int, nargs=2, metavar=("N", "BATCH"), help="one step of an N x N layer")
    parser.add_argument("--out", type=Path, help="folder for representations.csv, .png and wide_layer.json")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    described = machine()
    print(f"float32, jax {described['jax']}, {described['cores']} x {described['cpu']}")
    rows = []
    for width in arguments.widths:
        for name in REPRESENTATIONS:
            sizes = [INPUTS, width, width, CLASSES]
            row = measure(sizes, arguments.batch, name, int(arguments.limit_gib * 2**30), arguments.calls)
            if row is None:
                print(f"{width:6}  {name:26} left out: copies take more than {arguments.limit_gib} GiB")
            else:
                rows.append(row)
                print(f"{width:6}  {name:26}{row.milliseconds:12.2f} ms{row.mebibytes:12.1f} MiB", flush=True)
    wide = wide_layer(*arguments.wide) if arguments.wide else None
    if wide:
        print(json.dumps(wide, indent=2))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        if rows:
            with (arguments.out / "representations.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Row)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in rows)
            draw(rows).savefig(arguments.out / "representations.png", dpi=150)
        if wide:
            (arguments.out / "wide_layer.json").write_text(json.dumps(described | wide, indent=2) + "\n")


if __name__ == "__main__":
    main()
