"""Test accuracy of an MLP on MNIST by algorithm: a table and learning curves over several seeds.

python -m benchmarks.studies.algorithms --data-dir FOLDER --out results
"""

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.train import datasets
from benchmarks.train.loop import ALGORITHM_NAMES, Record, Settings, train

BASE = Settings(hidden=(128,), batch_size=256, steps=50, updates=200, evaluate_every=20)
Runs = dict[tuple[str, int], list[Record]]
"""Learning curves by algorithm and seed."""


def table(runs: Runs) -> list[dict[str, Any]]:
    """One row an algorithm: over the seeds, of the best and the last test accuracy of each run."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for name, _ in runs):
        curves = [curve for (algorithm, _), curve in runs.items() if algorithm == name]
        best = [100 * max(record.test_accuracy for record in curve) for curve in curves]
        last = [100 * curve[-1].test_accuracy for curve in curves]
        rows.append(
            {
                "algorithm": name,
                "seeds": len(curves),
                "best_mean": statistics.mean(best),
                "best_lowest": min(best),
                "last_mean": statistics.mean(last),
                "seconds": statistics.mean(curve[-1].seconds for curve in curves),
            }
        )
    return rows


def draw(runs: Runs) -> Figure:
    """Test accuracy against updates and against seconds of training, a line for each run."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys(name for name, _ in runs))
    for (name, seed), curve in runs.items():
        first_of_name = seed == min(s for n, s in runs if n == name)
        label = ALGORITHM_NAMES[name] if first_of_name else None
        accuracy = [100 * record.test_accuracy for record in curve]
        for panel, field in zip(panels, ("update", "seconds"), strict=True):
            panel.plot([getattr(r, field) for r in curve], accuracy, f"C{names.index(name)}", lw=1, label=label)
    panels[0].set(xlabel="updates of 50 steps", ylabel="test accuracy (%)", title="MNIST, 784-128-10, batch 256")
    panels[1].set(xlabel="seconds of training")
    panels[0].legend(loc="lower right")
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz; if not given PJAX_DATA, else a download")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHM_NAMES, default=["ap", "cp", "dr", "dm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=BASE.updates)
    parser.add_argument("--copies", default=BASE.copies, help="of all but ap and cp: auto, dense, or a history")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for mnist_algorithms*.csv and .png")
    options = parser.parse_args()
    data = datasets.load("mnist", seed=0, data_dir=options.data_dir)
    options.out.mkdir(parents=True, exist_ok=True)
    runs: Runs = {}
    for name in options.algorithms:
        for seed in options.seeds:
            settings = replace(BASE, algorithm=name, seed=seed, updates=options.updates, copies=options.copies)
            runs[name, seed] = train(data, settings).curve
            print(f"{name} seed {seed}: {100 * runs[name, seed][-1].test_accuracy:.2f} %", flush=True)
    curves: list[dict[str, Any]] = [
        {"algorithm": n, "seed": s} | asdict(record) for (n, s), curve in runs.items() for record in curve
    ]
    write_csv(curves, options.out / "mnist_algorithms_curves.csv")
    write_csv(table(runs), options.out / "mnist_algorithms.csv")
    draw(runs).savefig(options.out / "mnist_algorithms.png", dpi=150)
    for row in table(runs):
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else str(v) for k, v in row.items()))


if __name__ == "__main__":
    main()
