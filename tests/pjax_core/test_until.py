"""Runs that stop by themselves, and starts side by side."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_core as pj

from ..compilations import compilations
from .networks import NETWORKS
from .stored_copies import State

ALGORITHMS = {
    "AP": pj.alternating_projections(in_turn=True),
    "CP": pj.cyclic_projections(),
    "DR": pj.douglas_rachford(),
    "DR factored": pj.douglas_rachford(0.4, copies=pj.Factored()),
    "DM": pj.difference_map(0.7),
    "DR metric": pj.douglas_rachford(gamma=1e-3, copies="dense"),
    "CDR": pj.cyclic_douglas_rachford(),
}
DR = ALGORITHMS["DR"]
UNTIL = pj.gap_below(1e-2)
STEPS = 2000


def network(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"]


def margin(params: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(network(params, x), y)


PROBLEM = pj.feasibility(margin)
solve = functools.partial(pj.solve, PROBLEM, tolerance=np.inf)


def first(key: Any) -> dict[str, Any]:
    keys = jax.random.split(key)
    return {
        "w0": 0.4 * jax.random.normal(keys[0], (6, 16)),
        "b0": jnp.zeros(16),
        "w1": 0.4 * jax.random.normal(keys[1], (16, 3)),
    }


PARAMS = first(jax.random.key(0))
STARTS = jax.vmap(first)(jax.random.split(jax.random.key(1), 5))


@pytest.fixture
def data(generator: np.random.Generator, one_hot: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.float32(generator.normal(size=(8, 6))), np.float32(one_hot(8, 3))


def assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def gap_of_outputs(params: Any, x: Any, y: Any) -> float:
    """The distance of what the network computes from the margins, in float64."""
    p = {key: np.float64(value) for key, value in params.items()}
    logits = np.maximum(x @ p["w0"] + p["b0"], 0) @ p["w1"]
    return float(np.sqrt(np.mean((np.where(y > 0, np.maximum(logits, y), np.minimum(logits, 0)) - logits) ** 2)))


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_stops_once_solved(algorithm: pj.Algorithm, data: Any) -> None:
    solution = solve(PARAMS, *data, algorithm=algorithm, steps=STEPS, until=UNTIL)
    made = int(solution.info.steps)
    assert solution.info.solved
    assert 0 < made < STEPS
    assert made % UNTIL.every == 0
    gaps = solution.info.gaps
    assert float(gaps["outputs"]) == pytest.approx(gap_of_outputs(solution.params, *data), rel=1e-3, abs=1e-6)
    assert gaps["outputs"] < UNTIL.gap
    assert all(0 < gap < 1 for gap in (gaps["weights"], gaps["inputs"]))
    if algorithm in (ALGORITHMS["CP"], DR, ALGORITHMS["DR metric"]):
        before = solve(PARAMS, *data, algorithm=algorithm, steps=made - UNTIL.every)
        assert gap_of_outputs(before.params, *data) >= UNTIL.gap


@pytest.mark.parametrize("algorithm", [ALGORITHMS["CP"], DR], ids=["CP", "DR"])
def test_steps_are_those_without_a_condition(algorithm: pj.Algorithm, data: Any) -> None:
    """Of a run that does not get there: the last look is after a part of the usual number of steps."""
    until = pj.gap_below(1e-9, every=5)
    found = solve(PARAMS, *data, algorithm=algorithm, steps=12, until=until)
    expected = solve(PARAMS, *data, algorithm=algorithm, steps=12)
    assert (bool(found.info.solved), int(found.info.steps)) == (False, 12)
    assert (expected.info.solved, expected.info.steps, expected.info.gaps) == (None, None, None)
    np.testing.assert_allclose(found.info.residual, expected.info.residual, rtol=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found.params, expected.params)


def test_steps_that_were_not_made_are_zero(data: Any) -> None:
    info = solve(PARAMS, *data, algorithm=ALGORITHMS["DR factored"], steps=STEPS, until=UNTIL).info
    made = int(info.steps)
    for series in (info.residual, *info.truncation.values()):
        assert series.shape == (STEPS,)
        assert np.all(np.isfinite(series))
        assert not series[made:].any()
    assert np.all(info.residual[:made] > 0)


def test_a_solution_takes_no_step(data: Any) -> None:
    solved = solve(PARAMS, *data, algorithm=DR, steps=STEPS, until=UNTIL)
    again = solve(PARAMS, *data, algorithm=DR, steps=STEPS, until=UNTIL, state=solved.state)
    assert (bool(again.info.solved), int(again.info.steps)) == (True, 0)
    assert_same((again.params, again.change), (solved.params, solved.change))
    assert np.isinf(again.info.gaps["weights"])
    none = solve(PARAMS, *data, algorithm=DR, steps=0, until=UNTIL)
    assert (bool(none.info.solved), none.info.residual.shape) == (False, (0,))


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        ("douglas_rachford", {"relaxation": 0.3}),
        ("alternating_reflections", {}),
        ("difference_map", {"beta": 1.0}),
        ("difference_map", {"beta": -0.7}),
    ],
)
def test_gap_of_weights_is_between_points_of_both_sets(factory: str, settings: Any, float64: None) -> None:
    """Against the oracle that stores every copy, by the means over the copies of each weight."""
    problem = NETWORKS["weight_used_twice"]
    params, x, y = problem.arrays(np.random.default_rng(1))
    algorithm = getattr(pj, factory)(**settings, copies="dense")
    found = pj.solve(problem.problem(), params, x, y, algorithm=algorithm, steps=5, until=pj.gap_below(1e-9))

    oracle = problem.oracle(params, x, y)
    z = oracle.start()
    for _ in range(4):
        z = getattr(oracle, factory)(z, **settings)
    one, other = points(oracle, z, **settings)
    differences = [(oracle.estimate(one) - oracle.estimate(other))[p.output].ravel() for p in oracle.parameters]
    expected = np.sqrt(np.mean(np.concatenate(differences) ** 2))
    assert float(found.info.gaps["weights"]) == pytest.approx(expected, rel=1e-6)


def points(oracle: Any, z: State, relaxation: float = 0.5, beta: float | None = None) -> tuple[State, State]:
    """The points of both sets whose difference a step follows."""
    on_a, on_b = oracle.project_a(z), oracle.project_b(z)
    if beta is None:
        return on_a, oracle.project_b(2 * on_a - z)
    return (
        oracle.project_a((1 + 1 / beta) * on_b - z / beta),
        oracle.project_b((1 - 1 / beta) * on_a + z / beta),
    )


@pytest.mark.parametrize("algorithm", [ALGORITHMS["AP"], DR], ids=["AP", "DR"])
def test_contradictions_are_not_solved(algorithm: pj.Algorithm, data: Any) -> None:
    """Two margins that exclude each other: alternating projections come to rest, the outputs miss both."""
    problem = pj.feasibility(lambda params, x, y: (margin(params, x, y), margin(params, x, 1 - y)))
    info = pj.solve(problem, PARAMS, *data, algorithm=algorithm, steps=3000, until=UNTIL, tolerance=np.inf).info
    assert not info.solved
    assert info.gaps["outputs"] > 0.4
    if algorithm is not DR:
        assert max(info.gaps["weights"], info.gaps["inputs"]) < 1e-3


@pytest.mark.parametrize("algorithm", [ALGORITHMS["CP"], DR], ids=["CP", "DR"])
def test_parameters_outside_of_their_sets_are_not_solved(algorithm: pj.Algorithm, data: Any) -> None:
    """The outputs are right from the start, but weights are to be in a box that they are outside of."""
    solved = solve(PARAMS, *data, algorithm=DR, steps=STEPS, until=UNTIL).params
    problem = pj.feasibility(lambda p, x, y: (margin(p, x, y), pj.within(p["w1"], pj.Box(-0.3, 0.3))))
    run = functools.partial(pj.solve, problem, solved, *data, algorithm=algorithm, tolerance=np.inf, until=UNTIL)
    none = run(steps=0).info
    assert not none.solved
    outside = np.maximum(np.abs(np.float64(solved["w1"])) - 0.3, 0)
    assert float(none.gaps["outputs"]) == pytest.approx(np.sqrt(np.mean(outside**2)), rel=1e-4)
    found = run(steps=STEPS)
    assert found.info.solved
    assert np.abs(found.params["w1"]).max() <= 0.3 + 1e-6


@functools.partial(jax.jit, static_argnums=3)
def side_by_side(starts: Any, x: Any, y: Any, until: Any) -> pj.Solution:
    def run(params: Any) -> pj.Solution:
        return solve(params, x, y, algorithm=DR, steps=STEPS, until=until)

    return jax.vmap(run, axis_name="starts")(starts)


def test_starts_side_by_side_stop_each_by_itself(data: Any) -> None:
    found = side_by_side(STARTS, *data, UNTIL)
    assert found.info.solved.all()
    assert len(set(found.info.steps.tolist())) > 1
    for start in range(len(found.info.steps)):
        alone = solve(jax.tree.map(lambda a, i=start: a[i], STARTS), *data, algorithm=DR, steps=STEPS, until=UNTIL)
        assert alone.info.steps == found.info.steps[start]
        np.testing.assert_allclose(found.params["w1"][start], alone.params["w1"], rtol=1e-3, atol=1e-4)


def test_any_solved_start_stops_all_and_is_the_best(data: Any) -> None:
    steps = side_by_side(STARTS, *data, UNTIL).info.steps
    found = side_by_side(STARTS, *data, pj.gap_below(1e-2, any_of="starts"))
    np.testing.assert_array_equal(found.info.steps, steps.min())
    np.testing.assert_array_equal(found.info.solved, steps == steps.min())
    best = pj.best(found)
    assert best.info.solved
    assert best.info.gaps["outputs"] == found.info.gaps["outputs"].min()
    assert gap_of_outputs(best.params, *data) < UNTIL.gap


def test_the_best_is_no_start_that_diverged(data: Any) -> None:
    found = side_by_side(STARTS, *data, UNTIL)
    gaps = found.info.gaps | {"outputs": jnp.asarray([np.nan, 3.0, 2.0, np.inf, 4.0])}
    best = pj.best(replace(found, info=replace(found.info, gaps=gaps)))
    assert_same(best.params, jax.tree.map(lambda a: a[2], found.params))


def test_under_scan_and_shard_map(data: Any) -> None:
    def over_starts(params: Any, x: Any, y: Any) -> Any:
        def run(_: None, start: Any) -> tuple[None, Any]:
            return None, solve(start, x, y, algorithm=DR, steps=STEPS, until=UNTIL).info.steps

        return lax.scan(run, None, params)[1]

    expected = side_by_side(STARTS, *data, UNTIL).info.steps
    np.testing.assert_array_equal(jax.jit(over_starts)(STARTS, *data), expected)
    mesh = jax.make_mesh((1,), ("starts",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec("starts"), spec(), spec()), out_specs=spec("starts"))
    def over_devices(params: Any, x: Any, y: Any) -> Any:
        until = pj.gap_below(1e-2, any_of="starts")
        start = jax.tree.map(lambda a: a[0], params)
        return solve(start, x, y, algorithm=DR, steps=STEPS, until=until).info.steps[None]

    one = jax.tree.map(lambda a: a[:1], STARTS)
    np.testing.assert_array_equal(jax.jit(over_devices)(one, *data), expected[:1])


def test_a_second_run_compiles_nothing(data: Any) -> None:
    x, y = data

    def runs(x: Any, until: Any, params: Any) -> None:
        found = side_by_side(STARTS, x, y, until)
        pj.best(found)
        one = solve(params, x, y, algorithm=DR, steps=STEPS, until=until)
        solve(params, x, y, algorithm=DR, steps=STEPS, until=until, state=one.state)
        jax.vmap(lambda p: solve(p, x, y, algorithm=DR, steps=STEPS, until=until))(STARTS)

    # New arrays for both: those that a test before found finite are not looked at again.
    arrays = [(x + np.float32(shift), jax.tree.map(lambda a, k=k: k * a, PARAMS)) for k, shift in ((2, 0.1), (3, 0.2))]
    runs(arrays[0][0], pj.gap_below(1e-2), arrays[0][1])
    with compilations() as seen:
        runs(arrays[1][0], pj.gap_below(1e-2), arrays[1][1])
    assert seen == []


@pytest.mark.parametrize("name", ["AP", "DR factored", "DR metric"])
def test_memory_does_not_grow_with_steps(name: str, data: Any) -> None:
    """But for the numbers that are returned of each step."""
    algorithm = ALGORITHMS[name]

    def memory(steps: int) -> Any:
        run = jax.jit(lambda params: solve(params, *data, algorithm=algorithm, steps=steps, until=UNTIL))
        return run.lower(PARAMS).compile().memory_analysis()

    few, many = memory(10), memory(100_000)
    assert many.temp_size_in_bytes < few.temp_size_in_bytes + 1000
    series = 1 + (2 if name == "DR factored" else 0)
    assert many.output_size_in_bytes - few.output_size_in_bytes == pytest.approx(4 * series * 99_990, abs=1000)


def bad_solve(**settings: Any) -> pj.Solution:
    x, y = np.ones((8, 6), np.float32), np.ones((8, 3), np.float32)
    return solve(PARAMS, x, y, **({"algorithm": DR, "steps": 2} | settings))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pj.gap_below("small"), TypeError, "gap is 'small'; pass a positive number"),
        (lambda: pj.gap_below(0.0), ValueError, "gap is 0.0; pass a positive number"),
        (lambda: pj.gap_below(0.1, every=0), ValueError, "every is 0; pass an integer of at least 1"),
        (lambda: pj.gap_below(0.1, every=2.5), TypeError, "every is 2.5; pass an integer"),
        (lambda: pj.gap_below(0.1, any_of=0), ValueError, "any_of is 0; pass the axis_name"),
        (lambda: bad_solve(until=pj.gap_below(0.1, any_of="rows")), ValueError, "any_of is 'rows', but no axis has"),
        (lambda: bad_solve(until=0.1), TypeError, r"until is 0.1; pass pj.gap_below"),
        (lambda: bad_solve(state={"w": np.ones(3)}), TypeError, "state is a dict of arrays; pass solution.state"),
        (
            lambda: bad_solve(state=bad_solve(algorithm=ALGORITHMS["AP"]).state),
            ValueError,
            "state is of another algorithm, problem, or shape of data",
        ),
        (lambda: pj.best(bad_solve()), ValueError, "best takes solutions of jax.vmap"),
        (lambda: pj.best(bad_solve(until=UNTIL)), ValueError, "best takes solutions of jax.vmap"),
    ],
)
def test_bad_input_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("any_of", [None, "starts"])
def test_restarts_are_solutions_side_by_side(any_of: Any, data: Any) -> None:
    """In rounds of fewer and fewer starts, each of which ends where it would by itself."""
    until = pj.gap_below(1e-2, any_of=any_of)
    run = functools.partial(solve, algorithm=DR, steps=STEPS, until=until)
    expected = jax.vmap(lambda params: run(params, *data), axis_name="starts")(STARTS)
    found = pj.restarts(PROBLEM, STARTS, *data, algorithm=DR, steps=STEPS, until=until, every=20)
    assert len(set(found.info.steps.tolist())) > (any_of is None)
    np.testing.assert_array_equal(found.info.solved, expected.info.solved)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_array_equal(found.info.steps, expected.info.steps)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, (found.params, found.info.gaps), (expected.params, expected.info.gaps))
    np.testing.assert_allclose(found.info.residual, expected.info.residual, rtol=0.1, atol=1e-4)
    assert gap_of_outputs(pj.best(found).params, *data) < until.gap


def test_restarts_compile_no_more_than_a_program_for_each_power_of_two(data: Any) -> None:
    from pjax_core.restarts import _side_by_side

    before = _side_by_side._cache_size()
    run = functools.partial(pj.restarts, PROBLEM, STARTS, *data, algorithm=DR, steps=STEPS, until=UNTIL, every=25)
    first = run()
    assert 2 <= _side_by_side._cache_size() - before <= 4  # of 5 from the start, and of 4, 2, 1 or 5 that go on
    with compilations() as seen:
        assert_same(run().params, first.params)
    assert not seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every is 0; pass"),
        ({"steps": 0}, "steps is 0; pass"),
        ({"starts": {**STARTS, "b0": jnp.zeros((4, 16))}}, "pass arrays that all have the same first axis"),
    ],
)
def test_restarts_say_what_is_wrong(changes: dict[str, Any], message: str, data: Any) -> None:
    given: dict[str, Any] = {"starts": STARTS, "steps": 10, "every": 5} | changes
    with pytest.raises(ValueError, match=message):
        pj.restarts(PROBLEM, given.pop("starts"), *data, algorithm=DR, until=UNTIL, **given)
