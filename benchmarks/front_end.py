"""The programs that networks of the tests become, beside those of an earlier commit.

    python benchmarks/front_end.py --commit 28ccc80
    python benchmarks/front_end.py --commit 28ccc80 --only mlp attention --algorithms AP DM
    python benchmarks/front_end.py --times

For each network of tests/pjax_core/networks.py and each algorithm: whether the first state and a step lower to the same
program, byte for byte; where they do not, the number of operations of both, and the largest difference of a parameter
after five steps in float64. The kernels are those of this tree for both. With `--times`: seconds to trace 40 layers
here and there, and a step with weights (out, in), as Equinox keeps them, against one with (in, out).
"""

import argparse
import functools
import importlib
import itertools
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
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
        unpack(commit, folder)
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


def deep(params: Any, x: Any, y: Any) -> Any:
    """Rectified layers, in the names that both have."""
    import pjax_core as pj

    for w in params[:-1]:
        x = pj.relu(pj.matmul(x, w))
    return pj.cross_entropy(pj.matmul(x, params[-1]), y)


def seconds_to_trace(layers: int = 40, width: int = 64) -> float:
    """The least of five times, each of a function of its own."""
    import pjax_core as pj

    params, x = [np.ones((width, width), np.float32)] * layers, np.ones((8, width), np.float32)
    found = []
    for _ in range(6):
        problem = pj.feasibility(functools.partial(deep))
        start = time.perf_counter()
        problem.graph(params, (x, x))
        found.append(time.perf_counter() - start)
    return min(found[1:])


def transposed_weights(repeats: int = 30) -> float:
    """The median ratio of a step of 784-256-256-10, batch 256, with weights (out, in) to one with (in, out)."""
    import pjax_core as pj

    def network(params: Any, x: Any, y: Any, transposed: bool) -> Any:
        for w in params[:-1]:
            x = jax.nn.relu(x @ (w.T if transposed else w))
        return pj.cross_entropy(x @ (params[-1].T if transposed else params[-1]), y)

    normal, sizes = np.random.default_rng(0).normal, (784, 256, 256, 10)
    weights = [normal(size=pair).astype(np.float32) / pair[0] ** 0.5 for pair in itertools.pairwise(sizes)]
    x, y = normal(size=(256, 784)).astype(np.float32), np.eye(10, dtype=np.float32)[np.arange(256) % 10]
    algorithm, steps, states = pj.alternating_projections(), [], []
    for transposed in (False, True):
        problem = pj.feasibility(functools.partial(network, transposed=transposed))
        states.append(algorithm.init(problem, [w.T.copy() if transposed else w for w in weights], x, y))
        steps.append(functools.partial(algorithm.step, problem))
        jax.block_until_ready(steps[-1](states[-1]))
    ratios = []
    for number in range(repeats):
        times = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            jax.block_until_ready(steps[place](states[place]))
            times[place] = time.perf_counter() - start
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))


def print_times(commit: str) -> None:
    """Of tracing, and of transposed weights."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(commit, folder)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(REPOSITORY / "kernels")])}
        command = [sys.executable, "-W", "ignore", __file__, "--trace"]
        old = float(subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True).stdout)
    new = seconds_to_trace()
    print(f"tracing 40 layers: {old:.3f} s before, {new:.3f} s now, {new / old:.2f} times")
    print(f"a step with weights (out, in): {transposed_weights():.3f} times one with (in, out)")


def unpack(commit: str, folder: str) -> None:
    """The package of a commit."""
    command = ["git", "archive", commit, "pjax_core"]
    archive = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)


def main() -> None:
    """Compare, or measure one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="28ccc80")
    parser.add_argument("--only", nargs="*", default=[], help="networks; all by default")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("--solve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--times", action="store_true", help="times instead of programs")
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    if options.trace:
        print(seconds_to_trace())
        return
    if options.times:
        print_times(options.commit)
        return
    if options.output is None:
        compare(options.commit, options.only, options.algorithms)
        return
    jax.config.update("jax_enable_x64", True)
    Path(options.output).write_bytes(pickle.dumps(measure(options.only, options.algorithms, options.solve)))


if __name__ == "__main__":
    main()
