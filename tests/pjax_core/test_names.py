"""What a profiler shows: every projection is named after its node in the compiled program."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj


def equal_layers(params: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.matmul(pj.sum_relu(pj.matmul(x, params["w0"]), params["b"]), params["w1"]), y)


OPERATIONS = {"matmul 1", "matmul 2", "sum_relu", "margin_loss"}
"""A parameter's own projection computes nothing: the mean change of its copies becomes that of its value."""


@pytest.mark.parametrize(
    "algorithm",
    [pj.alternating_projections(), pj.douglas_rachford(copies="dense")],
    ids=["consensus", "copies"],
)
def test_projections_are_named_after_their_nodes(algorithm: pj.Algorithm, generator: np.random.Generator) -> None:
    arrays = {name: generator.normal(size=(4, 4)).astype(np.float32) for name in ("w0", "w1", "x", "y")}
    x, y, bias = arrays.pop("x"), abs(arrays.pop("y")), generator.normal(size=4).astype(np.float32)
    problem = pj.feasibility(equal_layers)
    state = algorithm.init(problem, arrays | {"b": bias}, x, y)
    program = jax.jit(lambda state: algorithm.step(problem, state)).lower(state).compile().as_text()
    names = {name.replace("\\", "") for name in re.findall(r'op_name="jit\(<lambda>\)/([^"]+)"', program)}
    # From jax 0.12 on the step, which is inlined, is a part of the name too.
    assert {name.removeprefix("jit(step)/").split("/")[0] for name in names} >= OPERATIONS
