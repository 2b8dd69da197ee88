"""Projections of any bilinear map: against explicit copies that the second derivative of the map names."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import pjax_kernels as pk

from . import oracles
from .test_dense import precisions

Array = np.ndarray
Generator = np.random.Generator
Copies = list[tuple[Array, Array]]

ROWS = np.array([3, 0, 3])
"""Row 3 is used twice, rows 1 and 2 never."""


def convolution(x: Any, w: Any) -> Any:
    """Strided, padded on one side only, with gaps in the windows."""
    return lax.conv_general_dilated(
        x, w, (2, 1), ((1, 0), (0, 2)), rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def recurrence(x: Any, w: Any) -> Any:
    inputs, hidden = x
    return inputs @ w["inputs"] + hidden @ w["hidden"]


MAPS: dict[str, tuple[Callable[[Any, Any], Any], Any, Any]] = {
    "attention": (partial(jnp.einsum, "bqhd,bkhd->bhqk"), (2, 2, 2, 3), (2, 3, 2, 3)),
    "outer product": (jnp.outer, (4,), (3,)),
    "rows by index": (lambda x, w: jnp.einsum("rn,nm->rm", x[ROWS], w), (4, 3), (3, 2)),
    "convolution": (convolution, (1, 4, 3, 2), (3, 2, 2, 2)),
    "recurrence": (recurrence, ((2, 3, 2), (2, 3, 4)), {"inputs": (2, 3), "hidden": (4, 3)}),
}
"""The map, and the shapes of its operands."""

RESIDUALS = {"near": [0.01, 0.05], "mixed": [0.01, 0.2, 0.5, 10.0]}
"""``|z - F(x, w)|`` over 1 + |x|^2 + |w|^2, in turn for the outputs."""


class Problem(NamedTuple):
    x: Any
    w: Any
    z: Array


class Factored(NamedTuple):
    x: tuple[Any, Any]
    w: tuple[Any]
    u: pk.Combination
    v: pk.Combination
    z: Array


@partial(jax.jit, static_argnums=0, static_argnames=("increments", "implementation"))
def project(name: str, problem: Problem, *, increments: bool = True, implementation: str | None = None) -> Any:
    return pk.project_bilinear_map(MAPS[name][0], *problem, increments=increments, implementation=implementation)


@partial(jax.jit, static_argnums=0, static_argnames="implementation")
def project_factored(name: str, problem: Factored, *, implementation: str | None = None) -> pk.FactoredChanges:
    """A number must not be an argument of jit."""
    problem = problem._replace(u=pk.Combination((1.0, problem.u.x[1]), problem.u.w))
    return pk.project_bilinear_map_factored(MAPS[name][0], *problem, implementation=implementation)


def drawn(rng: Generator, shapes: Any) -> Any:
    return jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=is_shape)


def is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(length, int) for length in node)


def flat(tree: Any) -> Array:
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


@cache
def copies_of(name: str) -> Copies:
    """For each output, the places of its entries among all those of ``x`` and of ``w``."""
    bilinear, *shapes = MAPS[name]
    (x, to_x), (w, to_w) = (ravel_pytree(drawn(np.random.default_rng(0), shape)) for shape in shapes)
    by_x = jax.jacrev(lambda x, w: jnp.ravel(bilinear(to_x(x), to_w(w))), 0)
    table = np.asarray(jax.jit(jax.jacfwd(by_x, 1))(x, w))
    assert set(np.unique(table)) == {0, 1}
    return [np.nonzero(of_output) for of_output in table]  # type: ignore[misc]


def off_by(rng: Generator, residual: str, p: Array, q: Array) -> Array:
    sizes = np.resize(RESIDUALS[residual], p.shape) * rng.choice([-1, 1], p.shape)
    return p + sizes * (1 + q)


def make_problem(rng: Generator, name: str, residual: str) -> Problem:
    bilinear, *shapes = MAPS[name]
    x, w = (drawn(rng, shape) for shape in shapes)
    p = np.asarray(bilinear(x, w))
    q = [np.sum(flat(x)[of_x] ** 2) + np.sum(flat(w)[of_w] ** 2) for of_x, of_w in copies_of(name)]
    return Problem(x, w, off_by(rng, residual, p, np.reshape(q, p.shape)))


def project_copies(name: str, problem: Problem) -> tuple[Array, Array, Array]:
    """The mean changes over explicit copies, each projected in mpmath; zero where there are none."""
    x, w, z = (flat(tree) for tree in problem)
    total_x, total_w, z_change = np.zeros((2, x.size)), np.zeros((2, w.size)), np.zeros_like(z)
    for output, (of_x, of_w) in enumerate(copies_of(name)):
        changes = oracles.bilinear_changes(x[of_x][None], w[of_w][None], z[output : output + 1])
        for total, places, change in ((total_x, of_x, changes[0]), (total_w, of_w, changes[1])):
            np.add.at(total, (slice(None), places), [change[0], np.ones_like(change[0])])
        z_change[output] = changes[2][0]
    return total_x[0] / np.maximum(total_x[1], 1), total_w[0] / np.maximum(total_w[1], 1), z_change


def assert_close(results: Any, expected: Any, tolerance: float) -> None:
    for result, right in zip(results, expected, strict=True):
        assert np.linalg.norm(flat(result) - flat(right)) <= tolerance * np.linalg.norm(flat(right))


# In consensus form.


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", MAPS)
def test_changes_are_means_over_explicit_copies(name: str, residual: str, implementation: str, rng: Generator) -> None:
    problem = make_problem(rng, name, residual)
    changes = project(name, problem, implementation=implementation)
    assert jax.tree.structure(changes) == jax.tree.structure(tuple(problem))
    assert_close(changes, project_copies(name, problem), 1e-12)


@pytest.mark.parametrize("name", ["convolution", "recurrence"])
def test_float32_changes(name: str, implementation: str, rng: Generator) -> None:
    problem = jax.tree.map(lambda leaf: leaf.astype(np.float32), make_problem(rng, name, "mixed"))
    changes = project(name, problem, implementation=implementation)
    assert_close(changes, project_copies(name, problem), 1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_zero_operands_take_the_free_part(name: str, implementation: str, rng: Generator) -> None:
    """Set-valued where ``|z| > 1``: equal positive entries, of either sign in ``w``."""
    problem = make_problem(rng, name, "near")
    z = rng.uniform(1.5, 9, problem.z.shape) * rng.choice([-1, 1], problem.z.shape)
    problem = Problem(*jax.tree.map(np.zeros_like, (problem.x, problem.w)), z)
    assert_close(project(name, problem, implementation=implementation), project_copies(name, problem), 1e-12)


def test_entries_that_no_output_uses_stay(implementation: str, rng: Generator) -> None:
    problem = make_problem(rng, "rows by index", "mixed")
    x = np.asarray(project("rows by index", problem, increments=False, implementation=implementation)[0])
    np.testing.assert_array_equal(x[[1, 2]], problem.x[[1, 2]])
    assert (x[[0, 3]] != problem.x[[0, 3]]).all()


def test_a_repeated_index_counts_as_often_as_it_is_used(implementation: str, rng: Generator) -> None:
    """Row 3 enters two rows of outputs, and takes the mean over both."""
    problem = make_problem(rng, "rows by index", "mixed")
    x, _, _ = project("rows by index", problem, implementation=implementation)
    rows, _, _ = pk.project_dense(problem.x[ROWS], problem.w, problem.z, increments=True)
    np.testing.assert_allclose(x[3], (rows[0] + rows[2]) / 2, rtol=1e-12)
    np.testing.assert_allclose(x[0], rows[1], rtol=1e-12)


def test_indices_known_at_run_time_only(rng: Generator) -> None:
    """Counts are then computed in the compiled program."""
    problem = make_problem(rng, "rows by index", "mixed")

    @jax.jit
    def project_rows(rows: Array, problem: Problem) -> Any:
        return pk.project_bilinear_map(lambda x, w: x[rows] @ w, *problem, increments=True)

    assert_close(project_rows(ROWS, problem), project("rows by index", problem), 1e-13)


def test_one_output_goes_to_the_nearest_point(rng: Generator) -> None:
    """A dot product over several arrays at once: one copy each, so the mean is the projection."""

    def bilinear(x: Any, w: Any) -> Any:
        return jnp.vdot(x[0], w[0]) + jnp.vdot(x[1], w[1])

    x, w = ((rng.normal(size=3), rng.normal(size=(2, 2))) for _ in range(2))
    z = bilinear(x, w) + 8
    new_x, new_w, new_z = pk.project_bilinear_map(bilinear, x, w, z)
    np.testing.assert_allclose(new_z, bilinear(new_x, new_w), rtol=1e-13)
    (near_x, near_w), (old_x, old_w) = (tuple(map(flat, pair)) for pair in ((new_x, new_w), (x, w)))
    distance = np.sum((near_x - old_x) ** 2 + (near_w - old_w) ** 2) + (new_z - z) ** 2
    for scale in (1e-3, 0.1, 1):
        a, b = (near + scale * rng.normal(size=(3000, 7)) for near in (near_x, near_w))
        distances = np.sum((a - old_x) ** 2 + (b - old_w) ** 2, axis=1) + (np.sum(a * b, axis=1) - z) ** 2
        assert (distances >= distance * (1 - 1e-12)).all()


def test_counts_are_small_constants() -> None:
    """Of a matrix product, each is one number; of nothing is there an array as large as an operand."""
    x, w, z = (np.ones(shape, np.float32) for shape in ((300, 200), (200, 100), (300, 100)))
    compiled = jax.jit(lambda x, w, z: pk.project_bilinear_map(jnp.matmul, x, w, z)).trace(x, w, z)
    assert sum(np.size(constant) for constant in compiled.jaxpr.consts) < 10


# In factored form.


def make_factored(rng: Generator, name: str, residual: str) -> Factored:
    """Two operands ``x`` and one ``w``, with a number among the coefficients."""
    (x, w, z), (more, *_) = (make_problem(rng, name, residual) for _ in range(2))
    coefficients = rng.normal(size=(5, *z.shape))
    u = pk.Combination((1.0, coefficients[0]), (coefficients[1],))
    v = pk.Combination((coefficients[2], coefficients[3]), (coefficients[4],))
    problem = Factored((x, more), (w,), u, v, z)
    pairs = list(zip(formed(name, problem, u), formed(name, problem, v), strict=True))
    p, q = np.array([a @ b for a, b in pairs]), np.array([a @ a + b @ b for a, b in pairs])
    return problem._replace(z=off_by(rng, residual, p, q).reshape(z.shape))


def formed(name: str, problem: Factored, combination: pk.Combination) -> list[Array]:
    """The copies of every output."""
    of_x, of_w = (
        [np.broadcast_to(c, problem.z.shape).ravel() for c in side] for side in (combination.x, combination.w)
    )
    xs, ws = [flat(x) for x in problem.x], [flat(w) for w in problem.w]
    return [
        sum(c[output] * x[places_x] for c, x in zip(of_x, xs, strict=True))
        + sum(c[output] * w[places_w] for c, w in zip(of_w, ws, strict=True))
        for output, (places_x, places_w) in enumerate(copies_of(name))
    ]


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", ["convolution", "recurrence"])
def test_factored_changes_are_those_of_explicit_copies(
    name: str, residual: str, implementation: str, rng: Generator
) -> None:
    problem = make_factored(rng, name, residual)
    found = project_factored(name, problem, implementation=implementation)
    changes = [
        [part[0] for part in oracles.bilinear_changes(a[None], b[None], z[None])]
        for a, b, z in zip(
            formed(name, problem, problem.u), formed(name, problem, problem.v), flat(problem.z), strict=True
        )
    ]
    for side, combination in ((0, found.u), (1, found.v)):
        assert_close(formed(name, problem, combination), [change[side] for change in changes], 1e-11)
    assert_close([found.z_change], [np.array([change[2] for change in changes])], 1e-12)
    squared = sum(np.sum(change[0] ** 2) + np.sum(change[1] ** 2) for change in changes)
    np.testing.assert_allclose(found.squared_change, squared, rtol=1e-11)

    for side, tree, mean in ((0, problem.x[0], found.x_mean), (1, problem.w[0], found.w_mean)):
        assert jax.tree.structure(mean) == jax.tree.structure(tree)
        total = np.zeros((2, flat(tree).size))
        for places, change in zip(copies_of(name), changes, strict=True):
            np.add.at(total, (slice(None), places[side]), [change[side], np.ones_like(change[side])])
        assert_close([mean], [total[0] / np.maximum(total[1], 1)], 1e-11)


def test_factored_matrix_product_is_a_dense_layer(rng: Generator) -> None:
    x, w = (rng.normal(size=(3, 4)), rng.normal(size=(3, 4))), (rng.normal(size=(4, 2)),)
    (u, v), z = (((rng.normal(size=(3, 2)), 1.0), (0.5,)) for _ in range(2)), 5 * rng.normal(size=(3, 2))
    found = jax.jit(lambda x, w, z: pk.project_bilinear_map_factored(jnp.matmul, x, w, u, v, z))(x, w, z)
    expected = jax.jit(lambda x, w, z: pk.project_dense_factored(x, w, u, v, z))(x, w, z)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-13)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("precision", ["highest", "high", None])
def test_products_that_name_no_precision_have_that_of_the_call(factored: bool, precision: Any, rng: Generator) -> None:
    x, w, z = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    one = ((1.0,), (0.0,))
    for named in ("default", None):
        product = partial(jnp.matmul, precision=named)

        def project(x: Any, w: Any, z: Any, product: Any = product) -> Any:
            if factored:
                return pk.project_bilinear_map_factored(product, (x,), (w,), one, one[::-1], z, precision=precision)
            return pk.project_bilinear_map(product, x, w, z, precision=precision)

        expected = jax.make_jaxpr(partial(jnp.matmul, precision=named or precision))(x, w).eqns[0].params["precision"]
        assert set(precisions(jax.make_jaxpr(project)(x, w, z))) == {expected}


# Errors.


def test_maps_that_do_not_select_are_refused_by_the_reference(rng: Generator) -> None:
    x, w, z = rng.normal(size=(2, 3)), rng.normal(size=3), rng.normal(size=2)
    with pytest.raises(ValueError, match=r"^project_bilinear_map: .*multiplies .* by 0\.5.*selected"):
        pk.project_bilinear_map(lambda x, w: 0.5 * x @ w, x, w, z, implementation="reference")


@pytest.mark.parametrize("factored", [False, True])
def test_outputs_must_be_one_array_of_the_shape_of_z(factored: bool) -> None:
    x, w = np.ones((2, 3)), np.ones((3, 4))

    def call(bilinear: Any, z: Array) -> Any:
        if factored:
            number = ((1.0,), (1.0,))
            return pk.project_bilinear_map_factored(bilinear, (x,), (w,), number, number, z)
        return pk.project_bilinear_map(bilinear, x, w, z)

    kernel = "project_bilinear_map_factored" if factored else "project_bilinear_map"
    with pytest.raises(ValueError, match=rf"^{kernel}: z has shape \(2, 3\).*bilinear.*\(2, 4\)"):
        call(jnp.matmul, np.ones((2, 3)))
    with pytest.raises(ValueError, match=rf"^{kernel}: bilinear\(x, w\) returns .*one array"):
        call(lambda x, w: (x @ w, x @ w), np.ones((2, 4)))


def test_factored_operands_must_be_alike() -> None:
    x, w, number = np.ones((2, 3)), np.ones((3, 4)), ((1.0, 1.0), (1.0,))
    with pytest.raises(ValueError, match=r"x\[1\] has shape \(2, 2\), but x\[0\] has \(2, 3\)"):
        pk.project_bilinear_map_factored(jnp.matmul, (x, np.ones((2, 2))), (w,), number, number, np.ones((2, 4)))
