"""Whole steps of the algorithms beside SGD by ``jax.grad`` and textbook projections with stored copies.

All start from the same random network and batch (networks.py), alone and in a scan.  Bytes are those of the parameters
and data; operations those of three matrix products a layer, which gradients and projections need alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import pytest

import pjax_core as pj
from benchmarks.measure import naive
from benchmarks.measure.networks import pjax, random_problem, sgd, stored_copies
from benchmarks.measure.rows import Row
from benchmarks.measure.timing import Step, copied

NETWORKS = {"784-128-10": ([784, 128, 10], 128), "784-256-256-10": ([784, 256, 256, 10], 256)}
WITH_STORED_COPIES = "784-128-10"
"""The network that is small enough for it."""

SCAN_LENGTH = 10


def contenders(name: str, length: int) -> dict[str, Callable[..., tuple[Step, Any]]]:
    """Functions of a random problem that return a step and its first state; the first is the baseline.

    Compiling them takes most of the time, so that the larger network and the scan have fewer.
    """
    starts: dict[str, Callable[..., tuple[Step, Any]]] = {
        "SGD": sgd,
        "AP": partial(pjax, algorithm=pj.alternating_projections()),
    }
    if name == WITH_STORED_COPIES or length == 1:
        factored = pj.douglas_rachford(copies=pj.Factored(history=1), budget=pj.DENSE_BUDGET)
        starts["DR"] = partial(pjax, algorithm=factored)
    if name == WITH_STORED_COPIES:
        starts["CP"] = partial(pjax, algorithm=pj.cyclic_projections())
    if name == WITH_STORED_COPIES and length == 1:
        starts["naive AP"] = partial(stored_copies, iterate=naive.alternating_projections)
        starts["naive DR"] = partial(stored_copies, iterate=naive.douglas_rachford)
    return starts


def step_rows(name: str, length: int) -> list[Row]:
    """The steps of a network's contenders, ``length`` of them in a scan or one alone."""
    sizes, batch = NETWORKS[name]
    numbers = sum(a * b for a, b in pairwise(sizes)) + sum(sizes[1:-1]) + batch * (sizes[0] + sizes[-1])
    operations = length * 6 * batch * sum(a * b for a, b in pairwise(sizes))

    def prepare(start: Callable[..., tuple[Step, Any]]) -> tuple[Callable[[Any], tuple[Any]], tuple[Any]]:
        step, state = start(*random_problem(sizes, batch))
        return partial(repeated, step, length), (copied(state),)

    def trace(start: Callable[..., tuple[Step, Any]]) -> Any:
        def run() -> Any:
            call, arguments = prepare(start)
            return call(*arguments)

        return jax.eval_shape(run)

    form = "one step" if length == 1 else f"{length} steps in a scan"
    return [
        Row(
            group=f"{name}, batch {batch}, {form}",
            contender=contender,
            subject="step",
            is_baseline=contender == "SGD",
            trace=partial(trace, start),
            prepare=partial(prepare, start),
            size=length * 2 * 4 * numbers,
            operations=operations,
            flops=operations,
            updated=(0,),
        )
        for contender, start in contenders(name, length).items()
    ]


def repeated(step: Step, length: int, state: Any) -> tuple[Any]:
    """The state after ``length`` steps."""
    if length == 1:
        return (step(state),)
    return (jax.lax.scan(lambda carry, _: (step(carry), None), state, None, length=length)[0],)


ROWS = [row for name in NETWORKS for length in (1, SCAN_LENGTH) for row in step_rows(name, length)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_steps(row: Row, measure: Callable[[Row], None]) -> None:
    measure(row)
