"""Speed and memory of one iteration: SGD by jax.grad and optax, pjax, and textbook projections (naive.py).

All train the same ReLU network (no bias at the logits) with cross-entropy, in float32, on random data. Every
contender is a function state -> state, jitted with its state donated; the data are part of the state.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import naive
import pjax_core as pj

Params = dict[str, list[Array]]
Step = Callable[[Any], Any]

STRENGTH = 5.0
SCAN_LENGTH = 20
SOLVE_STEPS = 50


def network(params: Params, x: Array) -> Array:
    """Logits; on plain arrays the operations of pjax simply compute."""
    h = x
    for w, b in zip(params["weights"][:-1], params["biases"], strict=True):
        h = jax.nn.relu(h @ w + b)
    return h @ params["weights"][-1]


def constraint(params: Params, x: Array, y: Array) -> Any:
    """The output constraint of pjax."""
    return pj.cross_entropy(network(params, x), y, strength=STRENGTH)


def random_problem(sizes: list[int], batch: int) -> tuple[Params, Array, Array]:
    """He initialisation, inputs in [0, 1], random one-hot labels; float32."""
    generator = np.random.default_rng(0)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    weights = [generator.normal(size=shape) * np.sqrt(2 / shape[0]) for shape in shapes]
    biases = [generator.normal(size=size) * 0.1 for size in sizes[1:-1]]
    params = {"weights": weights, "biases": biases}
    x = generator.uniform(size=(batch, sizes[0]))
    y = np.eye(sizes[-1])[generator.integers(sizes[-1], size=batch)]
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x, y))


def sgd(params: Params, x: Array, y: Array) -> tuple[Step, Any]:
    """A step of optax.sgd on the mean softmax cross-entropy, and its first state."""
    optimizer = optax.sgd(0.01)

    def loss(params: Params, x: Array, y: Array) -> Array:
        h = x
        for w, b in zip(params["weights"][:-1], params["biases"], strict=True):
            h = jax.nn.relu(h @ w + b)
        return jnp.mean(optax.softmax_cross_entropy(h @ params["weights"][-1], y))

    def step(state: Any) -> Any:
        params, optimizer_state, x, y = state
        gradient = jax.grad(loss)(params, x, y)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, x, y

    return step, (params, optimizer.init(params), x, y)


def pjax(params: Params, x: Array, y: Array, algorithm: pj.Algorithm) -> tuple[Step, Any]:
    """A step of pjax, and its first state."""
    problem = pj.feasibility(constraint)
    return lambda state: algorithm.step(problem, state), algorithm.init(problem, params, x, y)


def stored_copies(params: Params, x: Array, y: Array, iterate: Callable[..., naive.State]) -> tuple[Step, Any]:
    """A step with every copy stored, and its first state."""

    def step(state: Any) -> Any:
        copies, x, y = state
        return iterate(copies, x, y, naive.cross_entropy), x, y

    return step, (naive.init(params["weights"], params["biases"], x), x, y)


@dataclass
class Contender:
    """A step, compiled alone and as a scan of `length` steps; `seconds` gathers times of one iteration.

    `compile_seconds` and `instructions` are of the step alone.
    """

    name: str
    batch: int
    start: Any
    single: Callable[[Any], Any]
    scan: Callable[[Any], Any]
    length: int
    calls: int
    memory: int
    compile_seconds: float
    instructions: int
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"single": [], "scan": []})

    def measure(self) -> None:
        """Time both forms from the first state, each after one call that fills the caches."""
        for form, function, iterations in (("single", self.single, 1), ("scan", self.scan, self.length)):
            state = jax.block_until_ready(function(copied(self.start)))
            for _ in range(self.calls):
                begin = time.perf_counter()
                state = jax.block_until_ready(function(state))
                self.seconds[form].append((time.perf_counter() - begin) / iterations)

    def milliseconds(self, form: str) -> float:
        return 1e3 * statistics.median(self.seconds[form])


def copied(state: Any) -> Any:
    """A copy that may be donated: no buffer is shared."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def prepare(name: str, batch: int, step: Step, start: Any, length: int, calls: int) -> Contender:
    """Compile both forms of a step; memory counts donated buffers once."""
    begin = time.perf_counter()
    single = jax.jit(step, donate_argnums=0).lower(start).compile()
    compile_seconds = time.perf_counter() - begin

    def repeated(state: Any) -> Any:
        return jax.lax.scan(lambda carry, _: (step(carry), None), state, None, length=length)[0]

    scan = jax.jit(repeated, donate_argnums=0).lower(start).compile()
    used: Any = single.memory_analysis()
    memory = (
        used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes - used.alias_size_in_bytes
    )
    instructions = (single.as_text() or "").count(" = ")
    return Contender(name, batch, start, single, scan, length, calls, memory, compile_seconds, instructions)


def solve_seconds(sizes: list[int], batch: int) -> tuple[float, float]:
    """Seconds of the first call of `solve`, which compiles, and of the second."""
    params, x, y = random_problem(sizes, batch)
    problem, algorithm = pj.feasibility(constraint), pj.alternating_projections()
    begin = time.perf_counter()
    jax.block_until_ready(pj.solve(problem, params, x, y, algorithm=algorithm, steps=SOLVE_STEPS))
    middle = time.perf_counter()
    jax.block_until_ready(pj.solve(problem, params, x, y, algorithm=algorithm, steps=SOLVE_STEPS))
    return middle - begin, time.perf_counter() - middle


def compare(sizes: list[int], batch: int, naive_batch: int, repeats: int, reflect: bool) -> list[Contender]:
    """Measure all contenders in turn, round after round, so that drift of the machine hits all alike."""
    contenders = []
    for size in sorted({batch, naive_batch}, reverse=True):
        problem = random_problem(sizes, size)
        contenders.append(prepare("SGD", size, *sgd(*problem), length=SCAN_LENGTH, calls=10))
        steps: dict[str, tuple[pj.Algorithm, Callable[..., naive.State] | None]] = {
            "AP": (pj.alternating_projections(), naive.alternating_projections),
            "AP in turn": (pj.alternating_projections(in_turn=True), None),
        }
        if reflect:
            factored = pj.douglas_rachford(copies=pj.Factored(history=1), budget=pj.DENSE_BUDGET)
            steps["DR"] = (factored, naive.douglas_rachford)
        for name, (algorithm, iterate) in steps.items():
            contenders.append(prepare(f"pjax {name}", size, *pjax(*problem, algorithm), length=SCAN_LENGTH, calls=10))
            if iterate is not None and size == naive_batch:
                contenders.append(prepare(f"naive {name}", size, *stored_copies(*problem, iterate), length=2, calls=1))
    for _ in range(repeats):
        for contender in contenders:
            contender.measure()
    return contenders


def figures(contenders: list[Contender]) -> list[dict[str, Any]]:
    """One row a contender; ratios are to SGD at the same batch size."""
    rows = []
    for contender in contenders:
        base = next(c for c in contenders if c.name == "SGD" and c.batch == contender.batch)
        row: dict[str, Any] = {"name": contender.name, "batch": contender.batch}
        for form in ("single", "scan"):
            row[f"{form}_ms"] = contender.milliseconds(form)
            row[f"{form}_ratio"] = contender.milliseconds(form) / base.milliseconds(form)
        row |= {"memory_bytes": contender.memory, "memory_ratio": contender.memory / base.memory}
        row["compile_seconds"] = contender.compile_seconds
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]], repeats: int) -> None:
    """The table, then pjax against naive."""
    print(f"\nMedian time of one iteration, {repeats} interleaved rounds; ratios to SGD at the same batch.")
    forms = "".join(f"{form:>13}{'ratio':>9}" for form in ("one call", "in a scan", "memory"))
    print(f"{'':16}{'batch':>6}{forms}{'compile':>10}")
    for row in rows:
        print(
            f"{row['name']:16}{row['batch']:6}"
            f"{row['single_ms']:10.3f} ms{row['single_ratio']:9.2f}"
            f"{row['scan_ms']:10.3f} ms{row['scan_ratio']:9.2f}"
            f"{row['memory_bytes'] / 2**20:9.2f} MiB{row['memory_ratio']:9.2f}"
            f"{row['compile_seconds']:8.2f} s"
        )
    for fast in (row for row in rows if row["name"].startswith("pjax")):
        slow = next(row for row in rows if row["name"] == f"naive {fast['name'].split()[1]}")
        single, scan = (slow[form] / fast[form] for form in ("single_ms", "scan_ms"))
        print(
            f"{slow['name']} at batch {slow['batch']} takes {single:.0f} times as long as {fast['name']} "
            f"at {fast['batch']} (one call; in a scan {scan:.0f})"
        )


def machine() -> dict[str, Any]:
    """When, on what and with which jax."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "platform": jax.default_backend(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 256, 256, 10], metavar="N")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--naive-batch", type=int, default=64, help="batch for naive.py (default: 64)")
    parser.add_argument("--repeats", type=int, help="rounds (default: 15, or 3 if --quick)")
    parser.add_argument("--reflect", action="store_true", help="Douglas-Rachford too: large layers factored, history 1")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args()
    arguments.repeats = arguments.repeats or (3 if arguments.quick else 15)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    network_name = "-".join(map(str, arguments.sizes))
    described = machine()
    print(f"{network_name}, float32, jax {described['jax']}, {described['cores']} x {described['cpu']}")
    first, second = solve_seconds(arguments.sizes, arguments.batch)
    print(f"pjax.solve, {SOLVE_STEPS} steps: {first:.2f} s with compilation, then {second:.2f} s")
    rows = figures(
        compare(arguments.sizes, arguments.batch, arguments.naive_batch, arguments.repeats, arguments.reflect)
    )
    print_table(rows, arguments.repeats)
    if arguments.json:
        settings = {"sizes": arguments.sizes, "repeats": arguments.repeats}
        solving = {"solve_first_call_seconds": first, "solve_second_call_seconds": second}
        result = described | settings | solving | {"rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
