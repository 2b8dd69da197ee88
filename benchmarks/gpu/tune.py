"""Searches, on this machine's GPU, for blocks that make the Triton kernels faster, and adds them to the kernels' table.

For each case, from the blocks that it has: one size at a time is halved, doubled, or moved by one, for as long as that
helps.  Blocks count only if the results stay right, and are kept only if they are faster by more than noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.report import INPUT_SETS, TOLERANCES, relative_errors
from benchmarks.measure.kernel_cases import TRITON_CASES, Case
from benchmarks.measure.timing import median_time
from pjax_kernels import blocks, gpu
from pjax_kernels.blocks import Blocks, Entry

TABLE = Path(blocks.__file__).with_name("blocks.json")

SECONDS_A_CASE = 240

GAIN = 1.03
"""How many times faster than the defaults blocks must be."""

LARGEST = {"num_warps": 16, "num_stages": 6}
"""Others are bounded by what compiles."""


def main() -> int:
    """Tune the cases, and write the table after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=TRITON_CASES, help="only this one; may be repeated")
    parser.add_argument("--table", type=Path, default=TABLE, help="the file to add to")
    options = parser.parse_args()
    obstacle = gpu.obstacle()
    if obstacle:
        print(f"no GPU kernel can be tuned here: {obstacle}", file=sys.stderr)
        return 1
    return tune(options.case or list(TRITON_CASES), options.table, Clock)


def tune(names: Sequence[str], table: Path, clock: Callable[[Case], Callable[[Entry], float]]) -> int:
    """Add what is found for the cases to the table; 1 if a case failed."""
    failures = 0
    for name in names:
        try:
            entry = looked_up(TRITON_CASES[name])
            found = search(entry, clock(TRITON_CASES[name]), time.monotonic() + SECONDS_A_CASE)
        except Exception as error:  # the others still run
            print(f"{name}: FAILED: {type(error).__name__}: {error}", file=sys.stderr)
            failures += 1
            continue
        if found is None:
            print(f"{name}: {entry['blocks']} stay")
        else:
            best, ratio = found
            table.write_text(text(added(json.loads(table.read_text()), best)))
            print(f"{name}: {best['blocks']} take {ratio:.2f} of the time of {entry['blocks']}")
    return 1 if failures else 0


def looked_up(case: Case) -> Entry:
    """What this case asks the table for, with the default blocks: at last, where vmap has traced one layer before."""
    asked: list[Entry] = []

    def find(kernel: str, shape: tuple[int, ...], numbers: str) -> Blocks:
        sizes = blocks.DEFAULTS[kernel](shape, numbers)
        rounded = blocks.rounded_up(shape)
        asked.append({"chip": gpu.chip(), "kernel": kernel, "numbers": numbers, "shape": rounded, "blocks": sizes})
        return dict(sizes)

    def run(launch: gpu.Launch, arrays: Any) -> tuple[jax.Array, ...]:
        del arrays  # nothing is computed
        return tuple(jnp.zeros(output.shape, output.dtype) for output in launch.outputs)

    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in case.shapes]
    jax.clear_caches()  # what was traced before would not ask again
    with mock.patch.object(blocks, "find", find), mock.patch.object(gpu, "_run", run):
        jax.eval_shape(lambda *arrays: case.call(*arrays, implementation="triton"), *shapes)
    return asked[-1]


def search(start: Entry, seconds: Callable[[Entry], float], end: float) -> tuple[Entry, float] | None:
    """The fastest entry found before ``end``, and its part of the time of ``start``; None where that is no less."""
    known = {key(start["blocks"]): seconds(start)}
    best = start["blocks"]
    improved = True
    while improved:
        improved = False
        for sizes in neighbours(best):
            if key(sizes) in known or time.monotonic() >= end:
                continue
            try:
                known[key(sizes)] = seconds(start | {"blocks": sizes})
            except Exception as error:  # too large for the chip, mostly
                known[key(sizes)] = float("inf")
                print(f"  {sizes}: {type(error).__name__}", file=sys.stderr)
            if known[key(sizes)] < known[key(best)]:
                best, improved = sizes, True
    if best == start["blocks"]:
        return None
    found = start | {"blocks": best}
    # Of many times the least is lucky: both once more.
    ratio = max(known[key(best)], seconds(found)) / min(known[key(start["blocks"])], seconds(start))
    return (found, ratio) if ratio * GAIN <= 1 else None


def key(sizes: Blocks) -> tuple[tuple[str, int], ...]:
    """The blocks, hashable."""
    return tuple(sorted(sizes.items()))


def neighbours(sizes: Blocks) -> Iterator[Blocks]:
    """The blocks with one size changed by one step."""
    for name, size in sizes.items():
        others = (size - 1, size + 1) if name == "num_stages" else (size // 2, 2 * size)
        for other in others:
            if 1 <= other <= LARGEST.get(name, other):
                yield sizes | {name: other}


def added(entries: list[Entry], new: Entry) -> list[Entry]:
    """The table with the new entry, in place of an older one for the same."""

    def place(entry: Entry) -> tuple[Any, ...]:
        return entry["chip"], entry["kernel"], entry["numbers"], entry["shape"]

    return sorted([*(entry for entry in entries if place(entry) != place(new)), new], key=place)


def text(entries: Sequence[Entry]) -> str:
    """JSON, an entry a line."""
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    return f"[\n{lines}\n]\n"


class Clock:
    """Seconds that a case takes with the blocks of an entry; raises where its results are wrong."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        self.case = case
        self.sets = [tuple(jnp.asarray(array) for array in case.arrays(rng)) for _ in range(INPUT_SETS)]
        self.expected = self.results("xla")

    def __call__(self, entry: Entry) -> float:
        """With only this entry in the table."""
        jax.clear_caches()  # what was traced before has its own blocks
        with mock.patch.object(blocks, "table", return_value=[entry]):
            errors = relative_errors(self.results("triton"), self.expected)
            # Both round as the precision allows.
            if not all(error <= 2 * TOLERANCES[self.case.precision] for error in errors):
                raise ValueError(f"wrong result: relative errors {errors}")
            return median_time(partial(self.case.call, implementation="triton"), self.sets, self.case.updated)

    def results(self, implementation: str) -> list[np.ndarray]:
        """The changes, for the first set of inputs."""
        call = jax.jit(lambda *arrays: self.case.call(*arrays, implementation=implementation, increments=True))
        return [np.asarray(result, np.float64) for result in call(*self.sets[0])]


if __name__ == "__main__":
    sys.exit(main())
