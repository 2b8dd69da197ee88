"""Reflect-reflect-relax on ordinary functions, with a metric that the gaps drive and without: starts that are solved.

python -m benchmarks.studies.metric            # the 2 x 2 multiplier, and the parity of bits by a relu network
python -m benchmarks.studies.metric parity --starts 16
"""

from __future__ import annotations

import argparse
import functools
import itertools
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pjax_core as pj
from benchmarks.studies import boolean

Array = Any


def circuit(task: boolean.Task, params: Sequence[Array], x: Array, y: Array) -> Any:
    """Layers of threshold functions whose outputs are those wanted, each node's weights on their sphere."""
    value = x
    for w in params:
        inputs = jnp.concatenate([-jnp.ones((len(value), 1), value.dtype), value], axis=1)
        value = pj.threshold(inputs, w, margin=task.network.margin(len(w)))
    return [pj.within(value, pj.Box(y, y)), *(pj.within(w, pj.Sphere(len(w) ** 0.5, axis=0)) for w in params)]


def first_circuit(task: boolean.Task, key: Array) -> list[Array]:
    shapes = [(1 + n, m) for n, m in itertools.pairwise(task.network.widths)]
    keys = jax.random.split(key, len(shapes))
    return [jax.random.uniform(k, shape, minval=-1) for k, shape in zip(keys, shapes, strict=True)]


def relu_network(params: Any, x: Array, y: Array) -> Any:
    """A hidden layer with relu, and one output that is at least 1 for odd parity, and at most 0 for even."""
    return pj.margin_loss(jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"], y)


def first_relu_network(bits: int, key: Array) -> dict[str, Array]:
    """He's initialisation, of as many hidden units as there are bits: the fewest that compute their parity."""
    keys = jax.random.split(key)
    return {
        "w0": jax.random.normal(keys[0], (bits, bits)) * (2 / bits) ** 0.5,
        "b0": jnp.zeros(bits),
        "w1": jax.random.normal(keys[1], (bits, 1)) * (2 / bits) ** 0.5,
    }


def problems() -> dict[str, tuple[Callable[..., Any], Callable[[Array], Any], Array, Array]]:
    """The function, its first parameters from a key, and its data."""
    task = boolean.TASKS["multiplier2"]()
    bits = boolean.binary(np.arange(8), 3).astype(np.float32)
    return {
        "multiplier2": (functools.partial(circuit, task), functools.partial(first_circuit, task), task.x, task.y),
        "parity": (relu_network, functools.partial(first_relu_network, 3), bits, bits.sum(1, keepdims=True) % 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help="multiplier2, parity")
    parser.add_argument("--starts", type=int, default=64, help="side by side")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--beta", type=float, default=0.2)
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.0, 1e-3, 1e-2])
    arguments = parser.parse_args()
    print(f"{platform.machine()}, jax {jax.__version__}, beta {arguments.beta}, at most {arguments.steps} steps")
    print("problem      gamma   starts  solved  steps: quartiles      seconds")
    for name, (function, first, x, y) in problems().items():
        if arguments.problems and name not in arguments.problems:
            continue
        starts = jax.vmap(first)(jax.random.split(jax.random.key(0), arguments.starts))
        for gamma in arguments.gammas:
            begin = time.perf_counter()
            info = jax.device_get(
                pj.restarts(
                    pj.feasibility(function),
                    starts,
                    x,
                    y,
                    algorithm=pj.reflect_reflect_relax(arguments.beta, gamma=gamma, copies="dense"),
                    steps=arguments.steps,
                    until=pj.gap_below(1e-2, every=50),
                    every=1000,
                ).info
            )
            quartiles = np.percentile(info.steps[info.solved], [25, 50, 75]).astype(int) if info.solved.any() else "-"
            print(
                f"{name:11}  {gamma:5}  {arguments.starts:6}  {info.solved.sum():6}  {quartiles!s:20}"
                f"  {time.perf_counter() - begin:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
