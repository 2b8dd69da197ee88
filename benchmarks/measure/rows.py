"""What bench_*.py measure: a row is one contender, a kernel's implementation or a baseline, on arrays of one size.

The rows of a group compute for the same arrays; its first is the baseline, to which the others are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure.baselines import BASELINES
from benchmarks.measure.kernel_cases import BENCHMARKS, Case
from benchmarks.measure.timing import floor, merged
from pjax_kernels.implementation import NAMES

Arrays = tuple[jax.Array, ...]
Call = Callable[..., Any]

DTYPES = "float32", "bfloat16"


@dataclass(frozen=True, repr=False)
class Row:
    """A contender on arrays of one size."""

    group: str
    contender: str
    subject: str
    """The kernel or the step that the group is about."""
    is_baseline: bool
    trace: Callable[[], Any]
    """Evaluates shapes alone; ``NotImplementedError`` says why the contender cannot run here."""
    prepare: Callable[[], tuple[Call, Arrays]]
    """The function to time and its arguments."""
    size: float
    """Bytes that have to be read and written."""
    operations: int
    flops: int
    """Of these, those of the matrix products that have to be computed."""
    precision: str = "highest"
    updated: tuple[int, ...] = ()
    """Positions of the arguments that the first outputs replace, in place."""

    def __repr__(self) -> str:
        return f"{self.group}, {self.contender}"

    def figures(self, seconds: float, ceilings: dict[str, Any]) -> dict[str, Any]:
        """What the report says beside the time; for baselines too, the bytes and operations are the subject's."""
        record = {"size": self.size, "flops": self.flops, "precision": self.precision}
        return {
            "subject": self.subject,
            "contender": self.contender,
            "baseline": self.is_baseline,
            "operations_a_byte": self.operations / self.size,
            "GB/s": self.size / seconds / 1e9,
            "GFLOP/s": self.operations / seconds / 1e9,
            "share_of_floor": floor(record, ceilings) / seconds,
        }


class Compiled:
    """A row's function, compiled; each call waits for its results."""

    def __init__(self, row: Row) -> None:
        call, self._arrays = row.prepare()
        self._updated = row.updated
        begin = time.perf_counter()
        self._call = jax.jit(call, donate_argnums=self._updated).lower(*self._arrays).compile()
        self.compile_seconds = time.perf_counter() - begin

    def __call__(self) -> Any:
        results = jax.block_until_ready(self._call(*self._arrays))
        if self._updated:
            self._arrays = merged(self._arrays, self._updated, results[: len(self._updated)])
        return results


def kernel_rows(name: str) -> list[Row]:
    """The rows of a kernel on its cases: its baselines, functions of the case's arrays, then its implementations.

    Only the largest case is measured in every dtype, the others in the first.
    """
    cases, baselines = BENCHMARKS[name], BASELINES[name]
    rows = []
    for place, (size, case) in enumerate(cases.items()):
        for dtype in DTYPES if place == len(cases) - 1 else DTYPES[:1]:
            contenders = dict(baselines) | {
                implementation: partial(case.call, implementation=implementation)
                for implementation in NAMES
                if implementation != "reference" or place == 0
            }
            for contender, call in contenders.items():
                rows.append(
                    Row(
                        group=f"{name} {size}, {dtype}",
                        contender=contender,
                        subject=name,
                        is_baseline=contender == next(iter(baselines)),
                        trace=partial(jax.eval_shape, call, *(jax.ShapeDtypeStruct(s, dtype) for s in case.shapes)),
                        prepare=partial(prepared, call, case, dtype),
                        size=case.size * jnp.dtype(dtype).itemsize / 4,
                        operations=case.operations,
                        flops=case.flops,
                        precision=case.precision,
                        updated=() if contender in baselines else case.updated,
                    )
                )
    return rows


def prepared(call: Call, case: Case, dtype: str) -> tuple[Call, Arrays]:
    """A function, and random arrays for a case."""
    return call, tuple(jnp.asarray(array, dtype) for array in case.arrays(np.random.default_rng(0)))
