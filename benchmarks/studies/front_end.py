"""The programs that networks become: in plain JAX beside the names they had before, and beside an earlier commit.

    python -m benchmarks.studies.front_end
    python -m benchmarks.studies.front_end --only recurrent attention --algorithms AP DM
    python -m benchmarks.studies.front_end --commit 28ccc80 --count
    python -m benchmarks.studies.front_end --commit 28ccc80 --only mlp attention
    python -m benchmarks.studies.front_end --times

For each network of tests/pjax_core/networks.py and each algorithm, in float64: whether the first state and a step lower
to the same program, byte for byte, or how many operations a step has in either form. Where programs differ, unless with
`--count`: how many compiled instructions do, the largest difference of a parameter after five steps, and the time of a
step as a multiple of that of the first form, of many in one call, in turns in one process. Without `--commit` both
forms are run by this tree: the deprecated names such as `pj.matmul`, then ordinary JAX. With it, the names by an
earlier commit and by this tree, with the kernels of this tree; there "graph" says whether both trace to the same
constraints in the same colours: what differs all the same is what the algorithms of either make of them.
With `--times`: seconds to trace 40 layers here and there, and a step with weights (out, in), as Equinox keeps them,
against one with (in, out).
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
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

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


def plain_jax() -> SimpleNamespace:
    """The operations of the networks as JAX has them."""
    import pjax_core as pj

    layout = ("NHWC", "HWIO", "NHWC")

    def recurrence(x: Array, w_x: Array, w_h: Array, b: Array, *, h0: Array) -> Array:
        def step(h: Array, entry: Array) -> tuple[Array, Array]:
            h = jax.nn.relu(entry @ w_x + h @ w_h + b)
            return h, h

        return jnp.moveaxis(lax.scan(step, h0, jnp.moveaxis(x, 1, 0))[1], 0, 1)

    def max_pool(x: Array, *, window: Any, strides: Any, padding: Any) -> Array:
        pads = ((0, 0), *padding, (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), pads)

    ops = SimpleNamespace(**{name: getattr(jnp, name, getattr(pj, name)) for name in pj.__all__})
    ops.identity, ops.constant, ops.relu = pj.identity, jnp.asarray, jax.nn.relu
    ops.sum_relu = lambda *operands: jax.nn.relu(functools.reduce(jnp.add, operands))
    ops.conv2d = lambda x, w, *, strides, padding: lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=layout
    )
    ops.recurrence, ops.max_pool = recurrence, max_pool
    return ops


class Measured(NamedTuple):
    """Of a network and an algorithm: the programs, the graph, a step to be run, the first state, and what reads it."""

    programs: tuple[str, str]
    graph: list[Any]
    step: bytes
    state: list[np.ndarray]
    params: bytes


def measure(only: list[str], wanted: list[str], plain: bool, runs: bool) -> dict[tuple[str, str], Measured]:
    """Of the package on the path, what is compared: of ``plain`` JAX, or by names; with ``runs`` also to be run."""
    import pjax_core as pj

    networks = importlib.import_module("tests.pjax_core.networks")
    ops = plain_jax() if plain else networks.PACKAGE
    ops.cross_entropy, ops.identity = networks.PACKAGE.cross_entropy, networks.unchanged
    found: dict[tuple[str, str], Measured] = {}
    for name in only or networks.NETWORKS:
        network = networks.NETWORKS[name]
        params, x, y = network.arrays(np.random.default_rng(1))
        problem = pj.feasibility(functools.partial(network.function, ops))
        try:
            graph = described(problem.graph(params, (x, y)))
        except AttributeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)  # this package does not have the operation
            continue
        for key in wanted:
            algorithm: pj.Algorithm = algorithms()[key]
            first = jax.jit(functools.partial(algorithm.init, problem))
            step = functools.partial(algorithm.step, problem)
            state = first(params, x, y) if runs else jax.eval_shape(first, params, x, y)
            programs = first.lower(params, x, y).as_text(), jax.jit(step).lower(state).as_text()
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)] if runs else []
            exported = [exported_on_leaves(function, state) if runs else b"" for function in (step, algorithm.params)]
            found[name, key] = Measured(programs, graph, exported[0], leaves, exported[1])
    return found


def described(graph: Any) -> list[Any]:
    """Each node by what it is, its shape and colour, and what its slots read."""
    place = {node: number for number, node in enumerate(graph.nodes)}

    def slot(slot: Any) -> Any:
        return slot.shape.shape, [place.get(source, source.name) for source in slot.sources]

    return [
        (node.name, () if node.shape is None else node.shape.shape, graph.colours[node].name, [*map(slot, slots)])
        for node in graph.nodes
        for slots in [getattr(node, "slots", ())]
    ]


def exported_on_leaves(function: Callable[[Any], Any], state: Any) -> bytes:
    """A function of a state as one of the list of its arrays, to be run without the package."""
    leaves, structure = jax.tree.flatten(state)

    def on_leaves(leaves: list[Any]) -> list[Any]:
        return jax.tree.leaves(function(jax.tree.unflatten(structure, leaves)))

    return bytes(jax.export.export(jax.jit(on_leaves))(leaves).serialize())


def in_process(tree: Path, options: argparse.Namespace) -> dict[tuple[str, str], Measured]:
    """The networks by names for the package in a folder, in a process of its own."""
    paths = [str(tree), str(REPOSITORY / "kernels")]
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        command = [sys.executable, __file__, "--output", file.name, "--algorithms", *options.algorithms]
        command += [*(["--count"] if options.count else []), "--only", *options.only]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run(command, check=True, cwd=tree, env=environment)
        return pickle.load(file)


def operations(program: str) -> int:
    """How many operations a program has."""
    return len(re.findall(r"= (?:stablehlo|func|call|\"stablehlo)", program))


def compare(options: argparse.Namespace) -> None:
    """Print a line for each network and algorithm."""
    if options.commit is None:
        old, new = (measure(options.only, options.algorithms, plain, runs=not options.count) for plain in (False, True))
    else:
        with tempfile.TemporaryDirectory() as folder:
            unpack(options.commit, folder)
            # The same networks, in the names that both have.
            Path(folder, "tests").symlink_to(REPOSITORY / "tests")
            old, new = (in_process(tree, options) for tree in (Path(folder), REPOSITORY))
    print(
        "| network | algorithm | graph | operations before | now | more | compiled | largest difference | step time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        sep="\n",
    )
    for name, key in old:  # which may have fewer operations
        print(f"| {name} | {key} | {compared((old[name, key], new[name, key]), options.count)} |", flush=True)


def compared(pair: tuple[Measured, Measured], count: bool) -> str:
    """The rest of a line."""
    before, after = (operations(measured.programs[1]) for measured in pair)
    same = pair[0].programs == pair[1].programs
    of_nodes = zip(*(measured.graph for measured in pair), strict=False)
    nodes = sum(a != b for a, b in of_nodes) + abs(len(pair[0].graph) - len(pair[1].graph))
    row = f"{f'{nodes} nodes differ' if nodes else 'the same'} | {before} | {after} | "
    row += "the same program" if same else f"{after / before - 1:+.1%}"
    if same or count:
        return f"{row} | | {0 if same else ''} |"
    runs = [many_steps(measured) for measured in pair]
    params = [jax.export.deserialize(bytearray(m.params)).call(run(STEPS)) for m, run in zip(pair, runs, strict=True)]
    largest = max(float(np.max(np.abs(a - b), initial=0)) for a, b in zip(*params, strict=True))
    first, second = map(instructions, pair)
    differ = (first - second).total() + (second - first).total()
    compiled = f"{differ} differ" if differ else "the same"
    return f"{row} | {compiled} | {largest:.3g} | {ratio_of_times(runs):.3f}"


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
    parser.add_argument("--commit", help="an earlier one, in place of plain JAX beside the names; 28ccc80 for --times")
    parser.add_argument("--count", action="store_true", help="operations alone: nothing is compiled")
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
        print_times(options.commit or "28ccc80")
        return
    jax.config.update("jax_enable_x64", True)
    if options.output is None:
        compare(options)
        return
    found = measure(options.only, options.algorithms, plain=False, runs=not options.count)
    Path(options.output).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
