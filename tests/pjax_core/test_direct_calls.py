"""What users call outside jit: the second call with arguments of the same shapes compiles nothing."""

from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj

from ..compilations import compilations

ALGORITHMS = {
    "AP": pj.alternating_projections(),
    "CP": pj.cyclic_projections(),
    "DR, factored": pj.douglas_rachford(0.5, copies=pj.Factored(history=2)),
    "DM": pj.difference_map(1.0),
    "CDR": pj.cyclic_douglas_rachford(),
}


def net(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"]


class Module:
    """As those of Flax, whose bound methods are made anew wherever they are read."""

    def apply(self, params: Any, x: Any) -> Any:
        return net(params, x)


MODULE = Module()
PROBLEM = pj.feasibility(lambda params, x, y: pj.margin_loss(net(params, x), y))


def arguments(seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    shapes = {"w0": (6, 5), "b0": (5,), "w1": (5, 3)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return params, rng.normal(size=(4, 6)).astype(np.float32), np.eye(3, dtype=np.float32)[rng.integers(3, size=4)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_second_call_compiles_nothing(name: str) -> None:
    algorithm = ALGORITHMS[name]

    def calls(seed: int) -> None:
        params, x, y = arguments(seed)
        pj.evaluate(net, params, x)
        pj.evaluate(MODULE.apply, params, x)
        pj.solve(PROBLEM, params, x, y, algorithm=algorithm, steps=2)
        state = algorithm.step(PROBLEM, algorithm.init(PROBLEM, params, x, y))
        algorithm.params(state)
        algorithm.params_low(state)

    calls(0)
    with compilations() as seen:
        calls(1)
    assert seen == []


def test_a_schedule_of_numpy_scalars_is_taken() -> None:
    assert pj.douglas_rachford(np.float32(0.5)) == pj.douglas_rachford(0.5)
    assert pj.difference_map(np.float64(1)) == pj.difference_map(1.0)
