"""The programs that networks of the tests become, beside those of an earlier commit.

    python -m benchmarks.studies.front_end --commit 28ccc80
    python -m benchmarks.studies.front_end --commit 28ccc80 --only mlp attention --algorithms AP DM
    python -m benchmarks.studies.front_end --times

For each network of tests/pjax_core/networks.py and each algorithm, in float64: how many operations a step lowers to, or
whether it and the first state lower to the same program, byte for byte; how many compiled instructions differ; the
largest difference of a parameter after five steps; and the time of a step as a multiple of that of the earlier commit,
of many in one call, in turns in one process. The kernels are those of this tree for both. With `--times`: seconds to
trace 40 layers here and there, and a step with weights (out, in), as Equinox keeps them, against one with (in, out).
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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

REPOSITORY = Path(__file__).parents[2]
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


class Measured(NamedTuple):
    """Of a network and an algorithm: the programs, that of a step to be run, the first state, and what reads it."""

    programs: tuple[str, str]
    step: bytes
    state: list[np.ndarray]
    params: bytes


def measure(only: list[str], wanted: list[str]) -> dict[tuple[str, str], Measured]:
    """Of the package on the path: what is compared."""
    import pjax_core as pj

    networks = importlib.import_module("tests.pjax_core.networks").NETWORKS
    found: dict[tuple[str, str], Measured] = {}
    for name in only or networks:
        network = networks[name]
        params, x, y = network.arrays(np.random.default_rng(1))
        problem = network.problem()
        try:
            problem.graph(params, (x, y))
        except AttributeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)  # this package does not have the operation
            continue
        for key in wanted:
            algorithm: pj.Algorithm = algorithms()[key]
            first = jax.jit(functools.partial(algorithm.init, problem))
            state = first(params, x, y)
            step = functools.partial(algorithm.step, problem)
            programs = first.lower(params, x, y).as_text(), jax.jit(step).lower(state).as_text()
            exported = [exported_on_leaves(function, state) for function in (step, algorithm.params)]
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
            found[name, key] = Measured(programs, exported[0], leaves, exported[1])
    return found


def exported_on_leaves(function: Callable[[Any], Any], state: Any) -> bytes:
    """A function of a state as one of the list of its arrays, to be run without the package."""
    leaves, structure = jax.tree.flatten(state)

    def on_leaves(leaves: list[Any]) -> list[Any]:
        return jax.tree.leaves(function(jax.tree.unflatten(structure, leaves)))

    return bytes(jax.export.export(jax.jit(on_leaves))(leaves).serialize())


def in_process(tree: Path, only: list[str], wanted: list[str]) -> dict[tuple[str, str], Measured]:
    """The same for the package in a folder, in a process of its own."""
    paths = [str(tree), str(REPOSITORY / "kernels")]
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        command = [sys.executable, __file__, "--output", file.name, "--algorithms", *wanted, "--only", *only]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run(command, check=True, cwd=tree, env=environment)
        return pickle.load(file)


def operations(program: str) -> int:
    """How many operations a program has."""
    return len(re.findall(r"= (?:stablehlo|func|call|\"stablehlo)", program))


def compare(commit: str, only: list[str], wanted: list[str]) -> None:
    """Print a line for each network and algorithm."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(commit, folder)
        # The same networks, in the names that both have.
        Path(folder, "tests").symlink_to(REPOSITORY / "tests")
        old, new = (in_process(tree, only, wanted) for tree in (Path(folder), REPOSITORY))
    print("| network | algorithm | operations before | now | more | compiled | largest difference | step time |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, key in old:  # which may have fewer operations
        pair = old[name, key], new[name, key]
        before, after = (operations(measured.programs[1]) for measured in pair)
        runs = [many_steps(measured) for measured in pair]
        params = [
            jax.export.deserialize(bytearray(m.params)).call(run(STEPS)) for m, run in zip(pair, runs, strict=True)
        ]
        largest = max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(*params, strict=True))
        share, ratio = after / before - 1, ratio_of_times(runs)
        same = "the same program" if pair[0].programs == pair[1].programs else f"{share:+.1%}"
        first, second = map(instructions, pair)
        differ = (first - second).total() + (second - first).total()
        compiled = f"{differ} differ" if differ else "the same"
        print(
            f"| {name} | {key} | {before} | {after} | {same} | {compiled} | {largest:.3g} | {ratio:.3f} |", flush=True
        )


def instructions(measured: Measured) -> Counter[str]:
    """The instructions that a step is compiled to, without names and lines of source."""
    step = jax.jit(jax.export.deserialize(bytearray(measured.step)).call)
    lines = str(step.lower(measured.state).compile().as_text()).splitlines()
    plain = (re.sub(r"%[\w.\-]+", "%", re.sub(r", metadata=\{[^}]*\}", "", line)).strip() for line in lines)
    return Counter(line for line in plain if " = " in line)


def many_steps(measured: Measured) -> Callable[[int], Any]:
    """The state after a number of steps, in one call."""
    step = jax.export.deserialize(bytearray(measured.step)).call
    run = jax.jit(lambda steps, state: jax.lax.fori_loop(0, steps, lambda _, state: step(state), state))
    return lambda steps: jax.block_until_ready(run(steps, measured.state))


def ratio_of_times(runs: list[Callable[[int], Any]], repeats: int = 21, seconds: float = 0.02) -> float:
    """The median ratio of the second's time to the first's, of calls that take at least ``seconds``."""
    steps = 64
    while seconds_of(runs[0], steps) < seconds:
        steps *= 2
    ratios = []
    for number in range(repeats):
        times = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            times[place] = seconds_of(runs[place], steps)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))


def seconds_of(run: Callable[[int], Any], steps: int) -> float:
    """What some steps take."""
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


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
    jax.config.update("jax_enable_x64", True)
    if options.output is None:
        compare(options.commit, options.only, options.algorithms)
        return
    Path(options.output).write_bytes(pickle.dumps(measure(options.only, options.algorithms)))


if __name__ == "__main__":
    main()
