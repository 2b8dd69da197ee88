"""A relu network on digits whose weights `pj.solve` holds in a set: reflect-reflect-relax, with and without its metric.

python -m benchmarks.studies.solve_in_sets
python -m benchmarks.studies.solve_in_sets --data mnist --data-dir FOLDER --images 300 --hidden 32
python -m benchmarks.studies.solve_in_sets --sets ternary --gammas 1e-3 --images 300 --hidden 32 --steps 500 --rounds 5
"""

from __future__ import annotations

import argparse
import functools
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pjax_core as pj
from benchmarks.train import datasets

Array = Any
WEIGHTS = "w0", "w1"


def region(kind: str, w: Array) -> Any:
    """The set for a matrix of weights; that of all for "none"."""
    scale = (2 / len(w)) ** 0.5
    return {
        "none": pj.Box(),
        "ternary": pj.Levels((-scale, 0.0, scale)),
        "sparse": pj.Sparse(max(1, len(w) // 10), axis=0),
    }[kind]


def network(params: Any, x: Array) -> Array:
    return jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"] + params["b1"]


def constraints(kind: str, params: Any, x: Array, y: Array) -> Any:
    in_sets = [pj.within(params[name], region(kind, params[name])) for name in WEIGHTS]
    return [pj.margin_loss(network(params, x), y), *(in_sets if kind != "none" else [])]


def distance(kind: str, params: Any) -> float:
    """The largest distance of an element of the weights from their set."""
    if kind == "none":
        return 0.0
    changes = [region(kind, params[name]).project(params[name], increments=True) for name in WEIGHTS]
    return max(float(jnp.max(jnp.abs(change))) for change in changes)


def accuracy(params: Any, x: Array, labels: Array) -> float:
    return float(np.mean(np.argmax(network(params, x), -1) == np.argmax(labels, -1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", choices=("none", "ternary", "sparse"), default=["none", "ternary", "sparse"]
    )
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.0, 1e-3])
    parser.add_argument("--beta", type=float, default=0.2)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--data-dir", type=Path, help="where mnist.npz is")
    parser.add_argument("--images", type=int, default=500, help="to train on, all at once")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4, help="as many times the steps are reported on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    digits = datasets.load(arguments.data, data_dir=arguments.data_dir)
    x, x_test = (array.reshape(len(array), -1).astype(np.float32) for array in (digits.x_train, digits.x_test))
    x, y = x[: arguments.images], digits.y_train[: arguments.images].astype(np.float32)
    keys = jax.random.split(jax.random.key(arguments.seed))
    widths = x.shape[1], arguments.hidden, y.shape[1]
    params = {f"b{n}": jnp.zeros(widths[n + 1]) for n in range(2)} | {
        f"w{n}": jax.random.normal(keys[n], widths[n : n + 2]) * (2 / widths[n]) ** 0.5 for n in range(2)
    }
    print(f"{platform.machine()}, jax {jax.__version__}, widths {widths}, {len(x)} images, beta {arguments.beta}")
    print("set      gamma   steps  train %  test %  distance from the set  seconds")
    for kind in arguments.sets:
        for gamma in arguments.gammas:
            run = functools.partial(
                pj.solve,
                pj.feasibility(functools.partial(constraints, kind)),
                params,
                x,
                y,
                algorithm=pj.reflect_reflect_relax(arguments.beta, gamma=gamma, copies="dense"),
                steps=arguments.steps // arguments.rounds,
                tolerance=float("inf"),
            )
            state, start = None, time.perf_counter()
            for finished in range(1, arguments.rounds + 1):
                solution = run(state=state)
                state, found = solution.state, solution.params
                right = 100 * accuracy(found, x, y), 100 * accuracy(found, x_test, digits.y_test)
                print(
                    f"{kind:7}  {gamma:5}  {finished * (arguments.steps // arguments.rounds):6}  {right[0]:7.1f}"
                    f"  {right[1]:6.1f}  {distance(kind, found):21.1e}  {time.perf_counter() - start:7.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
