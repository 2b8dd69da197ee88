"""What factored copies leave out: Douglas-Rachford with a short history against dense copies, in float64.

On MNIST where a folder is known, else on random inputs. Printed are the relative error of the change of all weights
after 50 steps, of the worst layer, and what solve reports: the largest sum of info.truncation. The first and hidden
layers are factored, the output layer, whose roots are not small, is dense.
"""

import argparse
import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pjax_core as pj
from benchmarks.measure.networks import constraint
from benchmarks.studies.increments import Matrix, batch_of_data, start_params

STEPS = 50
NETWORKS = ((784, 32, 10), (784, 128, 128, 10))


@dataclass(frozen=True)
class Row:
    """One network and history."""

    network: str
    history: int
    error: float  # of the change of all weights, relative
    worst_layer: float
    bound: float


def changes(solution: pj.Solution, start: Any) -> list[Matrix]:
    """Change of each weight matrix."""
    parts = zip(solution.params["weights"], solution.params_low["weights"], start["weights"], strict=True)
    return [np.asarray(high - old) + np.asarray(low) for high, low, old in parts]


def measure(sizes: tuple[int, ...], batch: int, histories: list[int], data_dir: Path | None) -> list[Row]:
    """Errors and bounds for each history."""
    x, y = batch_of_data(batch, data_dir)
    start, x, y = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), (start_params(sizes), x, y))
    problem = pj.feasibility(constraint)
    output_layer = 2 * batch * sizes[-2] * sizes[-1] * 8

    def solve(copies: Any) -> pj.Solution:
        algorithm = pj.douglas_rachford(copies=copies, budget=output_layer)
        return pj.solve(problem, start, x, y, algorithm=algorithm, steps=STEPS, tolerance=float("inf"))

    exact = changes(solve("dense"), start)
    rows = []
    for history in histories:
        solution = solve(pj.Factored(history=history))
        found = changes(solution, start)
        errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, exact, strict=True)]
        total = norm([a - b for a, b in zip(found, exact, strict=True)]) / norm(exact)
        bound = float(np.max([jnp.sum(truncation) for truncation in solution.info.truncation.values()]))
        rows.append(Row("-".join(map(str, sizes)), history, total, float(max(errors)), bound))
    return rows


def norm(matrices: list[Matrix]) -> float:
    return float(np.sqrt(sum(np.sum(matrix**2) for matrix in matrices)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz; else PJAX_DATA, else random inputs")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--histories", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table to FILE")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    rows = []
    print(f"{'network':>16}{'history':>9}{'error':>10}{'worst layer':>13}{'bound':>10}")
    for sizes in NETWORKS:
        for row in measure(sizes, arguments.batch, arguments.histories, arguments.data_dir):
            rows.append(row)
            print(f"{row.network:>16}{row.history:9}{row.error:10.1e}{row.worst_layer:13.1e}{row.bound:10.1e}")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main()
