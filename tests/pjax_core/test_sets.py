"""Values, parameters and free inputs in sets."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.graph.sets import within
from pjax_core.trace.jaxpr import trace

Array = np.ndarray
ALGORITHMS = {
    "AP": pj.alternating_projections(),
    "AP in turn": pj.alternating_projections(in_turn=True),
    "CP": pj.cyclic_projections(),
    "AR": pj.alternating_reflections(copies="dense"),
    "DR": pj.douglas_rachford(),
    "DR factored": pj.douglas_rachford(copies=pj.Factored(2)),
    "DM": pj.difference_map(0.7),
    "CDR": pj.cyclic_douglas_rachford(),
    "RRR": pj.reflect_reflect_relax(0.3),
}
REGIONS: dict[str, Any] = {
    "box": pj.Box(-0.25, 0.25),
    "not negative": pj.Box(0),
    "sphere": pj.Sphere(1.5, axis=0),
    "levels": pj.Levels([-1, 0, 1]),
    "sparse": pj.Sparse(2, axis=0),
    "one-hot": pj.OneHot(),
    "simplex": pj.Simplex(),
    "orthonormal": pj.Orthonormal(),
    "own": lambda w: jnp.round(2 * w) / 2,
}


def violation(region: Any, value: Array) -> float:
    return float(pj.within(jnp.asarray(value, jnp.float32), region))


def arrays(generator: np.random.Generator) -> tuple[dict[str, Array], Array, Array]:
    n = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    x = n(8, 5)
    return {"w0": n(5, 4), "b": n(4), "w1": n(4, 3)}, x, np.eye(3, dtype=np.float32)[np.argmax(x[:, :3], axis=1)]


@pytest.mark.parametrize(
    ("algorithm", "region"),
    dict.fromkeys(
        [
            *zip(ALGORITHMS, itertools.cycle(["levels", "sparse"]), strict=False),
            *zip(itertools.cycle(["AP", "RRR"]), REGIONS, strict=False),
        ]
    ),
)
def test_parameters_are_in_their_sets_after_each_step(
    algorithm: str, region: str, generator: np.random.Generator
) -> None:
    """Finite sets exactly, of either colour; the others move too."""
    params, x, y = arrays(generator)
    held = REGIONS[region]

    def network(p: Any, x: Any, y: Any) -> Any:
        logits = jax.nn.relu(x @ p["w0"] + p["b"]) @ p["w1"]
        return pj.margin_loss(logits, y), pj.within(p["w0"], held), pj.within(p["w1"], held)

    problem = pj.feasibility(network)
    graph = trace(network, params, (x, y))
    assert {parameter.name for parameter in graph.regions} == {"params['w0']", "params['w1']"}
    assert all(getattr(node, "primitive", None) is not within for node in graph.nodes)
    for found in after_each_step(problem, ALGORITHMS[algorithm], 5, params, x, y):
        for name in ("w0", "w1"):
            distance = violation(held, found[name])
            assert distance <= (0 if region in ("levels", "sparse", "not negative", "own") else 1e-12)
    assert np.abs(found["b"] - params["b"]).max() > 0


def after_each_step(problem: Any, algorithm: pj.Algorithm, steps: int, *arguments: Any) -> list[dict[str, Array]]:
    """The parameters, of one program: solve would be one for each number of steps."""

    @jax.jit
    def run(*arguments: Any) -> Any:
        def step(state: Any, _: None) -> tuple[Any, Any]:
            new = algorithm.step(problem, state)
            return new, algorithm.params(new)

        return jax.lax.scan(step, algorithm.init(problem, *arguments), length=steps)[1]

    found = jax.device_get(run(*arguments))
    return [{name: array[step] for name, array in found.items()} for step in range(steps)]


def test_the_step_is_the_projection_of_the_mean(generator: np.random.Generator) -> None:
    """Alternating projections, a parameter that two operations use: against the step without the set."""
    params, x, _ = arrays(generator)

    def free(w: Any, x: Any) -> Any:
        return pj.squared_error(x @ w, np.ones((8, 4))), pj.squared_error(x[:3] @ w, np.zeros((3, 4)))

    def held(w: Any, x: Any) -> Any:
        return free(w, x), pj.within(w, pj.Sphere(2.0, axis=0))

    start = np.asarray(pj.Sphere(2.0, axis=0).project(params["w0"]))
    mean, found = (
        pj.solve(pj.feasibility(f), start, x, algorithm=pj.alternating_projections(), steps=1).params
        for f in (free, held)
    )
    assert np.abs(np.linalg.norm(mean, axis=0) - 2).max() > 1e-3
    np.testing.assert_allclose(found, 2 * mean / np.linalg.norm(mean, axis=0), rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["AP", "CP", "DR", "DM"])
def test_values_are_led_into_their_sets(algorithm: str, generator: np.random.Generator) -> None:
    params, x, y = arrays(generator)
    region = pj.Levels((-1.0, 1.0))

    def hidden(p: Any, x: Any) -> Any:
        return x @ p["w0"] + p["b"]

    problem = pj.feasibility(lambda p, x: pj.within(hidden(p, x), region))
    before = violation(region, hidden(params, x))
    params.pop("w1")
    found = pj.solve(problem, params, x, algorithm=ALGORITHMS[algorithm], steps=100, tolerance=np.inf).params
    assert violation(region, np.asarray(hidden(found, x))) < 0.9 * before
    del y


def test_missing_data_are_found(generator: np.random.Generator) -> None:
    """Entries of a matrix of rank 1, in a box, from the others."""
    u, v = generator.uniform(0.5, 1, size=(10, 1)), generator.uniform(0.5, 1, size=(1, 6))
    x, known = (u @ v).astype(np.float32), generator.uniform(size=(10, 6)) < 0.8

    def network(p: Any, x: Any, known: Any) -> Any:
        full = jnp.where(known != 0, x, p["missing"])
        return pj.within(p["u"] @ p["v"] - full, pj.Box(0, 0)), pj.within(p["missing"], pj.Box(0.2, 1.0))

    start = {
        "u": np.ones((10, 1), np.float32),
        "v": np.ones((1, 6), np.float32),
        "missing": generator.uniform(size=(10, 6)).astype(np.float32),
    }
    given = np.where(known, x, 0)
    solution = pj.solve(
        pj.feasibility(network), start, given, known.astype(np.int32), algorithm=pj.douglas_rachford(), steps=3000
    )
    missing = np.asarray(solution.params["missing"])
    assert missing[~known].min() >= 0.2
    assert np.abs(missing - x)[~known].max() < 0.02


WORDS = np.array([[1, 1, -1], [1, -1, -1], [-1, 1, 1], [-1, -1, 1]], np.float32)


@pytest.mark.parametrize(("kind", "width"), [("bits", 2), ("one-hot", 4), ("box", 2)])
def test_free_inputs_are_found(kind: str, width: int, generator: np.random.Generator) -> None:
    """Words by threshold functions of codes, both unknown: those that are found are in their set, and generate them."""
    region = {"bits": pj.Levels((-1, 1)), "one-hot": pj.OneHot(-1), "box": pj.Box(-1, 1)}[kind]

    def with_constant(codes: Any) -> Any:
        return jnp.concatenate([-jnp.ones((len(codes), 1)), codes], axis=1)

    def network(p: Any) -> Any:
        value = pj.threshold(with_constant(p["codes"]), p["w"], margin=((1 + width) / 2) ** 0.5)
        on_sphere = pj.within(p["w"], pj.Sphere((1 + width) ** 0.5, axis=0))
        return pj.within(value, pj.Box(WORDS, WORDS)), on_sphere, pj.within(p["codes"], region)

    starts = {
        name: generator.uniform(-1, 1, size=(16, *shape)).astype(np.float32)
        for name, shape in (("codes", (4, width)), ("w", (1 + width, 3)))
    }
    algorithm = pj.reflect_reflect_relax(0.2, gamma=1e-2, copies="dense")
    until = pj.gap_below(1e-2, every=50, any_of="starts")
    solutions = pj.restarts(pj.feasibility(network), starts, algorithm=algorithm, steps=2000, until=until, every=2000)
    assert np.any(solutions.info.solved)
    best = pj.best(solutions).params
    assert violation(region, best["codes"]) == 0
    np.testing.assert_array_equal(np.where(with_constant(best["codes"]) @ best["w"] >= 0, 1, -1), WORDS)


def test_a_set_of_a_part_or_alone_is_an_output_constraint(generator: np.random.Generator) -> None:
    w, x = generator.normal(size=(5, 3)).astype(np.float32), generator.normal(size=(4, 5)).astype(np.float32)
    for function in (
        lambda w, x: (pj.margin_loss(x @ w, np.eye(4, 3)), pj.within(w[1:], pj.Sphere())),
        lambda w, x: pj.within(w, pj.Sphere()),
        lambda w, x: (pj.margin_loss(x @ w, np.eye(4, 3)), pj.within(w, pj.Box(x[0, 0]))),
    ):
        graph = trace(function, w, (x,))
        assert not graph.regions
        assert any(getattr(node, "primitive", None) is within for node in graph.nodes)


def test_what_is_no_set() -> None:
    with pytest.raises(TypeError, match=r"the set is of type int; pass one, such as pj\.Box"):
        pj.within(np.ones(3), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"returned an array of shape \(\) for a value of shape \(3,\)"):
        pj.within(np.ones(3), jnp.sum)
    with pytest.raises(ValueError, match="project_sphere: norm is -1"):
        pj.within(np.ones(3), pj.Sphere(-1))
