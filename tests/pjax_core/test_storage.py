"""What users store: algorithms by pickle, and exported functions with states and solutions in their signatures."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import pjax_core as pj

CALLS = {
    "alternating_projections()": pj.alternating_projections(),
    "alternating_projections(in_turn=True)": pj.alternating_projections(in_turn=True),
    "cyclic_projections()": pj.cyclic_projections(),
    "alternating_reflections(copies='dense')": pj.alternating_reflections(copies="dense"),
    "douglas_rachford(0.5)": pj.douglas_rachford(0.5),
    "douglas_rachford(0.3, copies=Factored(history=2), budget=64)": pj.douglas_rachford(
        relaxation=0.3, budget=64, copies=pj.Factored(2)
    ),
    "difference_map(-2.0)": pj.difference_map(-2.0),
    "cyclic_douglas_rachford()": pj.cyclic_douglas_rachford(),
}


@pytest.mark.parametrize("call", CALLS)
def test_algorithms_read_like_their_calls(call: str) -> None:
    assert repr(CALLS[call]) == call
    assert eval(call, vars(pj)) is CALLS[call]


@pytest.mark.parametrize("call", CALLS)
def test_algorithms_can_be_pickled_and_copied(call: str) -> None:
    algorithm = CALLS[call]
    for other in (pickle.loads(pickle.dumps(algorithm)), copy.copy(algorithm), copy.deepcopy(algorithm)):
        assert other == algorithm
        assert hash(other) == hash(algorithm)
    assert pickle.loads(pickle.dumps(algorithm)) != pj.douglas_rachford(0.9)


def test_defaults_given_and_left_out_are_one_algorithm() -> None:
    assert pj.douglas_rachford() is pj.douglas_rachford(0.5) is pj.douglas_rachford(relaxation=0.5, copies="auto")


def test_algorithms_are_pickled_for_other_processes(tmp_path: Path) -> None:
    (tmp_path / "algorithms").write_bytes(pickle.dumps(list(CALLS.values())))
    program = "import pathlib, pickle, sys; print(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()))"
    root = Path(pj.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "algorithms")],
        env={"PYTHONPATH": f"{root}:{root / 'kernels'}", "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == f"[{', '.join(CALLS)}]"


def network(params: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(pj.matmul(pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"]), params["w1"]), y)


PROBLEM = pj.feasibility(network)


def test_problems_can_be_pickled() -> None:
    problem = pj.feasibility(network)
    assert pickle.loads(pickle.dumps(problem)) == problem


@pytest.fixture
def arrays(generator: np.random.Generator, one_hot: Any) -> tuple[Any, Any, Any]:
    shapes = {"w0": (8, 12), "b0": (12,), "w1": (12, 2)}
    params = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    return jax.tree.map(jnp.float32, (params, generator.normal(size=(16, 8)), one_hot(16, 2)))


@pytest.mark.parametrize("call", list(CALLS)[1::2])
def test_solutions_and_states_are_exported_and_serialized(arrays: Any, call: str) -> None:
    pytest.importorskip("flatbuffers", reason="JAX serializes by flatbuffers")
    algorithm = CALLS[call]

    def solve(params: Any, x: Any, y: Any) -> pj.Solution:
        return pj.solve(PROBLEM, params, x, y, algorithm=algorithm, steps=2)

    def step(state: Any) -> Any:
        return algorithm.step(PROBLEM, state)

    solution = jax.jit(solve)(*arrays)
    for function, given in ((solve, arrays), (step, (solution.state,))):
        stored = export.export(jax.jit(function))(*given).serialize()
        expected, found = jax.jit(function)(*given), export.deserialize(stored).call(*given)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("call", CALLS)
def test_keys_of_states_are_strings(arrays: Any, call: str) -> None:
    state = CALLS[call].init(PROBLEM, *arrays)
    keys = [
        entry.key
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
        for entry in path
        if isinstance(entry, jax.tree_util.DictKey)
    ]
    assert keys
    assert {type(key) for key in keys} == {str}
