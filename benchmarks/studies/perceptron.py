"""The binary perceptron: weights of 1 and -1 that classify random items, by projections and by gradients.

    python -m benchmarks.studies.perceptron

Items ``x`` of 1 and -1, ``load * width`` of them, each times its random label; wanted are ``w`` of 1 and -1 with
``x w > 0`` for all.  Almost no instance beyond a load of 0.83 has a solution (Krauth, Mezard, 1989).  All contenders
get the same instances and at most the same seconds for each, compilation not counted, one after the other.  Seconds are
of processor time, which does not depend on what else runs.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import Array, lax

import pjax_core as pj
from benchmarks import RESULTS
from benchmarks.studies.boolean import straight_through

BETA, MARGIN = 0.5, 0.27
RATE, SHARPNESS = 3e-2, 10.0
LOOKS = 10
"""Steps between looks at whether an instance is solved."""

Step = Callable[[Any, Array], Any]


class Instance(NamedTuple):
    """Items over the root of their width, (items, width), the inverse of ``1 + x^T x``, and first weights."""

    x: Array
    inverse: Array
    start: Array


def instance(width: int, load: float, seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    x = rng.choice([-1.0, 1.0], size=(round(load * width), width)) / width**0.5
    inverse = np.linalg.inv(np.eye(width) + x.T @ x)
    return Instance(*(jnp.asarray(array, jnp.float32) for array in (x, inverse, rng.uniform(-1, 1, size=width))))


def _nearest(inputs: tuple[Array, Array, Array], z: Array) -> tuple[tuple[Array, Array, Array], Array]:
    w, x, inverse = inputs
    new = inverse @ (w + x.T @ z)
    return (new, x, inverse), x @ new


known_map = pj.primitive("known_map", forward=lambda w, x, inverse: x @ w, project=_nearest)
"""``x w`` for data x, as one linear set: all items share a copy of w, where a matrix product has one for each item."""


def projections(beta: float, margin: float, copies: bool = False) -> tuple[Step, Step, Step]:
    """First state, step and weights of reflect-reflect-relax; with ``copies`` of the weights for each item."""

    def constraints(w: Any, x: Any, inverse: Any) -> Any:
        products = x @ w[:, None] if copies else known_map(w, x, inverse)
        return pj.within(products, pj.Box(margin)), pj.within(w, pj.Levels((-1.0, 1.0)))

    problem = pj.feasibility(constraints)
    algorithm = pj.reflect_reflect_relax(beta, copies="dense")
    return (
        lambda of, x: algorithm.init(problem, of.start, x, of.inverse),
        lambda state, _: algorithm.step(problem, state),
        lambda state, _: algorithm.params(state),
    )


def gradients(
    rate: float, sharpness: float, activation: Callable[[Array], Array] = straight_through, limit: float = 1.0
) -> tuple[Step, Step, Step]:
    """The same of Adam on the logistic loss of activations of real weights, of at most a ``limit``.

    The weights that count are the signs, whose derivative "straight-through" takes for that of themselves.
    """
    optimiser = optax.adam(rate)

    def loss(w: Array, x: Array) -> Array:
        return jnp.mean(jax.nn.softplus(-sharpness * x @ activation(w)))

    def step(carry: tuple[Array, Any], x: Array) -> tuple[Array, Any]:
        w, state = carry
        updates, state = optimiser.update(jax.grad(loss)(w, x), state)
        return jnp.clip(optax.apply_updates(w, updates), -limit, limit), state

    return lambda of, x: (of.start, optimiser.init(of.start)), step, lambda carry, _: straight_through(carry[0])


class Found(NamedTuple):
    """Whether an instance was solved, after how many steps and seconds."""

    solved: bool
    steps: int
    seconds: float


def solver(contender: tuple[Step, Step, Step]) -> Callable[[Instance, float], Found]:
    """Runs a contender on an instance until it is solved or it has taken so many seconds."""
    init, step, weights = contender

    def solved(state: Any, x: Array) -> Array:
        return jnp.all(x @ weights(state, x) > 0.5 / x.shape[1] ** 0.5)  # of odd many signs the least sum is 1

    @jax.jit
    def advance(state: Any, x: Array, rounds: int) -> tuple[Any, Array, Array]:
        def body(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            state = lax.fori_loop(0, LOOKS, lambda _, state: step(state, x), carry[0])
            return state, carry[1] + 1, solved(state, x)

        done = jnp.zeros((), bool)
        return lax.while_loop(lambda c: (c[1] < rounds) & ~c[2], body, (state, jnp.zeros((), jnp.int32), done))

    first = jax.jit(init)

    def run(of: Instance, seconds: float) -> Found:
        state = first(of, of.x)
        jax.block_until_ready(advance(state, of.x, 1))  # compiles
        steps, done, start = 0, False, time.process_time()
        while not done and time.process_time() - start < seconds:
            state, rounds, flag = advance(state, of.x, 20)
            steps, done = steps + LOOKS * int(rounds), bool(flag)
        if done:
            require_solution(np.asarray(weights(state, of.x)), of)
        return Found(done, steps, time.process_time() - start)

    return run


def require_solution(w: np.ndarray, of: Instance) -> None:
    """In whole numbers, which are exact."""
    items = np.sign(np.asarray(of.x)).astype(int)
    if not set(w.tolist()) <= {-1.0, 1.0} or not (items @ w.astype(int) > 0).all():
        raise AssertionError("what was found is no solution")


class Row(NamedTuple):
    """A contender at one width and load; quartiles of the steps, and the median of seconds, of what was solved."""

    width: int
    load: float
    contender: str
    instances: int
    solved: int
    first_quartile: float
    median_steps: float
    third_quartile: float
    median_seconds: float


def row(width: int, load: float, contender: str, found: Sequence[Found]) -> Row:
    done = [one for one in found if one.solved]
    first, median, third = np.percentile([one.steps for one in done], [25, 50, 75]).tolist() if done else [np.nan] * 3
    seconds = float(np.median([one.seconds for one in done])) if done else np.nan
    return Row(width, load, contender, len(found), len(done), first, median, third, round(seconds, 3))


def study(arguments: argparse.Namespace) -> list[Row]:
    rows = []
    contenders = {
        "projections": projections(arguments.beta, arguments.margin),
        "straight-through": gradients(arguments.rate, arguments.sharpness),
        "tanh, then signs": gradients(arguments.rate, arguments.sharpness, jnp.tanh, np.inf),
    }
    if arguments.copies:
        contenders["projections, copies"] = projections(arguments.beta, arguments.margin, copies=True)
    solvers = {name: solver(contender) for name, contender in contenders.items()}
    for width in arguments.widths:
        for load in arguments.loads:
            found: dict[str, list[Found]] = {name: [] for name in solvers}
            for seed in range(arguments.seed, arguments.seed + arguments.instances):
                of = instance(width, load, seed)
                for name, run in solvers.items():
                    found[name].append(run(of, arguments.seconds))
            rows += [row(width, load, name, of_one) for name, of_one in found.items()]
            print(*(",".join(map(str, of_one)) for of_one in rows[-len(found) :]), sep="\n", flush=True)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """The share of instances solved against the load, a panel for each width."""
    widths = sorted({row.width for row in rows})
    figure, panels = plt.subplots(
        1, len(widths), figsize=(4.2 * len(widths), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, width in zip(panels[0], widths, strict=True):
        for name, style in (("projections", "o-"), ("straight-through", "s--"), ("tanh, then signs", "^:")):
            points = [(row.load, 100 * row.solved / row.instances) for row in rows if row[0:3:2] == (width, name)]
            axes.plot(*np.transpose(points), style, label=name, markersize=4)
        axes.axvline(0.83, color="#999999", linewidth=1)
        axes.text(0.84, 50, "no solutions beyond", rotation=90, ha="left", va="center", fontsize=8, color="#777777")
        axes.set(title=f"width {width}", xlabel="load: items / width", xlim=(0, 0.9), ylim=(-5, 105))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("instances solved, %")
    panels[0, 0].legend(frameon=False, loc="lower left", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[101, 501], help="odd, so that no sum is 0")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of processor time, for an instance, of each contender"
    )
    parser.add_argument("--seed", type=int, default=100, help="of the first instance")
    parser.add_argument("--beta", type=float, default=BETA)
    parser.add_argument("--margin", type=float, default=MARGIN, help="over the root of the width")
    parser.add_argument("--copies", action="store_true", help="also the plain matrix product, for comparison")
    parser.add_argument("--rate", type=float, default=RATE, help="of Adam")
    parser.add_argument("--sharpness", type=float, default=SHARPNESS, help="of the logistic loss")
    parser.add_argument("--out", type=Path, default=RESULTS / "perceptron.csv", help="a table; a picture beside it")
    arguments = parser.parse_args(given)
    if not all(width % 2 for width in arguments.widths):
        parser.error(f"--widths are {arguments.widths}; pass odd numbers")
    print(f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print(",".join(Row._fields))
    rows = study(arguments)
    with arguments.out.open("w", newline="") as file:
        csv.writer(file).writerows([Row._fields, *rows])
    draw(rows, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
