"""Time of the projections onto maxima and roundings, beside that of copying what they read and write.

Float32, normally distributed; project_max on 2048 rows of 784, the others on images of 64 x 28 x 28 x 32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pjax_kernels as pk
from benchmarks.measure.machine import machine

ROWS, IMAGES = (2048, 784), (64, 28, 28, 32)


def cases() -> dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]]:
    """The projections by name, with the shapes of ``x`` and ``z``."""
    batch, height, width, channels = IMAGES
    pool = pk.project_max_pool
    halves = batch, height // 2, width // 2, channels
    return {
        "project_max": (pk.project_max, ROWS, ROWS[:1]),
        "project_max, over space": (partial(pk.project_max, axis=(1, 2)), IMAGES, (batch, channels)),
        "pool 2x2": (partial(pool, window=(2, 2)), IMAGES, halves),
        "pool 3x3, strides 2": (partial(pool, window=(3, 3), strides=(2, 2), padding="SAME"), IMAGES, halves),
        "pool 3x3, strides 1": (partial(pool, window=(3, 3), strides=(1, 1), padding="SAME"), IMAGES, IMAGES),
        "project_quantize": (partial(pk.project_quantize, levels=4, scale=1.0), IMAGES, IMAGES),
    }


def seconds(call: Callable[..., Any], arrays: tuple[jax.Array, ...], calls: int) -> list[float]:
    """Times of ``call``, compiled."""
    compiled = jax.jit(call)
    jax.block_until_ready(compiled(*arrays))
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        times.append(time.perf_counter() - begin)
    return times


def copy(*arrays: jax.Array) -> list[jax.Array]:
    """Everything read once and written once, in new buffers."""
    return [array + 1 for array in arrays]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20, help="timed calls of each")
    calls = parser.parse_args().calls
    print(machine())
    rng = np.random.default_rng(0)
    print(f"{'':24} {'median ms':>10} {'least ms':>10} {'share of copy bandwidth':>24}")
    for name, (project, *shapes) in cases().items():
        arrays = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
        times, copies = seconds(project, arrays, calls), seconds(copy, arrays, calls)
        share = statistics.median(copies) / statistics.median(times)
        print(f"{name:24} {1e3 * statistics.median(times):10.2f} {1e3 * min(times):10.2f} {share:24.1%}")


if __name__ == "__main__":
    main()
