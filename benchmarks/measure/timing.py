"""Times of calls: of one alone, of several in turn, and the least that a machine must take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Step = Callable[[Any], Any]

SAMPLES = 15
SMALLEST_SAMPLE = 4e-3
"""Seconds: a sample repeats calls until it is at least this long."""


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


def copy_bandwidth(count: int = 1 << 28) -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    x = jax.random.normal(jax.random.key(0), (count,))
    seconds = median_time(lambda x: (-x,), [(x,)])
    return 2 * x.nbytes / seconds


def matmul_rate(precision: str, size: int = 8192) -> float:
    """Flops a second of a large product of float32."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    seconds = median_time(lambda x, y: (jnp.matmul(x, y, precision=precision),), [(x, x.T)])
    return 2 * size**3 / seconds


def median_time(call: Callable[..., Any], sets: list[tuple[jax.Array, ...]], updated: tuple[int, ...] = ()) -> float:
    """Seconds a call, the median over samples, of calls for every set compiled together."""

    @partial(jax.jit, donate_argnums=0)
    def call_all(updates: list[list[jax.Array]], sets: list[tuple[jax.Array, ...]]) -> list[Any]:
        return [call(*merged(arrays, updated, update)) for update, arrays in zip(updates, sets, strict=True)]

    # Donated: what a call updates in place goes into the next one.  The rest is passed without it.
    updates = [[jnp.copy(arrays[position]) for position in updated] for arrays in sets]
    others = [merged(arrays, updated, [jnp.zeros(())] * len(updated)) for arrays in sets]

    def sample(repetitions: int) -> float:
        nonlocal updates
        start = time.perf_counter()
        for _ in range(repetitions):
            results = call_all(updates, others)
            updates = [list(result[: len(updated)]) for result in results]
        jax.block_until_ready(results)
        return time.perf_counter() - start

    sample(1)  # compiles
    repetitions = 1
    while sample(repetitions) < SMALLEST_SAMPLE:
        repetitions *= 2
    return statistics.median(sample(repetitions) for _ in range(SAMPLES)) / repetitions / len(sets)


def merged(arrays: Sequence[jax.Array], positions: Sequence[int], new: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """``arrays`` with those at ``positions`` replaced."""
    replaced = list(arrays)
    for position, array in zip(positions, new, strict=True):
        replaced[position] = array
    return tuple(replaced)


def floor(record: dict[str, Any], machine: dict[str, Any]) -> float:
    """Seconds that no version can be much faster than."""
    return max(
        record["size"] / machine["copy_bandwidth"], record["flops"] / machine["matmul_rate"][record["precision"]]
    )
