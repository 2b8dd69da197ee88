"""A step of networks with convolutions, against the same with matrix products of gathered windows: time and memory.

Both compute the same; their constraints differ at the border, where dot products of gathered windows hold copies of
filter entries that meet padding.  Compiled steps of both are timed in turn; memory is what the state of the
algorithm and the temporaries of a step take.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import pjax_core as pj
from benchmarks.measure.machine import machine
from benchmarks.train import models

NETWORKS = {
    "14 x 14 x 1, channels 8 16": ((14, 14, 1), (8, 16), (1, 1)),
    "28 x 28 x 1, channels 8 16, strides 4 3": ((28, 28, 1), (8, 16), (4, 3)),
    "16 x 16 x 8, channels 16 32, strides 1 2": ((16, 16, 8), (16, 32), (1, 2)),
}
"""Shapes of images, channels and strides."""

ALGORITHMS: dict[str, Callable[[], pj.Algorithm]] = {
    "AP": pj.alternating_projections,
    "DR, factored, history 1": lambda: pj.douglas_rachford(copies=pj.Factored(history=1)),
}


def plain(x: Array, w: Array, stride: int) -> Array:
    """The convolution of images (N, H, W, C) with padding "SAME"."""
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gathered(x: Array, w: Array, stride: int) -> Array:
    """The same, for square filters, as a matrix product of windows."""
    (batch, *lengths, _), size = x.shape, w.shape[0]
    outputs = [-(-length // stride) for length in lengths]
    missing = [max((n - 1) * stride + size - length, 0) for n, length in zip(outputs, lengths, strict=True)]
    padded = jnp.pad(x, ((0, 0), *((total // 2, total - total // 2) for total in missing), (0, 0)))
    rows, columns = ([slice(k, k + (n - 1) * stride + 1, stride) for k in range(size)] for n in outputs)
    windows = jnp.concatenate([padded[:, i, j] for i in rows for j in columns], axis=-1)
    product = windows.reshape(-1, size * size * w.shape[2]) @ w.reshape(-1, w.shape[3])
    return product.reshape(batch, *outputs, w.shape[3])


def problem_of(convolution: Callable[[Array, Array, int], Array], strides: tuple[int, ...]) -> Any:
    """Layers of convolutions, the maxima over all pixels, and the logits, as :func:`benchmarks.train.models.cnn`."""

    def constraint(params: dict[str, Array], x: Array, labels: Array) -> Any:
        h = x
        for k, stride in enumerate(strides):
            h = jax.nn.relu(convolution(h, params[f"w{k}"], stride) + params[f"b{k}"])
        return pj.cross_entropy(jnp.max(h, axis=(1, 2)) @ params[f"w{len(strides)}"], labels)

    return pj.feasibility(constraint)


def measure(network: str, algorithm: pj.Algorithm, batch: int, calls: int) -> dict[str, tuple[float, float]]:
    """The shortest milliseconds of a step and its MiB, for both."""
    shape, channels, strides = NETWORKS[network]
    params = models.cnn(channels, strides).init(jax.random.key(0), shape, 10)
    x = jax.random.normal(jax.random.key(1), (batch, *shape))
    labels = jax.nn.one_hot(jnp.arange(batch) % 10, 10)
    steps, states, seconds, memory = {}, {}, {}, {}
    for form in (plain, gathered):
        problem, name = problem_of(form, strides), form.__name__
        state = algorithm.init(problem, params, x, labels)
        steps[name] = jax.jit(lambda state, problem=problem: algorithm.step(problem, state)).lower(state).compile()
        used: Any = steps[name].memory_analysis()
        states[name] = jax.block_until_ready(steps[name](state))
        memory[name] = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + used.temp_size_in_bytes
        seconds[name] = float("inf")
    for _ in range(calls):
        for name, step in steps.items():
            begin = time.perf_counter()
            states[name] = jax.block_until_ready(step(states[name]))
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return {name: (1e3 * seconds[name], memory[name] / 2**20) for name in steps}


def main() -> None:
    """Print a line for each network and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--calls", type=int, default=8, help="timed steps of each (default: 8)")
    options = parser.parse_args()
    described = machine()
    print(f"float32, batch {options.batch}, jax {described['jax']}, {described['cores']} x {described['cpu']}")
    for network in NETWORKS:
        for name, make in ALGORITHMS.items():
            found = measure(network, make(), options.batch, options.calls)
            (time_of, memory_of), (base_time, base_memory) = found["plain"], found["gathered"]
            print(
                f"{network}, {name}: {time_of:.1f} ms, {memory_of:.1f} MiB; gathered {base_time:.1f} ms,"
                f" {base_memory:.1f} MiB; ratios {time_of / base_time:.2f}, {memory_of / base_memory:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
