"""Circuits of Boolean threshold functions, found by projections and, in the same seconds, by gradients.

python -m benchmarks.studies.boolean                      # the 2 x 2 multiplier: 200 starts, then gradients
python -m benchmarks.studies.boolean multiplier3 --starts 16 --steps 120000 --hidden 16 16 16 --seed 1
python -m benchmarks.studies.boolean --speed              # microseconds of a start's step, on one core and on two
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pjax_core as pj
from benchmarks.studies import gates

Array = np.ndarray
RATE, LOOK = 1e-2, 200
"""Of Adam; the updates between two looks at what gradients have found."""


@dataclass(frozen=True)
class Task:
    """Items, and how they are searched for; ``x`` is None where inputs are free."""

    network: pj.ThresholdNetwork
    x: Array | None
    y: Array
    gamma: float = 1e-3
    beta: float = 0.2
    gap: float = 0.01
    held_out: tuple[Array, Array] | None = None


def signs(bits: Array) -> Array:
    return (2 * bits - 1).astype(np.float32)


def binary(numbers: Array, width: int) -> Array:
    """The lowest bits of numbers, lowest first."""
    return (numbers[:, None] >> np.arange(width)) & 1


def multiplier(bits: int, hidden: tuple[int, ...]) -> Task:
    """All products of two numbers of so many bits."""
    a, b = np.divmod(np.arange(4**bits), 2**bits)
    x = np.concatenate([binary(a, bits), binary(b, bits)], axis=1)
    return Task(pj.ThresholdNetwork((2 * bits, *hidden, 2 * bits)), signs(x), signs(binary(a * b, 2 * bits)))


def words(seed: int = 0) -> Array:
    """16 random words of 16 bits."""
    return signs(np.random.default_rng(seed).integers(2, size=(16, 16)))


def autoencoder() -> Task:
    return Task(pj.ThresholdNetwork((16, 16, 4, 16, 16)), words(), words(), gamma=1e-4, gap=0.05)


def decoder() -> Task:
    return Task(pj.ThresholdNetwork((4, 16, 16)), None, words(), gamma=1e-4, beta=0.5)


def automaton(rule: int, width: int, hidden: int, items: int, held_out: int = 1000) -> Task:
    """A step of a cellular automaton on a ring of cells, from random states."""
    x = np.random.default_rng(0).integers(2, size=(items + held_out, width))
    neighbourhood = 4 * np.roll(x, 1, axis=1) + 2 * x + np.roll(x, -1, axis=1)
    y = (rule >> neighbourhood) & 1
    return _split(pj.ThresholdNetwork((width, hidden, hidden, width)), signs(x), signs(y), items)


def random_logic(width: int, depth: int, items: int, share: float, held_out: int = 1000) -> Task:
    """Layers of random gates: the and, or the or, of two values of the layer before, negated at random.

    The others, all but a ``share`` of them, copy the first value, or negate it.
    """
    rng = np.random.default_rng(0)
    x = signs(rng.integers(2, size=(items + held_out, width)))
    y = x
    for _ in range(depth):
        operands = np.stack([rng.permutation(width), rng.permutation(width)])
        negations, constants = signs(rng.integers(2, size=(2, width))), signs(rng.integers(2, size=width))
        gate = np.sign((negations * y[:, operands]).sum(axis=1) + constants)
        y = np.where(rng.random(width) < share, gate, negations[0] * y[:, operands[0]])
    return _split(pj.ThresholdNetwork((width,) * (depth + 1)), x, y.astype(np.float32), items)


def _split(network: pj.ThresholdNetwork, x: Array, y: Array, items: int) -> Task:
    return Task(network, x[:items], y[:items], held_out=(x[items:], y[items:]))


TASKS: dict[str, Callable[[], Task]] = {
    "multiplier2": lambda: multiplier(2, (4, 4)),
    "multiplier3": lambda: multiplier(3, (12, 12, 12)),
    "autoencoder": autoencoder,
    "decoder": decoder,
    "rule30": lambda: replace(automaton(30, 8, 24, 192), gamma=1e-4, gap=0.05),
    "rule30-16": lambda: automaton(30, 16, 32, 192),
    "logic": lambda: random_logic(16, 2, 128, 0.5),
    "logic-32": lambda: random_logic(32, 5, 256, 1.0),
}


@dataclass(frozen=True)
class Result:
    """Success of one contender on a task.

    ``held_out``: the share of held-out outputs that are right, of projections for the best of the exact circuits (0
    without any), of gradients for the start that is right for most of the items.  ``steps``: quartiles, of the starts
    that were solved.
    """

    contender: str
    starts: int
    solved: int
    exact: int
    seconds: float
    steps: list[float] | None
    held_out: float | None = None


def search(
    task: Task, starts: int, steps: int, lanes: int, until: str, seed: int = 0
) -> tuple[Result, list[list[Array]]]:
    """Projections: how many starts are solved, and the solved circuits with integer weights."""
    settings = pj.CircuitSearch(
        task.network,
        starts=starts,
        steps=steps,
        beta=task.beta,
        gamma=task.gamma,
        lanes=min(lanes, starts),
        until=pj.gap_below(task.gap, every=50, any_of="starts" if until == "any" else None),
    )
    state = settings.run(settings.init(jax.random.key(seed), task.x, task.y), 0)  # compiles
    start = time.perf_counter()
    state = settings.run(state)
    found = jax.tree.map(np.asarray, state.found)
    seconds = time.perf_counter() - start
    circuits = [
        task.network.rounded([matrix[place] for matrix in found.weights], inputs(task))
        for place in np.flatnonzero(found.solved)
    ]
    exact = [circuit for circuit in circuits if is_exact(task, circuit)]
    held_out = max((accuracy(task, circuit) for circuit in exact), default=0.0) if task.held_out else None
    begun, solved = int((found.steps > 0).sum()), int(found.solved.sum())
    return Result(
        "projections", begun, solved, len(exact), seconds, quartiles(found.steps[found.solved]), held_out
    ), exact


def quartiles(steps: Array) -> list[float] | None:
    """Those of the starts that were solved."""
    return np.percentile(steps, [25, 50, 75]).tolist() if steps.size else None


def inputs(task: Task) -> Array:
    """Those of the items; where inputs are free, all that there are."""
    width = task.network.widths[0]
    return signs(binary(np.arange(2**width), width)) if task.x is None else task.x


def is_exact(task: Task, weights: Sequence[Array]) -> bool:
    """Whether the plain network gives every item; with free inputs, whether some input gives each word."""
    generated = np.asarray(task.network(weights, inputs(task)))
    if task.x is not None:
        return bool((generated == task.y).all())
    return set(map(tuple, task.y.tolist())) <= set(map(tuple, generated.tolist()))


def accuracy(task: Task, weights: Sequence[Array]) -> float:
    """The share of held-out outputs that are right."""
    assert task.held_out is not None
    x, y = task.held_out
    return float((task.network(weights, x) == y).mean())


@jax.custom_jvp
def straight_through(x: jax.Array) -> jax.Array:
    """The sign, whose derivative is taken for that of the identity where |x| <= 1."""
    return jnp.where(x >= 0, 1.0, -1.0)


@straight_through.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return straight_through(*primals), jnp.where(abs(primals[0]) <= 1, tangents[0], 0)


def train(task: Task, activation: Callable[[jax.Array], jax.Array], name: str, starts: int, seconds: float) -> Result:
    """Gradients: the same network with an activation in the place of the sign, many starts side by side by Adam.

    Free inputs are activations of parameters.  What is counted are the signs, looked at after every ``LOOK`` updates.
    """
    y = jnp.asarray(task.y)
    optimiser = optax.adam(RATE)

    def loss(params: tuple[jax.Array | None, list[jax.Array]]) -> jax.Array:
        codes, weights = params
        value = jnp.asarray(task.x) if codes is None else activation(codes)
        for matrix in weights[:-1]:
            value = activation(value @ matrix[1:] - matrix[0])
        logits = value @ weights[-1][1:] - weights[-1][0]
        return jnp.mean(jnp.logaddexp(0, -2 * y * logits))

    def update(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    def right(params: tuple[jax.Array | None, list[jax.Array]]) -> jax.Array:
        codes, weights = params
        x = jnp.asarray(task.x) if codes is None else jnp.where(codes < 0, -1, 1)
        return jnp.mean(task.network(weights, x) == y)

    @jax.jit
    def run(params: Any, states: Any) -> tuple[Any, Any, jax.Array]:
        one = functools.partial(jax.lax.scan, update, length=LOOK)
        (params, states), _ = jax.vmap(lambda p, s: one((p, s)))(params, states)
        return params, states, jax.vmap(right)(params)

    params = jax.vmap(functools.partial(first_parameters, task))(jax.random.split(jax.random.key(0), starts))
    states = jax.vmap(optimiser.init)(params)
    *_, shares = run(params, states)  # compiles
    solved_at = np.zeros(starts)
    updates, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds and not solved_at.all():
        params, states, shares = run(params, states)
        updates += LOOK
        solved_at[(np.asarray(shares) == 1) & (solved_at == 0)] = updates
    taken, solved = time.perf_counter() - start, solved_at[solved_at > 0]
    best = jax.tree.map(lambda of_all: of_all[jnp.argmax(shares)], params)[1]
    held_out = accuracy(task, best) if task.held_out else None
    return Result(name, starts, len(solved), len(solved), taken, quartiles(solved), held_out)


def first_parameters(task: Task, key: jax.Array) -> tuple[jax.Array | None, list[jax.Array]]:
    """What gradients start from: codes of free inputs, and the weights of each layer."""
    of_codes, *keys = jax.random.split(key, len(task.network.widths))
    weights = [
        jax.random.normal(of_layer, (1 + n, m)) / (1 + n) ** 0.5
        for of_layer, (n, m) in zip(keys, itertools.pairwise(task.network.widths), strict=True)
    ]
    codes = jax.random.uniform(of_codes, (len(task.y), task.network.widths[0]), minval=-1) if task.x is None else None
    return codes, weights


def beside_gradients(task: Task, result: Result) -> list[Result]:
    """What gradients find in the seconds that projections took."""
    return [
        result,
        *(
            train(task, activation, name, result.starts, result.seconds)
            for name, activation in (("straight-through", straight_through), ("tanh, then signs", jnp.tanh))
        ),
    ]


def speed(name: str, lanes: int, rounds: int, cores: int) -> tuple[float, float]:
    """Microseconds of a start's step, 64 starts in all, split over the cores; and of one pass over its copies."""
    task = TASKS[name]()
    settings = pj.CircuitSearch(task.network, starts=10**6, steps=10**6, lanes=lanes)
    blocks = max(64 // lanes // cores, 1)

    def searching() -> list[list[Any]]:
        return [
            [
                jax.device_put(settings.init(jax.random.key(core * blocks + block), task.x, task.y), device)
                for block in range(blocks)
            ]
            for core, device in enumerate(jax.devices()[:cores])
        ]

    searches, copies = searching(), [[state.layers for state in of_core] for of_core in searching()]

    def microseconds(states: list[list[Any]], run: Callable[[Any], Any]) -> float:
        start = time.perf_counter()
        for block in range(blocks):
            for core in range(cores):  # each is computed on a device of its own, and none is waited for
                states[core][block] = run(states[core][block])
        jax.block_until_ready(states)
        return (time.perf_counter() - start) / (rounds * settings.until.every * blocks * cores * lanes) * 1e6

    pairs = [
        (
            microseconds(searches, lambda state: settings.run(state, rounds)),
            microseconds(copies, lambda layers: passes(layers, rounds * settings.until.every)),
        )
        for _ in range(7)
    ]
    step, floor = np.min(pairs[1:], axis=0)  # the first ones compile
    return float(step), float(floor)


@functools.partial(jax.jit, static_argnums=1, donate_argnums=0)
def passes(layers: Any, count: int) -> Any:
    """The least that so many steps must move: the copies of weights and inputs, all read once and written once."""

    def one_pass(_: Any, layers: Any) -> Any:
        return tuple(
            replace(layer, weights=0.5 * (layer.weights + layer.inputs), inputs=0.5 * (layer.inputs - layer.weights))
            for layer in layers
        )

    return jax.lax.fori_loop(0, count, one_pass, layers)


def report_speed(arguments: argparse.Namespace) -> None:
    print("task          cores  lanes  us a step of a start  us of one pass over its copies  share of that floor")
    for name, rounds in (("multiplier2", 40), ("multiplier3", 4)):
        for cores in range(1, arguments.cores + 1):
            step, floor = speed(name, arguments.lanes, rounds, cores)
            print(f"{name:12}  {cores:5}  {arguments.lanes:5}  {step:20.2f}  {floor:30.2f}  {floor / step:19.0%}")


def _changed(task: Task, arguments: argparse.Namespace) -> Task:
    """The task with what the command line says."""
    changes: dict[str, Any] = {
        name: value for name in ("beta", "gamma", "gap") if (value := getattr(arguments, name)) is not None
    }
    if arguments.hidden:
        widths = task.network.widths
        changes["network"] = replace(task.network, widths=(widths[0], *arguments.hidden, widths[-1]))
    return replace(task, **changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", choices=TASKS, default="multiplier2")
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--lanes", type=int, default=16, help="starts side by side")
    parser.add_argument("--until", choices=("all", "any"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, nargs="+", help="the widths between inputs and outputs")
    for name in ("beta", "gamma", "gap"):
        parser.add_argument(f"--{name}", type=float, help="the task's own by default")
    parser.add_argument("--no-gradients", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--draw", type=Path, help="an SVG file for the simplest circuit")
    arguments = parser.parse_args()
    if arguments.speed:
        jax.config.update("jax_num_cpu_devices", arguments.cores)
        report_speed(arguments)
        return
    task = _changed(TASKS[arguments.task](), arguments)
    result, exact = search(task, arguments.starts, arguments.steps, arguments.lanes, arguments.until, arguments.seed)
    results = [result] if arguments.no_gradients else beside_gradients(task, result)
    items = f"{len(task.y)} items, {platform.machine()}, jax {jax.__version__}"
    constants = f"beta {task.beta}, gamma {task.gamma}, gap {task.gap}, at most {arguments.steps} steps"
    print(f"{arguments.task}: widths {task.network.widths}, {constants}, seed {arguments.seed}, {items}")
    for result in results:
        print(json.dumps(asdict(result)))
    if exact:
        simplest = gates.simplest(exact)
        print(f"\nThe simplest circuit, right for all {len(task.y)} items (a: inputs, lowest bits first):")
        print(gates.described(simplest))
        if arguments.draw:
            arguments.draw.write_text(gates.drawn(simplest), encoding="utf-8")
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
