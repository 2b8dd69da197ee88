"""Problems with a metric: projections by costs, runs in other units, and what has none."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.operations import primitives
from pjax_core.operations.costs import with_costs

from ..compilations import compilations

RNG = np.random.default_rng(0)
SHAPES = {"w0": (5, 4), "b0": (4,), "w1": (4, 3)}
PARAMS = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
X, Y = RNG.normal(size=(6, 5)), np.eye(3)[RNG.integers(3, size=6)]
COSTS: dict[str, Any] = {
    "params['w0']": 2.0,
    "params['b0']": np.arange(1.0, 5),
    "params['w1']": 0.5,
    "matmul 1": 0.3,
    "sum_relu": 1.7,
    "data[0]": 3.0,
    "matmul 2": 0.6,
}
STEPS = 6
ALGORITHMS = {
    "AP": pj.alternating_projections(),
    "CP": pj.cyclic_projections(),
    "DR": pj.douglas_rachford(),
}


def net(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"]


def loss(params: Any, x: Any, y: Any) -> Any:
    return pj.cross_entropy(net(params, x), y)


def change(metric: Any, algorithm: Any = ALGORITHMS["AP"], params: Any = PARAMS, data: Any = (X, Y)) -> Any:
    """In one program, which leaves out what else a solution has."""
    run = functools.partial(pj.solve, pj.feasibility(loss, metric=metric), algorithm=algorithm, steps=STEPS)
    return jax.jit(lambda *arguments: run(*arguments).change)(params, *data)


@functools.cache
def compiled(name: str) -> Any:
    """A function of costs, parameters and data, compiled once."""
    return jax.jit(lambda costs, params, *data: change(costs, ALGORITHMS[name], params, data))


def traced(name: str, costs: Any, params: Any = PARAMS) -> Any:
    """The change by an algorithm with costs that are traced; 1 where none is named."""
    ones = dict.fromkeys(COSTS, 1.0) | {"params['b0']": np.ones(4)}
    return compiled(name)(jax.tree.map(jnp.asarray, ones | costs), params, X, Y)


def require_same(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    for name in expected:
        assert np.linalg.norm(found[name] - expected[name]) <= tolerance * np.linalg.norm(expected[name]), name


OPERATIONS: dict[str, tuple[Any, list[tuple[int, ...]], dict[str, Any]]] = {
    "dot": (primitives.dot, [(7, 3), (7, 3)], {}),
    "sum": (primitives.add, [(7,), (7,), (7,)], {}),
    "signed sum": (primitives.signed_sum, [(7,), (7,)], {"coefficients": (2.0, -0.5)}),
    "sum_relu": (primitives.sum_relu, [(40,), (40,)], {}),
    "tanh": (primitives.elementwise("tanh"), [(7,)], {}),
    "softplus": (primitives.elementwise("softplus"), [(7,)], {}),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.usefixtures("float64")
def test_no_feasible_point_is_nearer_by_the_costs(name: str) -> None:
    primitive, shapes, settings = OPERATIONS[name]
    rng = np.random.default_rng(1)
    inputs = [rng.normal(size=shape) for shape in shapes]
    output = primitive.forward(*inputs, **settings) + rng.normal(size=shapes[0][:1])
    costs = [np.exp(rng.normal(size=() if name == "dot" else shapes[0])) for _ in (*shapes, None)]
    projected = with_costs(primitive, len(inputs))
    found, output_change = projected.project((*inputs, *costs), output, None, **settings)
    new = [x + d for x, d in zip(inputs, found, strict=True)]
    np.testing.assert_allclose(primitive.forward(*new, **settings), output + output_change, atol=1e-9)

    def distance(points: Sequence[np.ndarray]) -> np.ndarray:
        """Of each constraint from the point with these inputs on its graph."""
        terms = [c * (p - x) ** 2 for c, p, x in zip(costs, points, inputs, strict=False)]
        squares = [np.sum(term, axis=-1) if name == "dot" else term for term in terms]
        return sum(squares) + costs[-1] * (np.asarray(primitive.forward(*points, **settings)) - output) ** 2

    least = distance(new)
    assert np.all(least <= distance(inputs) + 1e-9)
    for size in (1e-3, 0.1, 1.0, 3.0):
        for start in (new, inputs):
            others = distance([p + size * rng.normal(size=(50, *np.shape(p))) for p in start])
            assert others.shape == (50, *least.shape)
            assert np.all(least <= others + 1e-9)
    # A residual that is given says the same.
    residual = output - primitive.forward(*inputs, **settings)
    again, _ = projected.project((*inputs, *costs), output, residual, **settings)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_layer_moves_to_the_means_of_its_copies() -> None:
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(3, 5)), rng.normal(size=(5, 4))
    z, costs = x @ w + rng.normal(size=(3, 4)), (2.0, 0.3, 0.7)
    (of_x, of_w), of_z = with_costs(primitives.matmul, 2).project((x, w, *map(jnp.asarray, costs)), z, None)
    spread = primitives.matmul.spread(x, w)
    (u, v), expected = with_costs(primitives.dot, 2).project((*spread, *map(jnp.asarray, costs)), z, None)
    np.testing.assert_allclose(of_x, u.mean(1), atol=1e-10)
    np.testing.assert_allclose(of_w, v.mean(0).T, atol=1e-10)
    np.testing.assert_allclose(of_z, expected, atol=1e-10)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.usefixtures("float64")
def test_in_other_units_with_the_metric_that_undoes_them_the_run_is_the_same(name: str) -> None:
    scale = 3.0  # of the hidden values: what a relu network computes stays the same
    scales = {"w0": scale, "b0": scale, "w1": 1 / scale}
    units = {f"params['{name}']": of for name, of in scales.items()} | {"matmul 1": scale, "sum_relu": scale}
    metric = COSTS | {name: COSTS.get(name, 1.0) / unit**2 for name, unit in units.items()}
    start = {name: scales[name] * array for name, array in PARAMS.items()}
    moved, expected = traced(name, metric, start), traced(name, COSTS)
    require_same({name: array / scales[name] for name, array in moved.items()}, expected)
    plain = traced(name, {})
    assert np.linalg.norm(plain["w0"] - expected["w0"]) > 0.01 * np.linalg.norm(plain["w0"])


def program(metric: Any, algorithm: Any) -> str:
    problem = pj.feasibility(loss, metric=metric)
    run = jax.jit(functools.partial(pj.solve, problem, algorithm=algorithm, steps=2))
    return run.lower(PARAMS, X, Y).as_text()


def test_costs_of_one_are_no_metric() -> None:
    ones = dict.fromkeys(COSTS, 1.0)
    for name in ("AP", "DR"):
        assert program(ones, ALGORITHMS[name]) == program(pj.metric.paper(), ALGORITHMS[name])
    assert program(COSTS, ALGORITHMS["DR"]) != program(ones, ALGORITHMS["DR"])
    assert pj.feasibility(loss, metric=pj.metric.paper()) is pj.feasibility(loss)
    assert pj.feasibility(loss, metric=COSTS) is pj.feasibility(loss, metric=COSTS)
    assert pj.feasibility(loss, metric=COSTS) is not pj.feasibility(loss, metric=COSTS | {"matmul 2": 0.7})


def test_costs_are_those_that_were_given() -> None:
    array = np.arange(1.0, 5)
    problem = pj.feasibility(loss, metric={"params['b0']": array})
    array *= 2
    assert pj.feasibility(loss, metric={"params['b0']": array}) != problem
    np.testing.assert_array_equal(problem.metric.costs["params['b0']"], np.arange(1.0, 5))
    # In another process another array may be where this one is.
    assert pickle.loads(pickle.dumps(problem)) == pj.feasibility(loss, metric={"params['b0']": array / 2})


@pytest.mark.usefixtures("float64")
def test_costs_may_be_traced_mapped_over_and_follow_from_the_network() -> None:
    for name in ("AP", "DR"):
        found = traced(name, COSTS)
        require_same(found, change(COSTS, ALGORITHMS[name]))
        with compilations() as count:
            other = traced(name, COSTS | {"params['w0']": 5.0})
        assert not count
        assert np.linalg.norm(other["w0"] - found["w0"]) > 0.01 * np.linalg.norm(found["w0"])
    mapped = jax.jit(jax.vmap(lambda cost: traced("AP", COSTS | {"params['w0']": cost})))(jnp.asarray([2.0, 5.0]))
    require_same(jax.tree.map(lambda a: a[1], mapped), traced("AP", COSTS | {"params['w0']": 5.0}))
    of_network = change(lambda network: COSTS | {"params['w0']": jnp.mean(network.values["data[0]"] ** 2)})
    require_same(of_network, traced("AP", COSTS | {"params['w0']": np.mean(X**2)}))


@pytest.mark.usefixtures("float64")
def test_runs_with_costs_go_on() -> None:
    problem = pickle.loads(pickle.dumps(pj.feasibility(loss, metric=COSTS)))
    run = functools.partial(pj.solve, problem, PARAMS, X, Y, algorithm=ALGORITHMS["DR"], tolerance=np.inf)
    first = run(steps=3)
    require_same(run(steps=3, state=first.state).change, run(steps=6).change, 0)


def test_weights_of_whole_layers_have_costs() -> None:
    def of(b: float, metric: Any) -> Any:
        problem = pj.feasibility(loss, dot_products=pj.Layer("coupled", b=b), metric=metric)
        run = functools.partial(pj.solve, problem, algorithm=pj.cyclic_projections(), steps=2)
        both = jax.jit(lambda *arguments: (pj.direction(problem, *arguments), run(*arguments).change))
        return both(PARAMS, X, Y)

    for found, expected in zip(of(10.0, {"params['w0']": 4.0, "params['w1']": 4.0}), of(2.5, None), strict=True):
        require_same(found, expected, 1e-4)


@pytest.mark.usefixtures("float64")
def test_directions_are_divided_by_the_part_that_costs_let_through() -> None:
    plain = pj.direction(pj.feasibility(loss), PARAMS, X, Y)
    found = pj.direction(pj.feasibility(loss, metric={"params['w0']": 1e-6, "params['w1']": 1e3}), PARAMS, X, Y)
    for name in ("w0", "w1"):
        assert 0.2 < np.linalg.norm(found[name]) / np.linalg.norm(plain[name]) < 5


@pytest.mark.usefixtures("float64")
def test_helpers() -> None:
    def movements(moved: Any) -> np.ndarray:
        return np.array([np.linalg.norm(moved[w]) / np.linalg.norm(PARAMS[w]) for w in ("w0", "w1")])

    plain, equal = map(movements, (traced("AP", {}), change(pj.metric.equal_steps())))
    assert plain.max() / plain.min() > 3 * equal.max() / equal.min()
    # Relative costs know no units of the inputs.
    first, second = (
        pj.metric.relative(10.0, 2.0)(pj.metric.Network({}, (), (product,), {}))
        for product in (pj.metric.Product(("w",), "z", 3.0, 2.0), pj.metric.Product(("w",), "z", 300.0, 2.0))
    )
    assert second["w"] == 100 * first["w"] == 30.0
    assert first["z"] == second["z"] == 1 / 24
    expected = {"params['w0']": np.mean(np.sum(X**2, 1)) / 10}
    hidden = np.maximum(X @ PARAMS["w0"] + PARAMS["b0"], 0)
    expected["params['w1']"] = np.mean(np.sum(hidden**2, 1)) / 10
    of_b = jax.jit(lambda b, *data: change(pj.metric.relative(b), data=data))
    require_same(of_b(10.0, X, Y), traced("AP", expected))


def test_a_metric_by_gaps_is_that_of_the_algorithms() -> None:
    dense = functools.partial(pj.douglas_rachford, copies="dense")
    found = program(pj.metric.by_gaps(0.2), dense())
    assert found == program(None, dense(gamma=0.2)) != program(None, dense(gamma=0.3))
    for call in (change, lambda metric: pj.direction(pj.feasibility(loss, metric=metric), PARAMS, X, Y)):
        with pytest.raises(ValueError, match="by_gaps.*take pj.douglas_rachford"):
            call(pj.metric.by_gaps(0.2))


def pooled(params: Any, x: Any, y: Any) -> Any:
    return pj.cross_entropy(jnp.max((x @ params["w0"]).reshape(6, 2, 2), 2) @ params["w1"], y)


def own_loss(params: Any, x: Any, y: Any) -> Any:
    mine = pj.output("mine", loss=lambda z, y: jnp.mean((z - y) ** 2), prox=lambda z, y: (z + y) / 2)
    return mine(net(params, x), y)


@pytest.mark.parametrize(
    ("function", "metric", "message"),
    [
        (loss, {"params['w0']": 0.0}, r"the cost of params\['w0'\] is 0.0; pass positive"),
        (loss, {"params['b0']": np.array([1, -1, 1, 1.0])}, r"the cost of params\['b0'\] is .*; pass positive"),
        (loss, {"params['w0']": np.ones(3)}, r"the cost of params\['w0'\] is of shape \(3,\); pass one number"),
        (loss, {"w0": 2.0}, r"no value 'w0' .*; there are data\[0\], params"),
        (
            loss,
            {"params['w0']": 2 * np.ones((5, 4))},
            r"matmul 1 takes one .* that of params\['w0'\] is of shape",
        ),
        (loss, {"matmul 1": np.full((6, 4), 2.0)}, "matmul 1 takes one number .* that of matmul 1 is of shape"),
        (pooled, {"matmul 1": 2.0}, "max has no projection with costs, .* cost the same: matmul 1, max"),
        (own_loss, {"matmul 2": 2.0}, "mine has no projection with costs, so that its input must cost 1: matmul 2"),
    ],
)
def test_says_which_costs_it_does_not_take(function: Callable[..., Any], metric: Any, message: str) -> None:
    params = {"w0": PARAMS["w0"], "w1": PARAMS["w1"][:2]} if function is pooled else PARAMS
    problem = pj.feasibility(function, metric=metric)
    with pytest.raises(ValueError, match=message):
        pj.solve(problem, params, X, Y, algorithm=ALGORITHMS["AP"], steps=1)


def test_says_what_is_no_metric() -> None:
    with pytest.raises(TypeError, match="metric is 2.0"):
        pj.feasibility(loss, metric=2.0)
    with pytest.raises(TypeError, match=r"the cost of params\['w0'\] is 'much'; pass a positive number"):
        change({"params['w0']": "much"})
    for value in (None, True, 1j, [1.0, 2.0, 3.0, 4.0]):  # which numbers are compared with all the same
        with pytest.raises(TypeError, match=r"the cost of params\['b0'\] is .*; pass a positive number"):
            change({"params['b0']": value})
    with pytest.raises(TypeError, match="metric is the function pj.metric.equal_steps; pass what it returns"):
        pj.feasibility(loss, metric=pj.metric.equal_steps)
    for b, c in ((-1.0, None), (10.0, 0.0)):
        with pytest.raises(ValueError, match="[bc] is .*; pass a positive number"):
            pj.metric.relative(b, c)
    with pytest.raises(TypeError, match="the costs are 2.0; pass numbers"):
        change(lambda network: 2.0)
    for call, message in (
        (lambda: pj.metric.by_gaps(0), "gamma is 0"),
        (lambda: pj.metric.relative(-1.0), "b is -1.0; pass a positive number"),
        (lambda: pj.metric.relative(10.0, 0), "c is 0; pass a positive number, or None"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    # Without products nothing has to take equal steps.
    assert pj.metric.equal_steps()(pj.metric.Network({}, (), (), {})) == {}
    rank_one = pj.feasibility(loss, dot_products="layer", metric={"params['w0']": 2.0})
    with pytest.raises(ValueError, match="matmul 1 has no projection with costs"):
        pj.solve(rank_one, PARAMS, X, Y, algorithm=ALGORITHMS["CP"], steps=1)
    tied = pj.feasibility(loss, dot_products=pj.Layer("coupled"), metric={"matmul 1": 2.0})
    with pytest.raises(ValueError, match="in matmul 1 these must cost the same"):
        pj.solve(tied, PARAMS, X, Y, algorithm=ALGORITHMS["CP"], steps=1)
