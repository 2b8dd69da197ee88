"""The gallery of threshold networks: every task by projections and, in the same seconds, by gradients; circuits drawn.

    python -m benchmarks.studies.gallery                      # runs all, which takes about an hour; then tools/tables
    python -m benchmarks.studies.gallery decoder rule30       # runs these again
    python -m benchmarks.studies.gallery --draw               # runs none, draws again

What came out is kept in docs/results/gallery, from which tools/tables writes the tables of docs/gallery.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from benchmarks import RESULTS
from benchmarks.studies import boolean, gates

FOLDER = RESULTS / "gallery"


@dataclass(frozen=True)
class Entry:
    """A task of :data:`boolean.TASKS`, and how many starts search it for how long."""

    title: str
    starts: int
    steps: int
    lanes: int = 16
    until: str = "all"
    seed: int = 0


ENTRIES = {
    "multiplier2": Entry("2 x 2 bit multiplier", starts=200, steps=20_000),
    "multiplier3": Entry("3 x 3 bit multiplier", starts=16, steps=300_000, until="any", seed=3),
    "autoencoder": Entry("autoencoder of 16 words of 16 bits", starts=5, steps=100_000, lanes=5),
    "decoder": Entry("decoder of 16 words, inputs free", starts=8, steps=300_000, lanes=8),
    "rule30": Entry("rule 30 on a ring of 8 cells", starts=4, steps=150_000, lanes=4, until="any"),
    "logic": Entry("And/Or logic, two layers of 16", starts=4, steps=100_000, lanes=4),
}


def run(name: str) -> None:
    """Search, train, and keep what came of it."""
    entry, task = ENTRIES[name], boolean.TASKS[name]()
    result, exact = boolean.search(task, entry.starts, entry.steps, entry.lanes, entry.until, entry.seed)
    record: dict[str, Any] = {
        "settings": asdict(entry)
        | {key: getattr(task, key) for key in ("beta", "gamma", "gap")}
        | {"widths": task.network.widths, "items": len(task.y)},
        "results": [asdict(of_one) for of_one in boolean.beside_gradients(task, result)],
        "circuit": [matrix.tolist() for matrix in gates.simplest(exact)] if exact else None,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(record) + "\n")
    print(name, *map(json.dumps, record["results"]), sep="\n", flush=True)


def record_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def records() -> Iterator[tuple[str, Entry, dict[str, Any]]]:
    """What is kept of every task, beside its name and entry."""
    for name, entry in ENTRIES.items():
        yield name, entry, record_of(name)


def circuit_of(record: dict[str, Any]) -> list[np.ndarray]:
    """The simplest one that is right for all items."""
    return [np.array(matrix) for matrix in record["circuit"]]


def draw() -> None:
    """The circuits on record."""
    for name, _, record in records():
        (FOLDER / f"{name}.svg").write_text(gates.drawn(circuit_of(record)), encoding="utf-8")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(ENTRIES)}; all by default")
    parser.add_argument("--draw", action="store_true", help="only draw what is on record")
    arguments = parser.parse_args(given)
    if unknown := set(arguments.tasks) - set(ENTRIES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(ENTRIES)}")
    FOLDER.mkdir(exist_ok=True)
    for name in () if arguments.draw else arguments.tasks or ENTRIES:
        run(name)
    draw()


if __name__ == "__main__":
    main()
