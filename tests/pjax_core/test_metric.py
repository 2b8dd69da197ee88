"""Algorithms that reflect, with a metric that the gaps drive, against an oracle with dense least squares."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj

from .networks import NETWORKS, changes_by_step, unchanged
from .stored_copies import Copies, State, StoredCopies, project_max

BETA, GAMMA = 0.4, 0.2


class WithMetric(StoredCopies):
    """Every operation holds a copy of its output as well, and every copy the weight of its constraint.

    In A all operations are projected, each on its own; in B all copies of an element go to their weighted least-squares
    mean, and those of data to the data.
    """

    identity = staticmethod(unchanged)

    def prepare(self) -> None:
        """The places of the copies of outputs, after those of inputs, and the constraint of each copy."""
        computed = [operation for operation in self.operations if operation.output.size]
        first = np.cumsum([len(self.source), *(operation.output.size for operation in computed)])
        self.own = {op: i + np.arange(op.output.size) for op, i in zip(computed, first[:-1], strict=True)}
        self.element = np.concatenate([self.source, *(op.output.ravel() for op in computed)])
        self.constraint = np.zeros(first[-1], int)  # the constraint 0 has the weight 1 always
        count = 1
        for operation, own in self.own.items():
            if operation.project is project_max:  # over axes: the package does not know it to be entry by entry
                continue
            entries = count + np.arange(own.size)
            count += own.size
            self.constraint[own] = entries
            for places in operation.places:
                per_entry = places.reshape(own.size, -1)
                self.constraint[per_entry] = entries[:, None]
        self.weights = np.ones(count)

    def metric_project_a(self, z: State) -> State:
        new = z.copy()
        for operation in self.operations:
            own = self.own.get(operation, np.zeros(0, int))
            copies = [z[places] for places in operation.places]
            moved, output = operation.project(copies, z[own].reshape(operation.output.shape))
            for places, array in zip(operation.places, moved, strict=True):
                new[places] = array
            new[own] = np.ravel(output)
        return new

    def metric_project_b(self, z: State) -> tuple[State, Copies]:
        """Also the value of each element."""
        root = np.sqrt(self.weights[self.constraint])
        incidence = np.zeros((z.size, len(self.values)))
        incidence[np.arange(z.size), self.element] = root
        normal = incidence.T @ incidence
        normal += np.diag(np.diag(normal) == 0)  # elements that have no copy
        value = np.linalg.solve(normal, incidence.T @ (root * z))
        fixed = sorted(self.fixed)
        value[fixed] = self.values[fixed]
        return value[self.element], value

    def reflections(self, z: State, relaxation: float) -> tuple[State, Copies]:
        """By how much the state is to move, and the values on which copies were to agree."""
        in_a = self.metric_project_a(z)
        in_b, value = self.metric_project_b(2 * in_a - z)
        return 2 * relaxation * (in_b - in_a), value

    def maps(self, z: State, beta: float) -> tuple[State, Copies]:
        """The same of the difference map."""
        f_a = (1 - 1 / beta) * self.metric_project_a(z) + z / beta
        f_b = (1 + 1 / beta) * self.metric_project_b(z)[0] - z / beta
        in_b, value = self.metric_project_b(f_a)
        return beta * (self.metric_project_a(f_b) - in_b), value

    def follow(self, change: State, gamma: float) -> None:
        """Move the weights towards the squared gaps, to which changes are in proportion."""
        squares, counts = (
            np.bincount(self.constraint, of_copies)[1:] for of_copies in (change**2, np.ones_like(change))
        )
        gaps = squares / counts
        self.weights[1:] += gamma * (gaps / gaps.mean() - self.weights[1:])


ALGORITHMS: dict[str, tuple[Any, Any]] = {
    "RRR": (functools.partial(pj.reflect_reflect_relax, BETA), lambda oracle, z: oracle.reflections(z, BETA / 2)),
    "DR": (functools.partial(pj.douglas_rachford, 0.3), lambda oracle, z: oracle.reflections(z, 0.3)),
    "AR": (pj.alternating_reflections, lambda oracle, z: oracle.reflections(z, 1.0)),
    "DM(1)": (pj.difference_map, lambda oracle, z: oracle.maps(z, 1.0)),
    "DM(-0.7)": (functools.partial(pj.difference_map, -0.7), lambda oracle, z: oracle.maps(z, -0.7)),
}
WITH_RRR = "threshold_functions", "skip_connection", "two_losses", "convolutions"
# Before the loss reaches an operation its gaps are rounding, which weights would follow: with DM(1), which begins with
# B, for several steps of networks with a loss.
OTHERS = (
    ("views", "DR"),
    ("weight_used_twice", "AR"),
    ("threshold_functions", "DM(1)"),
    ("two_losses", "DM(-0.7)"),
)


@pytest.mark.parametrize(("name", "algorithm"), [*itertools.product(WITH_RRR, ["RRR"]), *OTHERS])
@pytest.mark.usefixtures("float64")
def test_equals_weighted_least_squares_over_stored_copies(name: str, algorithm: str) -> None:
    network, steps = NETWORKS[name], 6
    factory, change_of = ALGORITHMS[algorithm]
    start, x, y = network.arrays(np.random.default_rng(1))
    oracle = WithMetric()
    elements = {key: oracle.parameter(values) for key, values in start.items()}
    network.function(oracle, elements, oracle.data(x), oracle.data(y))
    oracle.prepare()
    found = changes_by_step(network.problem(), factory(gamma=GAMMA, copies="dense"), steps, start, x, y)
    z = oracle.values[oracle.element]
    for step in range(1, steps + 1):
        change, value = change_of(oracle, z)
        oracle.follow(change, GAMMA)
        z = z + change
        for key, values in start.items():
            expected = value[elements[key]] - values
            allowed = 1e-9 * np.linalg.norm(expected) + 1e-14 * np.linalg.norm(values)
            assert np.linalg.norm(found[step][key] - expected) <= allowed, (step, key)
            assert step < steps or np.linalg.norm(expected) > 1e-8 * np.linalg.norm(values), key
    assert np.std(oracle.weights) > 0.1


def half_adder(params: Any, x: Any, y: Any) -> Any:
    """Two layers of threshold functions, with weights on spheres."""
    value = x
    for w in params:
        value = pj.threshold(jnp.concatenate([-jnp.ones((len(value), 1)), value], axis=1), w, margin=1.0)
    return [pj.within(value, pj.Box(y, y)), *(pj.within(w, pj.Sphere(len(w) ** 0.5, axis=0)) for w in params)]


BITS = np.float32([[-1, -1], [-1, 1], [1, -1], [1, 1]])
SUMS = np.float32([[-1, -1], [-1, 1], [-1, 1], [1, -1]])  # and, exclusive or
STARTS = [jax.random.uniform(jax.random.key(n), (16, *shape), minval=-1) for n, shape in enumerate([(3, 3), (4, 2)])]
PROBLEM = pj.feasibility(half_adder)


def solved(algorithm: Any) -> pj.Solution:
    """Of all starts side by side."""
    until = pj.gap_below(1e-2, every=50)
    run = functools.partial(pj.solve, PROBLEM, algorithm=algorithm, steps=1000, until=until, tolerance=np.inf)
    return jax.vmap(lambda params: run(params, BITS, SUMS))(STARTS)


def outputs(params: Any) -> np.ndarray:
    value = BITS
    for w in params:
        value = np.where(np.concatenate([-np.ones((4, 1)), value], axis=1) @ np.asarray(w) >= 0, 1, -1)
    return value


def test_solves_from_where_it_circles_without_a_metric() -> None:
    algorithm = functools.partial(pj.reflect_reflect_relax, 0.2, copies="dense")
    plain, found = solved(algorithm()), solved(algorithm(gamma=1e-3))
    assert np.sum(plain.info.solved) <= 8
    assert np.all(found.info.solved)
    for start in range(len(STARTS[0])):
        np.testing.assert_array_equal(outputs([w[start] for w in found.params]), SUMS)
    # Gamma may be traced, and mapped over.
    traced = jax.jit(lambda gamma: solved(algorithm(gamma=gamma)))(1e-3)
    np.testing.assert_array_equal(traced.info.steps, found.info.steps)
    mapped = jax.vmap(lambda gamma: solved(algorithm(gamma=gamma)).info.solved)(jnp.asarray([1e-3, 1e-2]))
    assert np.all(mapped)


def network(params: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(jax.nn.relu(x @ params["w0"]) @ params["w1"], y)


def recurrence(params: Any, x: Any, y: Any) -> Any:
    h = pj.recurrence(x, params["w_x"], params["w_h"], jnp.zeros(2), h0=jnp.zeros((1, 2)))
    return pj.margin_loss(h[:, -1], y)


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (network, {"copies": pj.Factored()}, 'matmul 1: its copies are to be factored, .* copies="dense" .48 bytes'),
        (network, {"budget": 47}, 'matmul 1: its copies are to be factored, .* copies="dense" .48 bytes'),
        (recurrence, {}, "is a recurrence, whose copies have no metric, .* take gamma=0"),
    ],
)
def test_says_what_cannot_have_a_metric(function: Any, settings: Any, message: str) -> None:
    if function is network:
        params, x = {"w0": np.ones((2, 3)), "w1": np.ones((3, 2))}, np.ones((1, 2))
    else:
        params, x = {"w_x": np.ones((3, 2)), "w_h": np.ones((2, 2))}, np.ones((1, 4, 3))
    algorithm = pj.reflect_reflect_relax(0.2, gamma=1e-3, **settings)
    with pytest.raises(ValueError, match=message):
        pj.solve(pj.feasibility(function), params, x, np.eye(2)[:1], algorithm=algorithm, steps=1)


@pytest.mark.parametrize(("gamma", "error"), [(1.0, ValueError), (-1e-3, ValueError), ("slow", TypeError)])
def test_gamma_is_a_number_below_1(gamma: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="gamma is"):
        pj.reflect_reflect_relax(0.2, gamma=gamma)


def test_without_a_metric_the_state_has_none() -> None:
    params = {"w0": np.ones((2, 3)), "w1": np.ones((3, 2))}
    problem = pj.feasibility(network)
    assert pj.reflect_reflect_relax(0.2, gamma=0) is pj.reflect_reflect_relax(0.2, gamma=0)
    states = [
        pj.reflect_reflect_relax(0.2, gamma=gamma, copies="dense").init(problem, params, np.ones((1, 2)), np.eye(2)[:1])
        for gamma in (0.0, 1e-3)
    ]
    assert [len(state.metric) for state in states] == [0, 3]
