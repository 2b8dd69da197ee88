"""Functions of one value that several operations compute, such as softmax and normalisations: one constraint each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import pjax_core as pj
import pjax_kernels as pk
from pjax_core.graph.nodes import Operation
from pjax_core.operations.rows import Rows, rows_of
from pjax_core.operations.smooth import smooth_function

Function = Callable[..., Any]


def normalised(x: Any, axis: int = -1) -> Any:
    centred = x - jnp.mean(x, axis, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis, keepdims=True) + 1e-5)


def written_softmax(x: Any) -> Any:
    powers = jnp.exp(x - jnp.max(x, -1, keepdims=True))
    return powers / jnp.sum(powers, -1, keepdims=True)


def of_edges(x: Any) -> Any:
    """Softmax over the rows that have one number: those of the edges that end in one node."""
    number, powers = np.arange(len(x)) // 2, jnp.exp(x - jnp.max(x, 0))
    return powers / jax.ops.segment_sum(powers, number, len(x))[number]


FUNCTIONS: dict[str, Function] = {
    "softmax": jax.nn.softmax,
    "written": written_softmax,
    "log softmax": jax.nn.log_softmax,
    "layer": normalised,
    "batch": lambda x: normalised(x, 0),
    "standardize": jax.nn.standardize,
    "unit rows": lambda x: x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)),
    "edges": of_edges,
    "mean square": lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6),
}


def operations(function: Function, *arguments: Any) -> list[str]:
    """The names of the constraints, but for products and that of the output."""
    graph = pj.feasibility(function).graph(arguments[0], arguments[1:])
    names = [node.name for node in graph.nodes if isinstance(node, Operation)]
    return [name for name in names if name not in ("matmul", "squared_error") and "identity" not in name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_one_constraint(name: str) -> None:
    function = FUNCTIONS[name]
    (block,) = operations(lambda w, x, y: pj.squared_error(function(x @ w), y), *np.ones((3, 4, 4), np.float32))
    assert block.startswith("block (")


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h - jnp.mean(h, 1, keepdims=True),
        lambda h: h + jnp.max(h, 1, keepdims=True),
        lambda h: h + jnp.tanh(h[:, ::-1]),
        lambda h: jax.nn.relu(h) + h,
    ],
)
def test_what_has_projections_of_its_own_keeps_them(function: Function) -> None:
    names = operations(lambda w, x, y: pj.squared_error(function(x @ w), y), *np.ones((3, 4, 4), np.float32))
    assert names
    assert not any(name.startswith("block (") for name in names)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(),
        nn.RMSNorm(),
        nn.LayerNorm(use_fast_variance=False),
        nn.GroupNorm(2),
        nn.GroupNorm(2, use_fast_variance=False),
        nn.InstanceNorm(),
    ],
)
def test_normalisations_of_flax(layer: Any) -> None:
    """The scale stands between root and quotient there, and is an operation of its own all the same."""
    x = np.ones((2, 3, 4), np.float32)
    params = layer.init(jax.random.key(0), x), np.eye(4, dtype=np.float32)
    names = operations(lambda p, x, y: pj.squared_error(layer.apply(p[0], x @ p[1]), y), params, x, x)
    assert [name for name in names if name.startswith("block (")] == names[:1]
    assert names[1:] in (["multiply"], ["multiply", "sum"])


def test_a_normalisation_of_equinox() -> None:
    x = np.ones((3, 4), np.float32)
    params = eqx.nn.LayerNorm(4), np.eye(4, dtype=np.float32)
    names = operations(lambda p, x, y: pj.squared_error(jax.vmap(p[0])(x @ p[1]), y), params, x, x)
    assert [name.split(" ")[0] for name in names] == ["block", "multiply", "sum"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_projection_is_one(name: str, generator: np.random.Generator) -> None:
    """At the distances that training meets; "check_projection" looks for nearer points."""
    x = generator.normal(size=(2, 4)) + (np.array([[2.0], [-1.0]]) if name == "batch" else 0)
    target = np.asarray(FUNCTIONS[name](x)) + 0.3 * generator.normal(size=x.shape)
    pj.check_projection(FUNCTIONS[name], [x], target, samples=50)


def test_a_normalisation_as_its_kernel_finds_it(generator: np.random.Generator) -> None:
    """The kernel seeks one length for each row, from many starts; linearisation may end elsewhere for far targets."""
    x = 3 * generator.normal(size=(500, 8))
    with jax.enable_x64(True):
        for distance, beyond in ((0.3, 1e-9), (1.0, 1e-6), (3.0, 0.1)):
            z = np.asarray(normalised(x)) + distance * generator.normal(size=x.shape)
            (change,), z_change = smooth_function("normalised", normalised).project(
                (jnp.asarray(x),), jnp.asarray(z), None
            )
            nearest = pk.project_normalize(x, z, increments=True)
            squared, least = (np.sum(np.square(a) + np.square(b), -1) for a, b in ((change, z_change), nearest))
            assert np.quantile(squared / least, 0.99) < 1 + beyond
            np.testing.assert_allclose(normalised(x + change), z + z_change, atol=1e-12)
            assert np.all(squared <= np.sum((normalised(x) - z) ** 2, -1) * (1 + 1e-12))  # never farther than (x, f(x))


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e-5])
def test_small_residuals_are_to_first_order(size: float, generator: np.random.Generator) -> None:
    """In float32, of changes that are far below the rounding of values; against a dense solve in float64."""
    x, residual = generator.normal(size=(2, 5)), generator.normal(size=(2, 5))
    with jax.enable_x64(True):
        expected = []
        for row, asked in zip(x, residual, strict=True):
            jacobian = np.asarray(jax.jacobian(jax.nn.softmax)(row))
            expected.append(jacobian.T @ np.linalg.solve(np.eye(5) + jacobian @ jacobian.T, asked))
    arrays = [jnp.asarray(array, jnp.float32) for array in (x, jax.nn.softmax(x), size * residual)]
    (change,), _ = jax.jit(smooth_function("softmax", jax.nn.softmax).project)((arrays[0],), *arrays[1:])
    np.testing.assert_allclose(change / size, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("residual", [None, 1e-8, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_stays_one(residual: float | None, bad: float, generator: np.random.Generator) -> None:
    x = generator.normal(size=(3, 4)).astype(np.float32)
    z = np.asarray(jax.nn.softmax(x)) + 0.5 * generator.normal(size=x.shape).astype(np.float32)
    project = smooth_function("softmax", jax.nn.softmax).project
    known = None if residual is None else jnp.asarray(residual * generator.normal(size=x.shape), jnp.float32)
    good = project((jnp.asarray(x),), jnp.asarray(z), known)
    x[1, 2] = bad
    (change,), z_change = project((jnp.asarray(x),), jnp.asarray(z), known)
    for found, expected in ((change, good[0][0]), (z_change, good[1])):
        np.testing.assert_allclose(found[::2], expected[::2], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "rows"),
    [
        (jax.nn.softmax, Rows((0, 1), (0, 1))),
        (lambda x: normalised(x, 0), Rows((1, 2), (1, 2))),
        (lambda x: jax.nn.logsumexp(x, 1), Rows((0, 2), (0, 1))),
        (lambda x: x.reshape(5, 42), Rows((0,), (0,))),
        (lambda x: x - x[::-1], Rows((), ())),
        (lambda x: jnp.cumsum(x, 0), Rows((), ())),
        (lambda x: x.transpose(0, 2, 1) / x.sum(1)[..., None], Rows((0, 2), (0, 1))),
        (jax.jit(lambda x: x @ jnp.ones((6, 6))), Rows((), ())),
        (lambda x: jax.ops.segment_sum(x, np.array([0, 0, 1, 2, 4]), 5), Rows((), ())),
        (lambda x: x.at[np.array([0, 3])].multiply(x[:2]), Rows((), ())),
        (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (3, 1, 1), (1, 1, 1), "SAME"), Rows((), ())),
        (lambda x: jax.lax.cumlogsumexp(x, 1), Rows((), ())),
        (lambda x: jax.lax.pad(x, 0.0, ((1, -1, 0), (0, 0, 0), (0, 0, 0))), Rows((), ())),
    ],
)
def test_rows(function: Function, rows: Rows) -> None:
    """What is the same row in x and z: never more than there are, as not-a-number shows; all where it matters."""
    x = jnp.ones((5, 7, 6))
    assert rows_of(function, x) == rows
    for axis, place in zip(rows.of_x, rows.of_z, strict=True):
        spoiled = np.isnan(function(x.at[(slice(None),) * axis + (1,)].set(jnp.nan)))
        assert not np.delete(spoiled, 1, place).any()


def attention(p: Any, x: Any, y: Any) -> Any:
    h = normalised(x @ p["in"])
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", h @ p["q"], h @ p["k"]) / 8**0.5)
    h = h + jnp.einsum("bts,bsd->btd", weights, h @ p["v"]) @ p["o"]
    return pj.squared_error(normalised(h) @ p["out"], y, strength=0.01)


def attention_arrays(dtype: Any = np.float32) -> tuple[dict[str, Array], Array, Array]:
    keys = jax.random.split(jax.random.key(0), 8)
    params = {
        name: jax.random.normal(key, (8, 8)) / 8**0.5 for name, key in zip(("in", *"qkvo", "out"), keys, strict=False)
    }
    x, y = (jax.random.normal(key, (3, 5, 8)) for key in keys[6:])
    return jax.tree.map(lambda a: a.astype(dtype), params), x.astype(dtype), y.astype(dtype)


def test_directions_come_through_attention_and_normalisations() -> None:
    """Where ways meet, each counts alike: the direction is much of a gradient's for the first layer too.

    Taken apart, and with ways weighed by what they lose, the cosines of hidden weights were 0.44 to 0.74.
    """
    params, x, y = attention_arrays()
    found = pj.direction(pj.feasibility(attention), params, x, y)
    gradient = jax.jit(jax.grad(attention))(params, x, y)
    for name in params:
        a, b = np.ravel(found[name]), np.ravel(gradient[name])
        assert a @ b > 0.7 * np.linalg.norm(a) * np.linalg.norm(b), name


@pytest.mark.parametrize(
    "algorithm",
    [pj.alternating_projections(), pj.douglas_rachford(copies="dense")],
)
def test_algorithms_learn_with_blocks(algorithm: pj.Algorithm) -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(normalised(jax.nn.softmax(x @ p["in"]) @ p["v"]) @ p["out"], y, strength=1.0)

    params, x, y = attention_arrays()
    params, x, y = {name: params[name] for name in ("in", "v", "out")}, x[0], y[0]
    solution = pj.solve(pj.feasibility(loss), params, x, y, algorithm=algorithm, steps=200, tolerance=np.inf)
    assert loss(solution.params, x, y) < 0.7 * loss(params, x, y)


def test_half_precision_and_vmap() -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(normalised(jax.nn.softmax(x @ p["in"])) @ p["out"], y, strength=0.01)

    problem = pj.feasibility(loss)

    def arrays(dtype: Any = np.float32) -> Any:
        params, x, y = attention_arrays(dtype)
        return {name: params[name] for name in ("in", "out")}, x[0], y[0]

    found, full = pj.direction(problem, *arrays(jnp.bfloat16)), pj.direction(problem, *arrays())
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), arrays()[0])
    stacked = jax.vmap(lambda p: pj.direction(problem, p, *arrays()[1:]))(several)
    for name, expected in full.items():
        size = np.linalg.norm(expected)
        np.testing.assert_allclose(stacked[name][0], expected, atol=1e-4 * size)
        assert np.linalg.norm(found[name].astype(np.float32) - expected) < 0.05 * size


def test_a_mask_inside_stays_one() -> None:
    """As of causal attention: shares of a residual are weighed by values, and choices are none."""

    def function(w: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(jax.nn.softmax(jnp.where(np.tri(4, dtype=bool), x @ w, -1e9)), y)

    w, x, y = np.ones((3, 4, 4), np.float32)
    assert jax.eval_shape(lambda w: pj.direction(pj.feasibility(function), w, x, y), w).shape == w.shape


def forward_algorithm(w: Any, x: Any) -> Any:
    """Of a hidden Markov model: a sum follows what several operations compute together, which ends in one."""
    h = jnp.tanh(x @ w)
    start = h[:, 0]
    scores, _ = jax.lax.scan(lambda s, e: (jax.nn.logsumexp(s[..., None] + w, 1) + e, None), start, h.swapaxes(0, 1))
    return scores


SUMS_OF_SUMS: dict[str, Function] = {
    "after log sum exp": lambda w, x: jax.nn.logsumexp(jnp.tanh(x @ w)[..., None] + w, 2) + x,
    "a number after log sum exp": lambda w, x: jax.nn.logsumexp(jnp.tanh(x @ w)[..., None] + w, 2) + 1.0,
    "in a scan": forward_algorithm,
    "rectified, of a difference": lambda w, x: jax.nn.relu((jnp.tanh(x @ w) - jnp.sin(x @ w.T)) + jnp.cos(x @ w)),
    "rectified, of differences": lambda w, x: jax.nn.relu(
        jnp.cos(x @ w) + (jnp.tanh(x @ w) - (jnp.sin(x @ w.T) - jnp.cos(x @ w)))
    ),
}


@pytest.mark.parametrize("name", SUMS_OF_SUMS)
def test_sums_with_the_terms_of_other_sums(name: str, generator: np.random.Generator) -> None:
    """Of what these have become: a function that ends in a sum is none, and a difference has its signs."""

    def function(w: Any, x: Any, y: Any) -> Any:
        return pj.squared_error(SUMS_OF_SUMS[name](w, x), y)

    w, x, y = (np.float32(0.5 * generator.normal(size=shape)) for shape in ((5, 5), (8, 3, 5), (8, 3, 5)))
    y = y[:, 0] if name == "in a scan" else y
    value, direction = pj.value_and_direction(pj.feasibility(function), w, x, y)
    gradient = jax.grad(function)(w, x, y)
    np.testing.assert_allclose(value, function(w, x, y), rtol=1e-5)
    assert jnp.vdot(direction, gradient) > 0.85 * jnp.linalg.norm(direction) * jnp.linalg.norm(gradient)


def test_directions_come_through_attention_along_edges(generator: np.random.Generator) -> None:
    """Softmax by hand over the edges that end in a node: taken apart, one direction had the wrong sign."""
    source, target = generator.integers(40, size=(2, 160))

    def function(p: Any, x: Any, labels: Any) -> Any:
        h = x @ p["in"]
        powers = jnp.exp(jax.nn.leaky_relu((h @ p["from"])[source] + (h @ p["to"])[target]))
        weights = powers / jax.ops.segment_sum(powers, target, 40)[target]
        mixed = jax.ops.segment_sum(weights[:, None] * h[source], target, 40)
        return pj.cross_entropy(jax.nn.elu(mixed) @ p["out"], labels)

    shapes = {"in": (12, 16), "from": (16,), "to": (16,), "out": (16, 4)}
    params = {name: np.float32(generator.normal(size=s) * s[0] ** -0.5) for name, s in shapes.items()}
    arguments = params, np.float32(generator.normal(size=(40, 12))), generator.integers(4, size=40)
    found, gradients = pj.direction(pj.feasibility(function), *arguments), jax.grad(function)(*arguments)
    for name, gradient in gradients.items():
        cosine = jnp.vdot(found[name], gradient) / jnp.linalg.norm(found[name]) / jnp.linalg.norm(gradient)
        assert cosine > 0.9, (name, cosine)
