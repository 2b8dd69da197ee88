"""Directions: a sweep as an update direction, in float32 what it is in float64, at any depth."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pjax_core as pj
import pjax_kernels as pk

from ..pjax_kernels.code_generation import AS_FOR_USERS

STRENGTHS = [0.01, 0.3, 5.0]

as_for_users = jax.jit(
    pj.direction, static_argnums=0, static_argnames=("algorithm", "steps"), compiler_options=AS_FOR_USERS
)


def network(params: dict[str, Any], x: Any) -> Any:
    depth = len(params) // 2
    for k in range(depth):
        x = jax.nn.relu(x @ params[f"w{k}"] + params[f"b{k}"])
    return x @ params[f"w{depth}"]


@functools.cache
def problem(strength: float, dot_products: Any = "each") -> pj.Problem:
    def constraint(params: Any, x: Any, y: Any) -> Any:
        return pj.cross_entropy(network(params, x), y, strength=strength)

    return pj.feasibility(constraint, dot_products=dot_products)


@functools.cache
def weighted() -> pj.Problem:
    """The same for any strength, which is an array: compiled once for all of them."""

    def constraint(params: Any, x: Any, y: Any, strengths: Any) -> Any:
        return pj.cross_entropy(network(params, x), y, strength=1.0, weights=strengths)

    return pj.feasibility(constraint)


def arguments(generator: np.random.Generator, sizes: tuple[int, ...], batch: int) -> tuple[dict[str, Any], Any, Any]:
    """In float32, He initialisation, with biases that are not zero."""
    params = {}
    for k, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        params[f"w{k}"] = np.float32(generator.normal(size=(before, after)) * np.sqrt(2 / before))
        if k < len(sizes) - 2:
            params[f"b{k}"] = np.float32(0.1 * generator.normal(size=after))
    x = np.float32(generator.normal(size=(batch, sizes[0])))
    return params, x, np.eye(sizes[-1], dtype=np.float32)[generator.integers(sizes[-1], size=batch)]


def as_dtype(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda array: jnp.asarray(array, dtype), tree)


def cosine(a: Any, b: Any) -> float:
    a, b = np.float64(a).ravel(), np.float64(b).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(
    ("algorithm", "steps"),
    [(pj.cyclic_projections(), 1), (pj.alternating_projections(), 4)],
)
def test_changes_survive_float32(algorithm: Any, steps: int, strength: float, generator: np.random.Generator) -> None:
    """Those of the first layer are 1e-12 of its values."""
    start = (*arguments(generator, (100, 48, 48, 10), 64), np.full(64, strength))
    with jax.enable_x64(True):
        rough = as_for_users(weighted(), *as_dtype(start, jnp.float32), algorithm=algorithm, steps=steps)
        exact = pj.direction(weighted(), *as_dtype(start, jnp.float64), algorithm=algorithm, steps=steps)
    for name, expected in exact.items():
        assert cosine(rough[name], expected) > 0.9999


@pytest.mark.parametrize(
    ("algorithm", "steps"),
    [(pj.cyclic_projections(), 2), (pj.alternating_projections(), 3), (pj.difference_map(), 6)],
)
def test_steps_are_those_of_the_algorithm(algorithm: Any, steps: int, generator: np.random.Generator) -> None:
    start = arguments(generator, (30, 16, 5), 32)
    with jax.enable_x64(True):
        exact = as_dtype(start, jnp.float64)
        moved = pj.solve(problem(5.0), *exact, algorithm=algorithm, steps=steps, tolerance=np.inf).change
        direction = pj.direction(problem(5.0), *exact, algorithm=algorithm, steps=steps)
    for name, change in moved.items():
        assert cosine(direction[name], -change) > 1 - 1e-9


def swept(params: dict[str, Any], x: Any, y: Any, strength: float) -> dict[str, Any]:
    """Minus the changes of one sweep of projections by the kernels, each sample asked as much as it loses more.

    Of what the output constraint asks, all but it are projected with a part so small that they are linear in it.
    """
    depth, change, values, sums = len(params) // 2, {}, [x], []
    for k in range(depth):
        sums.append(values[-1] @ params[f"w{k}"])
        values.append(jnp.maximum(sums[-1] + params[f"b{k}"], 0))
    logits = values[-1] @ params[f"w{depth}"]
    asked = 1e-12 * pk.prox_cross_entropy(logits, y, strength=strength, increments=True)
    for k in reversed(range(depth + 1)):
        h, w = values[k], params[f"w{k}"]
        losses = 1 + jnp.sum(h**2, axis=1, keepdims=True) + jnp.mean(jnp.sum(w**2, axis=0))
        asked = asked * losses / jnp.mean(losses)
        h_change, change[f"w{k}"], _ = pk.project_dense(h, w, h @ w + asked, residual=asked, increments=True)
        if k:
            inputs = (sums[k - 1], params[f"b{k - 1}"])
            (asked, change[f"b{k - 1}"]), _ = pk.project_sum_relu(
                inputs, h + h_change, residual=h_change, increments=True
            )
    return {name: -array for name, array in change.items()}


@pytest.mark.parametrize("strength", [0.01, 5.0])
def test_a_direction_is_minus_the_sweep_for_each_parameter(strength: float, generator: np.random.Generator) -> None:
    params, x, y = arguments(generator, (30, 16, 16, 5), 32)
    with jax.enable_x64(True):
        expected = swept(*as_dtype((params, x, y), jnp.float64), strength)
    direction = pj.direction(weighted(), params, x, y, np.full(32, np.float32(strength)))
    for name, change in expected.items():
        assert cosine(direction[name], change) > 1 - 1e-9


def test_of_samples_alike_it_is_a_step_of_cyclic_projections(generator: np.random.Generator) -> None:
    """Also in length: then no sample is asked more than another. Labels differ, and ask little."""
    params, x, y = arguments(generator, (30, 16, 16, 5), 32)
    start = (params, np.broadcast_to(x[:1], x.shape), y, np.full(32, np.float32(1e-7)))
    with jax.enable_x64(True):
        exact = as_dtype(start, jnp.float64)
        sweep = pj.solve(weighted(), *exact, algorithm=pj.cyclic_projections(), steps=1, tolerance=np.inf).change
        given = pj.direction(weighted(), *exact, algorithm=pj.cyclic_projections())
    direction = pj.direction(weighted(), *start)
    for name, change in sweep.items():
        assert cosine(direction[name], -change) > 1 - 1e-9
        np.testing.assert_allclose(direction[name], given[name], rtol=1e-3, atol=1e-5 * np.abs(given[name]).max())


def recurrent(params: dict[str, Any], x: Any) -> Any:
    """With states that grow, as those of rectified units do."""

    def step(h: Any, rows: Any) -> tuple[Any, None]:
        return jax.nn.relu(rows @ params["w0"] + h @ params["u"]), None

    return jax.lax.scan(step, jnp.zeros((x.shape[1], 16)), x)[0] @ params["w1"]


@pytest.mark.parametrize("apply", [network, recurrent])
def test_a_strong_pull_gives_the_direction_of_a_weak_one(apply: Any, generator: np.random.Generator) -> None:
    """As gradients of a multiple of a loss are multiples: no rectifier is passed by however much is asked."""
    params, x, _ = arguments(generator, (6, 16, 16, 3) if apply is network else (6, 16, 3), 32)
    if apply is recurrent:
        u = np.float32(generator.normal(size=(16, 16)) * 0.3)
        params, x = {"w0": params["w0"], "u": u, "w1": params["w1"]}, np.broadcast_to(x, (20, *x.shape))
    target = np.float32(generator.normal(size=(32, 3)))

    def direction(strength: float) -> Any:
        def constraint(params: Any, x: Any, target: Any) -> Any:
            return pj.squared_error(apply(params, x), target, strength=strength)

        return pj.direction(pj.feasibility(constraint), params, x, target)

    weak, strong = direction(1e-4), direction(100.0)
    for name in params:
        assert cosine(weak[name], strong[name]) > 1 - 1e-6


def test_all_samples_count_at_depth(generator: np.random.Generator) -> None:
    """Of what a sample is asked, a layer hands on ever less where its values are large."""
    params, x, y = arguments(generator, (20, *(16,) * 17, 5), 64)
    x = x * np.float32(10) ** np.linspace(-0.5, 0.5, 64, dtype=np.float32)[:, None]

    def loss(params: Any) -> Any:
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(network(params, x)), -1))

    direction, gradient = pj.direction(problem(0.01), params, x, y), jax.jit(jax.grad(loss))(as_dtype(params, float))
    for name in params:
        assert cosine(direction[name], gradient[name]) > 0.7


@pytest.mark.parametrize(
    ("rule", "layers", "strength"),
    [("each", 5, 1e-25), ("layer", 4, 1e-25), (pj.Layer("apart"), 4, 1e-25), (pj.Layer("coupled"), 5, 1e-27)],
    ids=["each", "layer", "apart", "coupled"],
)
def test_depth_is_no_limit(rule: Any, layers: int, strength: float, generator: np.random.Generator) -> None:
    """True changes are below the smallest float32: some layers below an output that is asked little."""
    start = arguments(generator, (20, *(16,) * layers, 5), 16)
    with jax.enable_x64(True):
        exact = pj.direction(problem(strength, rule), *as_dtype(start, jnp.float64))
    rough = pj.direction(problem(strength, rule), *start)
    for name, expected in exact.items():
        assert rough[name].dtype == jnp.float32
        assert cosine(rough[name], expected) > 0.99


@pytest.mark.parametrize("residual", [False, True])
def test_programs_grow_as_depth_does(residual: bool, generator: np.random.Generator) -> None:
    """Compiled, what a layer does is there once, however many are above it."""

    def constraint(params: Any, x: Any, y: Any) -> Any:
        for k in range(len(params) // 2):
            new = jax.nn.relu(x @ params[f"w{k}"] + params[f"b{k}"])
            x = x + new if residual and k else new
        return pj.cross_entropy(x @ params[f"w{len(params) // 2}"], y, strength=0.05)

    def instructions(depth: int) -> int:
        start = arguments(generator, (4, *(4,) * depth, 3), 8)
        compiled = jax.jit(functools.partial(pj.direction, problem)).lower(*start).compile()
        return (compiled.as_text() or "").count(" = ")

    problem = pj.feasibility(constraint, dot_products="layer")
    few, more, many = map(instructions, (3, 5, 9))
    assert many - more < 2.1 * (more - few)


@pytest.mark.parametrize("rule", ["each", "layer", pj.Layer("coupled")])
def test_half_precision_has_changes_in_float32(rule: Any, generator: np.random.Generator) -> None:
    half = as_dtype(arguments(generator, (100, 48, 10), 64), jnp.bfloat16)
    rough = pj.direction(problem(0.05, rule), *half)
    fine = pj.direction(problem(0.05, rule), *as_dtype(half, jnp.float32))
    for name, expected in fine.items():
        assert rough[name].dtype == jnp.float32
        assert cosine(rough[name], expected) > 0.999


def test_the_value_is_what_the_function_returns(generator: np.random.Generator) -> None:
    params, x, y = arguments(generator, (10, 8, 5), 12)

    def function(params: Any, x: Any, y: Any) -> list[Any]:
        out = network(params, x)
        error = pj.absolute_error(out, y)
        return [jnp.mean(jax.vmap(pj.cross_entropy)(out, y)), (0.3 * pj.squared_error(out, y) + error) / 2]

    value, _ = pj.value_and_direction(pj.feasibility(function), params, x, y)
    assert value.shape == ()
    assert float(value) == pytest.approx(sum(map(float, function(params, x, y))), rel=1e-5)


def test_the_value_is_that_of_the_loss(generator: np.random.Generator) -> None:
    params, x, y = arguments(generator, (10, 8, 5), 12)
    value, direction = pj.value_and_direction(problem(1.0), params, x, y)
    expected = -np.mean(np.sum(y * jax.nn.log_softmax(network(params, x)), axis=-1))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert jax.tree.structure(direction) == jax.tree.structure(params)


@pytest.mark.parametrize("rule", ["each", "layer", pj.Layer("coupled")])
def test_an_optimiser_that_takes_it_learns(rule: Any, generator: np.random.Generator) -> None:
    """Inside jit and scan, with donated arrays."""
    params, x, y = arguments(generator, (10, 32, 32, 5), 32)
    optimizer = optax.adam(1e-2)

    @functools.partial(jax.jit, donate_argnums=0)
    def train(carry: Any) -> Any:
        def update(carry: Any, _: None) -> Any:
            params, state = carry
            value, direction = pj.value_and_direction(problem(1.0, rule), params, x, y)
            changes, state = optimizer.update(direction, state)
            return (optax.apply_updates(params, changes), state), value

        return jax.lax.scan(update, carry, length=60)

    params = as_dtype(params, jnp.float32)
    _, values = train((params, optimizer.init(params)))
    assert values[-1] < 0.2 * values[0]


def test_wrong_arguments(generator: np.random.Generator) -> None:
    params, x, y = arguments(generator, (10, 8, 5), 12)
    with pytest.raises(ValueError, match="steps is 0; pass at least 1"):
        pj.direction(problem(1.0), params, x, y, steps=0)
    with pytest.raises(TypeError, match="algorithm is 'cp'; pass one"):
        pj.direction(problem(1.0), params, x, y, algorithm="cp")
    with pytest.raises(ValueError, match="dot_products is 'all'; pass"):
        pj.feasibility(network, dot_products="all")
    with pytest.raises(ValueError, match="Layer: rule is 'all'; pass one of"):
        pj.Layer("all")


def test_a_layer_that_stands_still_is_named(generator: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    start = arguments(generator, (100, 48, 48, 10), 64)
    with pytest.warns(RuntimeWarning, match=r"params\['w0'\].* moved by less than rounding"):
        solution = pj.solve(problem(0.01), *start, algorithm=pj.cyclic_projections(), steps=1)
    moved = solution.info.movement
    assert moved["w0"] < 1e-7 < moved["w2"]
    expected = np.linalg.norm(solution.change["w2"]) / np.linalg.norm(start[0]["w2"])
    assert float(moved["w2"]) == pytest.approx(expected, rel=1e-5)
    solution.info.describe()
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert len(rows) == len(start[0])
    assert f"moved by {float(moved['w2']):.1e} of its size" in rows["params['w2']"]


@pytest.mark.parametrize(
    ("dot_products", "activation"), [("each", jnp.tanh), (pj.Layer(b=1e-3), jax.nn.relu)], ids=["each", "layer"]
)
def test_a_sweep_goes_through_all_time_steps(
    dot_products: Any, activation: Any, generator: np.random.Generator
) -> None:
    """The first of twelve inputs alone differs from sample to sample, the last state alone read, little damped."""
    sizes = {"w": (5, 24), "u": (24, 24), "b": (24,), "v": (24, 3)}
    params = {name: np.float32(generator.normal(size=size) * size[0] ** -0.5) for name, size in sizes.items()}
    x = np.broadcast_to(np.float32(generator.normal(size=5)), (8, 12, 5)).copy()
    x[:, 0] = generator.normal(size=(8, 5))
    y = np.eye(3, dtype=np.float32)[generator.integers(3, size=8)]

    def logits(p: Any, x: Any) -> Any:
        def step(h: Any, entry: Any) -> Any:
            return activation(entry @ p["w"] + h @ p["u"] + p["b"]), None

        first = jnp.zeros((8, 24), x.dtype)
        return jax.lax.scan(step, first, jnp.moveaxis(x, 1, 0))[0] @ p["v"]

    def loss(p: Any, x: Any, y: Any) -> Any:
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits(p, x)), -1))

    recurrent = pj.feasibility(
        lambda p, x, y: pj.cross_entropy(logits(p, x), y, strength=0.3), dot_products=dot_products
    )
    with jax.enable_x64(True):
        rough = pj.direction(recurrent, params, x, y)
        arrays = as_dtype((params, x, y), jnp.float64)
        exact, gradient = pj.direction(recurrent, *arrays), jax.jit(jax.grad(loss))(*arrays)
    for name in params:
        assert cosine(rough[name], exact[name]) > 0.999
        assert cosine(exact[name], gradient[name]) > 0.5
    assert cosine(exact["b"], gradient["b"]) > 0.9


@pytest.mark.parametrize("kind", ["weights", "left out", "classes", "strength"])
def test_a_direction_is_a_mean_by_the_weights(kind: str, generator: np.random.Generator) -> None:
    """As the value is that is returned beside it: rows that are left out make no step shorter."""
    shapes = {"w0": (6, 10), "w1": (10, 3)}
    params = {name: np.float32(0.3 * generator.normal(size=shape)) for name, shape in shapes.items()}
    x, labels = np.float32(generator.normal(size=(64, 6))), np.int32(generator.integers(3, size=64))
    weights, strength = np.ones(64, np.float32), np.float32(1e-3)

    def along_gradient(x: Any, labels: Any, weights: Any, strength: Any, class_weights: Any = None) -> float:
        def loss(p: Any, *data: Any) -> Any:
            x, labels, weights, strength = data
            options = {"strength": strength, "weights": weights, "class_weights": class_weights}
            return pj.cross_entropy(jnp.tanh(x @ p["w0"]) @ p["w1"], labels, **options)

        data = x, labels, weights, strength
        found, gradient = pj.direction(pj.feasibility(loss), params, *data), jax.grad(loss)(params, *data)
        products = jax.tree.map(lambda d, g: jnp.vdot(d, g) / jnp.vdot(g, g), found, gradient)
        return float(products["w0"])

    changed = {
        "weights": (x, labels, 4 * weights, strength),
        "left out": (x, np.where(np.arange(64) % 4 == 0, labels, -1), weights, strength),
        "classes": (x, labels, weights, strength, (5.0, 5.0, 5.0)),
        "strength": (x, labels, weights, 10 * strength),
    }[kind]
    assert along_gradient(*changed) == pytest.approx(along_gradient(x, labels, weights, strength), rel=0.1)


@pytest.mark.parametrize("factor", [0.1, 1, 5])
def test_factors_of_losses_weigh_them_as_in_a_gradient(factor: float, generator: np.random.Generator) -> None:
    """In what both of them reach, and beside each other; their strengths do not."""
    shapes = {"w": (6, 10), "a": (10, 3), "b": (10, 3)}
    params = {name: np.float32(0.3 * generator.normal(size=shape)) for name, shape in shapes.items()}
    x, *y = np.float32(generator.normal(size=(64, 6))), *(np.float32(generator.normal(size=(64, 3))) for _ in "ab")

    def loss(p: Any, x: Any, ya: Any, yb: Any) -> Any:
        h = jnp.tanh(x @ p["w"])
        errors = (pj.squared_error(h @ p["a"], ya, strength=2e-3), pj.squared_error(h @ p["b"], yb, strength=1e-3))
        return factor * errors[0] + errors[1]

    found, gradient = pj.direction(pj.feasibility(loss), params, x, *y), jax.grad(loss)(params, x, *y)
    ratios = jax.tree.map(lambda d, g: float(jnp.vdot(d, g) / jnp.vdot(g, g)), found, gradient)
    assert ratios["a"] == pytest.approx(ratios["b"], rel=0.1)
    for name in params:
        cosine = jnp.vdot(found[name], gradient[name]) / (np.linalg.norm(found[name]) * np.linalg.norm(gradient[name]))
        assert cosine > 0.98


def tied(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"]) @ p["a"].T


def shared(p: Any, x: Any) -> Any:
    """One layer several times, and its bias elsewhere too."""
    for _ in range(4):
        x = x + jax.nn.relu(x @ p["c"] + p["b"])
    return x + p["b"]


def embedded(p: Any, x: Any) -> Any:
    """Rows for indices, and again for what is read of them."""
    tokens = jnp.argsort(jax.lax.stop_gradient(x), axis=1)[:, :3]
    return jnp.tanh(p["c"][tokens].mean(1) @ p["d"]) @ p["c"].T


def normalised(p: Any, x: Any) -> Any:
    """Weights over their norms, which depend on them too."""
    return jnp.tanh(x @ (p["b"] * p["c"] / jnp.linalg.norm(p["c"], axis=0))) @ p["d"]


def attention(p: Any, x: Any) -> Any:
    """With normalised rows, softmax, and a stream past both."""
    h = jnp.stack([x, x[:, ::-1], jnp.roll(x, 1, axis=1)], axis=1) @ p["c"]
    rows = jax.nn.standardize(h)
    weights = jax.nn.softmax(jnp.einsum("bsi,bti->bst", rows @ p["d"], rows), axis=-1)
    return (h + jnp.einsum("bst,bti->bsi", weights, rows @ p["e"])).mean(1)


def in_parts(p: Any, x: Any) -> Any:
    """Parts of one product, and all of it, read by different operations."""
    h = jnp.tanh(x @ p["c"])
    first, second = jnp.split(h, 2, axis=1)
    return jnp.concatenate([jnp.exp(first) * second, second], axis=1) @ p["d"] + h @ p["e"]


@pytest.mark.parametrize("apply", [tied, shared, embedded, normalised, attention, in_parts])
def test_what_is_read_in_several_places_is_asked_by_all(apply: Any, generator: np.random.Generator) -> None:
    """Each counts as it does in a gradient: by how much it asks, and of how many copies."""
    normal = generator.normal
    params = {"a": normal(size=(8, 5)) / 3, "b": 1 + 0.3 * normal(size=8)}
    params |= {name: normal(size=(8, 8)) / 3 for name in "cde"}
    x, y = normal(size=(32, 8)), generator.integers(8, size=32)
    used = jax.grad(lambda p: jnp.sum(jnp.sin(apply(p, x))))(params)
    params = {name: array for name, array in params.items() if np.any(used[name])}

    def loss(params: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    def constraint(params: Any, x: Any, y: Any) -> Any:
        return pj.cross_entropy(apply(params, x), y, strength=1e-3)

    with jax.enable_x64(True):
        gradient = jax.grad(loss)(params)
        direction = pj.direction(pj.feasibility(constraint), params, x, y)
    for name in params:
        assert cosine(direction[name], gradient[name]) > 0.9


def test_arrays_without_entries_ask_nothing(generator: np.random.Generator) -> None:
    """As parallel scans make some."""

    def constraint(p: Any, x: Any, y: Any) -> Any:
        def combined(left: Any, right: Any) -> Any:
            return left[0] * right[0], right[0] * left[1] + right[1]

        inputs = x @ p["w"]
        decays = jnp.broadcast_to(jax.nn.sigmoid(p["decay"]), inputs.shape)
        return pj.cross_entropy(jax.lax.associative_scan(combined, (decays, inputs), axis=1)[1][:, -1] @ p["out"], y)

    normal = generator.normal
    params = {"w": normal(size=(4, 6)), "decay": normal(size=6), "out": normal(size=(6, 3))}
    direction = pj.direction(pj.feasibility(constraint), params, normal(size=(8, 4, 4)), np.arange(8) % 3)
    assert all(np.isfinite(found).all() and np.any(found) for found in direction.values())


def two_layers(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["w"]) @ p["v"]


def of_own_prox(strength: float) -> Any:
    return pj.output(
        "own",
        loss=lambda h, t: jnp.mean((h - t) ** 2),
        prox=lambda h, t: (h + 2 * strength * t) / (1 + 2 * strength),
    )


def binary_cross_entropy(h: Any, t: Any) -> Any:
    return jnp.mean(jnp.logaddexp(0, h) - jnp.where(t > 0, h, 0))


OF_VALUES: dict[str, tuple[Any, Any]] = {
    "squared": (lambda h, t, s: pj.squared_error(h, t, strength=s), lambda h, t: jnp.mean((h - t) ** 2)),
    "absolute": (lambda h, t, s: pj.absolute_error(h, t, strength=s), lambda h, t: jnp.mean(jnp.abs(h - t))),
    "classes": (
        lambda h, t, s: pj.cross_entropy(h, jax.nn.softmax(t), strength=s),
        lambda h, t: optax.softmax_cross_entropy(h, jax.nn.softmax(t)).mean(),
    ),
    "binary": (
        lambda h, t, s: pj.cross_entropy(jnp.stack([jnp.zeros_like(h), h], -1), (t > 0).astype(int), strength=s),
        binary_cross_entropy,
    ),
    "margin": (
        lambda h, t, s: pj.margin_loss(h, (t > 0).astype(h.dtype)),
        lambda h, t: jnp.mean(jnp.sum(jnp.where(t > 0, jnp.maximum(1 - h, 0), jnp.maximum(h, 0)) ** 2, -1)),
    ),
    "within": (
        lambda h, t, s: pj.within(h, pj.Box(-0.1, 0.1)),
        lambda h, t: jnp.mean((h - jnp.clip(h, -0.1, 0.1)) ** 2),
    ),
    "own": (lambda h, t, s: of_own_prox(s)(h, t), lambda h, t: jnp.mean((h - t) ** 2)),
    "masked": (
        lambda h, t, s: pj.squared_error(h, t, strength=s, weights=(t[:, :1] > 0).astype(h.dtype)),
        lambda h, t: jnp.sum((h - t) ** 2 * (t[:, :1] > 0)) / (h.shape[1] * jnp.sum(t[:, 0] > 0)),
    ),
    "mapped": (
        lambda h, t, s: jnp.mean(jax.vmap(lambda h, t: pj.squared_error(h, t, strength=s))(h, t)),
        lambda h, t: jnp.mean((h - t) ** 2),
    ),
    "mapped, sum": (
        lambda h, t, s: jnp.sum(jax.vmap(lambda h, t: pj.squared_error(h, t, strength=s))(h, t)),
        lambda h, t: jnp.mean((h - t) ** 2) * len(h),
    ),
}
STRONG = {"squared", "margin", "within", "own", "masked", "mapped", "mapped, sum"}
"""Those whose pull is a multiple of the derivative, however strong."""


def of_two_layers(width: int) -> tuple[dict[str, Any], Any, Any]:
    generator = np.random.default_rng(5)
    p = {"w": generator.normal(size=(9, 8)) / 3, "v": generator.normal(size=(8, width)) / 3}
    x, t = generator.normal(size=(40, 9)), generator.normal(size=(40, width))
    return jax.tree.map(np.float32, (p, x, t))


@pytest.mark.parametrize("width", [2, 12])
@pytest.mark.parametrize("name", OF_VALUES)
def test_directions_are_as_large_as_the_gradient_of_what_the_function_returns(name: str, width: int) -> None:
    ours, loss = OF_VALUES[name]
    p, x, t = of_two_layers(width)
    gradient = jax.grad(lambda p: loss(two_layers(p, x), t))(p)
    for strength in (0.03, 3.0) if name in STRONG else (0.03,):
        factor = 1.0 if name == "own" else 0.5  # of that the strength is not known
        constraint = functools.partial(weighed_by, factor, ours, strength)
        found = pj.direction(pj.feasibility(constraint), p, x, t)
        for key in p:
            size = np.linalg.norm(found[key]) / (factor * np.linalg.norm(gradient[key]))
            assert 0.9 < size < 1.05, key


def weighed_by(factor: float, constraint: Any, strength: float, p: Any, x: Any, t: Any) -> Any:
    return factor * constraint(two_layers(p, x), t, strength)


def test_a_loss_is_one_number() -> None:
    p, x, t = of_two_layers(4)
    of_rows = pj.output("of rows", loss=lambda h, t: jnp.mean((h - t) ** 2, -1))
    with pytest.raises(ValueError, match=r"of rows: the loss has shape \(40,\); return one number"):
        pj.direction(pj.feasibility(lambda p, x, t: of_rows(two_layers(p, x), t)), p, x, t)


@pytest.mark.parametrize("by", [1.0, 0.1, 0.0])
def test_a_sum_of_output_constraints_is_weighed_as_its_value_is(by: float) -> None:
    """Whatever their widths and strengths, by numbers of Python, and by data."""
    p, x, t = of_two_layers(12)
    labels = np.argmax(t[:, :3], axis=1)

    def ours(p: Any, x: Any, by: Any) -> Any:
        h = two_layers(p, x)
        classes = pj.cross_entropy(h[:, :3], labels, strength=0.05)
        squared = jnp.sum(jax.vmap(lambda h, t: pj.squared_error(h, t, strength=0.7))(h, t)) * 3 / len(t)
        return squared + by * (by * (2 * classes)) / (2 * (by + 1e-9)) + 0 * pj.margin_loss(h, jnp.ones_like(h))

    def loss(p: Any) -> Any:
        h = two_layers(p, x)
        classes = optax.softmax_cross_entropy_with_integer_labels(h[:, :3], labels).mean()
        return 3 * jnp.mean((h - t) ** 2) + by * classes

    value, gradient = jax.value_and_grad(loss)(p)
    for problem, arguments in (
        (pj.feasibility(ours), (np.float32(by),)),
        (pj.feasibility(lambda p, x: ours(p, x, by)), ()),
    ):
        found_value, found = pj.value_and_direction(problem, p, x, *arguments)
        np.testing.assert_allclose(found_value, value, rtol=1e-6)
        for key in p:
            size = np.linalg.norm(gradient[key])
            assert np.linalg.norm(found[key] - gradient[key]) < 0.2 * size
            assert 0.95 < np.linalg.norm(found[key]) / size < 1.05


def test_algorithms_take_a_number_that_is_data_for_the_strength() -> None:
    p, x, t = of_two_layers(4)

    def ours(p: Any, x: Any, by: Any) -> Any:
        return by * pj.squared_error(two_layers(p, x), t, strength=2.0)

    for algorithm in (pj.alternating_projections(), pj.douglas_rachford(copies="dense")):
        found = pj.solve(pj.feasibility(ours), p, x, np.float32(0.25), algorithm=algorithm, steps=3)
        known = pj.solve(
            pj.feasibility(lambda p, x: pj.squared_error(two_layers(p, x), t, strength=0.5)),
            p, x, algorithm=algorithm, steps=3,
        )  # fmt: skip
        for one, other in zip(jax.tree.leaves(found.change), jax.tree.leaves(known.change), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-9)


OF_DERIVATIVES: dict[str, Any] = {
    "huber": lambda h, t: optax.huber_loss(h[:, :6], t[:, :6]).mean(),
    "quantile": lambda h, t: jnp.mean(jnp.maximum(0.9 * (t - h), -0.1 * (t - h))),
    "poisson": lambda h, t: jnp.mean(jnp.exp(h) - jnp.abs(t) * h),
    "normal": lambda h, t: jnp.mean(jnp.sum((t[:, :6] - h[:, :6]) ** 2 * jnp.exp(-h[:, 6:]) + h[:, 6:], -1)),
    "contrast": lambda h, t: optax.softmax_cross_entropy(h[:, :6] @ h[:, 6:].T, jnp.eye(len(h))).mean(),
}


@pytest.mark.parametrize("name", OF_DERIVATIVES)
def test_any_loss_of_a_prediction_is_an_output_constraint(name: str) -> None:
    """By its derivative, in a sum with others; algorithms lower it too."""
    loss = OF_DERIVATIVES[name]
    p, x, t = of_two_layers(12)

    def ours(p: Any, x: Any, t: Any) -> Any:
        h = two_layers(p, x)
        return pj.squared_error(h, t) + 0.3 * pj.output(name, loss=loss)(h, t)

    value, gradient = jax.value_and_grad(
        lambda p: jnp.mean((two_layers(p, x) - t) ** 2) + 0.3 * loss(two_layers(p, x), t)
    )(p)
    found_value, found = pj.value_and_direction(pj.feasibility(ours), p, x, t)
    np.testing.assert_allclose(found_value, value, rtol=1e-5)
    for key in p:
        assert np.linalg.norm(found[key] - gradient[key]) < 0.2 * np.linalg.norm(gradient[key])
    alone = pj.feasibility(lambda p, x, t: pj.output(name, loss=loss)(two_layers(p, x), t))
    solution = pj.solve(alone, p, x, t, algorithm=pj.alternating_projections(), steps=50)
    assert loss(two_layers(solution.params, x), t) < loss(two_layers(p, x), t)


@pytest.mark.parametrize("layer", ["layer", pj.Layer("apart"), pj.Layer("coupled")])
@pytest.mark.parametrize("equation", ["bi,oi->bo", "bi,oi->ob", "bti,oi->bto"])
def test_whole_layers_of_weights_stored_by_their_outputs(
    equation: str, layer: Any, generator: np.random.Generator, relative_error: Any
) -> None:
    """As Equinox stores them: the direction is that of the same weights the other way round."""
    w, v = (np.float32(0.4 * generator.normal(size=shape)) for shape in ((5, 6), (5, 5)))
    x = np.float32(generator.normal(size=(8, 3, 6) if "t" in equation else (24, 6)))
    y = np.float32(generator.normal(size=(24, 5)))

    def constraint(as_stored: bool) -> Any:
        def function(p: Any, x: Any, y: Any) -> Any:
            if not as_stored:
                return pj.squared_error(jnp.tanh(x.reshape(24, 6) @ p["w"]) @ p["v"], y)
            z = jnp.einsum(equation, x, p["w"])
            h = jnp.tanh(z.T if equation.endswith("ob") else z.reshape(24, 5))
            return pj.squared_error(h @ p["v"].T, y)

        return pj.feasibility(function, dot_products=layer)

    stored = pj.direction(constraint(True), {"w": w, "v": v}, x, y)
    other = pj.direction(constraint(False), {"w": w.T, "v": v.T}, x, y)
    for name, found in stored.items():
        assert relative_error(found.T, other[name]) < 1e-4, name


POOLS: dict[str, Any] = {
    "windows": lambda h: nn.max_pool(h, (2, 2), strides=(2, 2)),
    "windows that overlap": lambda h: nn.max_pool(h, (3, 3), strides=(2, 2)),
    "maxima": lambda h: h.max((1, 2)),
    "minima": lambda h: h.min((1, 2)),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("each", ["batch", "pixel"])
def test_maxima_of_what_is_normalised(pool: str, each: str) -> None:
    """Values that compilers round in other ways for each use: directions were 10^12 times too long."""
    axes = (0, 1, 2) if each == "batch" else (3,)

    def constraint(params: Any, x: Any, y: Any) -> Any:
        h = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = (h - h.mean(axes, keepdims=True)) / jnp.sqrt(h.var(axes, keepdims=True) + 1e-5)
        h = POOLS[pool](h)
        return pj.cross_entropy(h.reshape(len(h), -1) @ params["out"], y)

    generator = np.random.default_rng(0)
    x, w = generator.normal(size=(6, 6, 6, 1)), 0.3 * generator.normal(size=(3, 3, 1, 8))
    width = jax.eval_shape(POOLS[pool], jax.ShapeDtypeStruct((6, 6, 6, 8), jnp.float32)).size // 6
    params = {"w": np.float32(w), "out": np.float32(0.3 * generator.normal(size=(width, 3)))}
    arguments = params, np.float32(x), np.arange(6) % 3
    found, gradient = as_for_users(pj.feasibility(constraint), *arguments)["w"], jax.grad(constraint)(*arguments)["w"]
    lengths = jnp.linalg.norm(found), jnp.linalg.norm(gradient)
    assert jnp.vdot(found, gradient) > 0.9 * lengths[0] * lengths[1]
    assert 0.1 < lengths[0] / lengths[1] < 10
