"""The programs that networks of the tests become, beside those of an earlier commit.

    python benchmarks/front_end.py --commit 28ccc80
    python benchmarks/front_end.py --commit 28ccc80 --only mlp attention --algorithms AP DM

For each network of tests/pjax_core/networks.py and each algorithm: whether the first state and a step lower to the same
program, byte for byte; where they do not, the number of operations of both, and the largest difference of a parameter
after five steps in float64. The kernels are those of this tree for both.
"""

import argparse
import functools
import importlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

REPOSITORY = Path(__file__).parents[1]
STEPS = 5
ALGORITHMS = ("AP", "CP", "DR dense", "DR factored", "DM")


def algorithms() -> dict[str, Any]:
    """The algorithms by their names."""
    import pjax_core as pj

    made = (
        pj.alternating_projections(),
        pj.cyclic_projections(),
        pj.douglas_rachford(copies="dense"),
        pj.douglas_rachford(copies=pj.Factored(3)),
        pj.difference_map(),
    )
    return dict(zip(ALGORITHMS, made, strict=True))


def measure(only: list[str], wanted: list[str], solved: bool) -> dict[tuple[str, str], Any]:
    """Of the package on the path: the programs of the first state and of a step, or parameters after some steps."""
    import pjax_core as pj

    networks = importlib.import_module("tests.pjax_core.networks").NETWORKS
    found: dict[tuple[str, str], Any] = {}
    for name in only or networks:
        network = networks[name]
        params, x, y = network.arrays(np.random.default_rng(1))
        problem = network.problem()
        for key in wanted:
            algorithm = algorithms()[key]
            if solved:
                run = functools.partial(pj.solve, problem, algorithm=algorithm, steps=STEPS, tolerance=np.inf)
                found[name, key] = jax.tree.map(np.asarray, run(params, x, y).params)
                continue
            first = jax.jit(functools.partial(algorithm.init, problem))
            state = jax.eval_shape(first, params, x, y)
            step = jax.jit(functools.partial(algorithm.step, problem))
            found[name, key] = first.lower(params, x, y).as_text(), step.lower(state).as_text()
    return found


def in_process(tree: Path, only: list[str], wanted: list[str], solved: bool) -> dict[tuple[str, str], Any]:
    """The same for the package in a folder, in a process of its own."""
    paths = [str(tree), str(REPOSITORY / "kernels")]
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        command = [sys.executable, __file__, "--output", file.name, "--algorithms", *wanted, "--only", *only]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run(command + ["--solve"] * solved, check=True, cwd=tree, env=environment)
        return pickle.load(file)


def operations(program: str) -> int:
    """How many operations a program has."""
    return len(re.findall(r"= (?:stablehlo|func|call|\"stablehlo)", program))


def compare(commit: str, only: list[str], wanted: list[str]) -> None:
    """Print a line for each program that differs, and how many do not."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", commit, "pjax_core"], cwd=REPOSITORY, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        # The same networks, in the names that both have.
        Path(folder, "tests").symlink_to(REPOSITORY / "tests")
        old, new = (in_process(tree, only, wanted, False) for tree in (Path(folder), REPOSITORY))
        different = [key for key in old if old[key] != new[key]]
        print(f"{len(old) - len(different)} of {len(old)} networks and algorithms lower to the same programs")
        for name in dict.fromkeys(name for name, _ in different):
            solutions = [in_process(tree, [name], wanted, True) for tree in (Path(folder), REPOSITORY)]
            for key in (key for key in different if key[0] == name):
                before, after = (operations(programs[key][1]) for programs in (old, new))
                largest = max(np.abs(a - b).max() for a, b in zip(*(s[key].values() for s in solutions), strict=True))
                print(f"{name}, {key[1]}: {before} and {after} operations, parameters differ by {largest:.3g}")


def main() -> None:
    """Compare, or measure one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="28ccc80")
    parser.add_argument("--only", nargs="*", default=[], help="networks; all by default")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("--solve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.output is None:
        compare(options.commit, options.only, options.algorithms)
        return
    warnings.simplefilter("ignore", DeprecationWarning)
    jax.config.update("jax_enable_x64", True)
    Path(options.output).write_bytes(pickle.dumps(measure(options.only, options.algorithms, options.solve)))


if __name__ == "__main__":
    main()
