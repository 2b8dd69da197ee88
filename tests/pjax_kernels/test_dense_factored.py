"""The projection of a dense layer in factored form: against mpmath, the other kernels, and by its symmetries."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import cycle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.typing import ArrayLike, DTypeLike

import pjax_kernels as pk

from . import oracles
from .code_generation import AS_FOR_USERS
from .test_dense import precisions

Array = np.ndarray
Generator = np.random.Generator
Shape = tuple[int, int, int]
Changes = tuple[Array, Array, Array]
Numbers = tuple[float | None, ...]

SHAPE: Shape = (4, 6, 3)

SQUARE: Shape = (4, 6, 4)
"""As many rows as columns: one program for a layer and its transpose."""

ULPS = {"reference": 2, "xla": 1}
"""Rounding errors allowed; the reference bisects ``log((1 + t)/(1 - t))``, which costs it some when t nears 1."""

RESIDUALS = {"near": (0.01, 0.06), "mixed": (0.01, 0.5), "far": (1.0, 10.0)}
"""``|z - u . v|`` over 1 + |u|^2 + |v|^2; roots up to 1/16 are near."""

KINDS: dict[str, Numbers] = {
    "numbers": (1.0, 0.0, 0.0, 1.0, 0.5, -0.6, -1.0),
    "arrays": (None,),
    "both": (1.0, None, 0.0, -0.6, None, None, 0.0),
}
"""The coefficients of u and v in turn: numbers, or None for an array."""

COUNTS = {(i, j): list(KINDS)[(i + j + 1) % 3] for i in (1, 2, 3) for j in (1, 2, 3)}
"""How many vectors there are of each operand, and the kind of coefficients that they are tested with."""

SHAPES_AND_DTYPES = [
    ((1, 9, 7), "float16", "bfloat16"),
    ((4, 33, 1), "bfloat16", "float32"),
    ((3, 1, 4), "float32", "float64"),
]
"""The dtype of the vectors and ``z``, and that of the coefficients."""


class Layer(NamedTuple):
    x: tuple[Array, ...]
    w: tuple[Array, ...]
    u: pk.Combination
    v: pk.Combination
    z: Array


def as_float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, float) else np.asarray(leaf).astype(np.float64), tree)


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def dot(a: Array, b: Array) -> Array:
    return np.sum(a * b, axis=-1)


def norm(array: Array) -> Array:
    return np.sqrt(dot(array, array))


def relative_errors(results: Any, expected: Any) -> list[float]:
    pairs = zip(jax.tree.leaves(as_float64(results)), jax.tree.leaves(as_float64(expected)), strict=True)
    return [float(np.linalg.norm(left - right) / np.linalg.norm(right)) for left, right in pairs]


# Running the kernel.


def project(layer: Layer, implementation: str | None = None) -> pk.FactoredChanges:
    """The kernel outside jit, but not the reference: its loop would be compiled anew at every call."""
    if implementation == "reference":
        return project_jitted(layer, implementation)
    return pk.project_dense_factored(*layer, implementation=implementation)


def project_jitted(layer: Layer, implementation: str | None = None, *, quickly: bool = False) -> pk.FactoredChanges:
    """The kernel under jit: numbers are static, and everything else is traced."""
    leaves, tree = jax.tree.flatten(layer)
    numbers = tuple(leaf if isinstance(leaf, float) else None for leaf in leaves)
    call = project_leaves_quickly if quickly else project_leaves
    return call([leaf for leaf in leaves if not isinstance(leaf, float)], numbers, tree, implementation)


def _project_leaves(
    arrays: list[ArrayLike], numbers: Numbers, tree: Any, implementation: str | None
) -> pk.FactoredChanges:
    remaining = iter(arrays)
    leaves = [next(remaining) if number is None else number for number in numbers]
    return pk.project_dense_factored(*tree.unflatten(leaves), implementation=implementation)


project_leaves = jax.jit(_project_leaves, static_argnums=(1, 2, 3), compiler_options=AS_FOR_USERS)
project_leaves_quickly = jax.jit(_project_leaves, static_argnums=(1, 2, 3))


# Layers, and what they stand for.


def combinations(rng: Generator, shape: Shape, counts: tuple[int, int], kind: str) -> Iterator[pk.Combination]:
    batch, _, width = shape
    numbers = cycle(KINDS[kind])

    def coefficient() -> Any:
        number = next(numbers)
        return rng.normal(size=(batch, width)) if number is None else number

    while True:
        yield pk.Combination(*(tuple(coefficient() for _ in range(count)) for count in counts))


def copies(x: tuple[Array, ...], w: tuple[Array, ...], combination: pk.Combination, shape: tuple[int, ...]) -> Array:
    """The combinations (B, M, N) in float64."""
    x, w, combination = as_float64((x, w, combination))
    terms = [np.broadcast_to(c, shape)[..., None] * a[:, None] for c, a in zip(combination.x, x, strict=True)]
    terms += [np.broadcast_to(c, shape)[..., None] * a.T for c, a in zip(combination.w, w, strict=True)]
    return sum(terms)


def copies_of(layer: Layer) -> tuple[Array, Array]:
    return tuple(copies(layer.x, layer.w, c, layer.z.shape) for c in (layer.u, layer.v))  # type: ignore[return-value]


def changes_of(found: pk.FactoredChanges, layer: Layer) -> tuple[Array, Array]:
    """The changes of the copies that the changes of the coefficients make."""
    return tuple(copies(layer.x, layer.w, c, layer.z.shape) for c in (found.u, found.v))  # type: ignore[return-value]


def with_residual(rng: Generator, layer: Layer, residual: str, dtype: DTypeLike) -> Layer:
    """The layer with ``z`` off the product, on either side."""
    a, b = copies_of(layer)
    size = rng.uniform(*RESIDUALS[residual], layer.z.shape) * rng.choice([-1, 1], layer.z.shape)
    return layer._replace(z=(dot(a, b) + size * (1 + dot(a, a) + dot(b, b))).astype(dtype))


def random_layer(
    rng: Generator,
    shape: Shape,
    counts: tuple[int, int],
    kind: str,
    residual: str,
    dtype: DTypeLike = "float64",
    coefficient_dtype: DTypeLike | None = None,
) -> Layer:
    batch, inner, width = shape
    dtype, coefficient_dtype = jnp.dtype(dtype), jnp.dtype(coefficient_dtype or dtype)
    x = tuple(rng.normal(size=(batch, inner)).astype(dtype) for _ in range(counts[0]))
    w = tuple(rng.normal(size=(inner, width)).astype(dtype) for _ in range(counts[1]))
    several = combinations(rng, shape, counts, kind)
    u, v = jax.tree.map(
        lambda c: c if isinstance(c, float) else c.astype(coefficient_dtype), (next(several), next(several))
    )
    return with_residual(rng, Layer(x, w, u, v, np.zeros((batch, width))), residual, dtype)


def oracle(layer: Layer) -> Changes:
    """The changes of the copies of ``x`` and ``w`` (B, M, N) and of ``z`` (B, M)."""
    a, b = copies_of(layer)
    flat = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), as_float64(layer.z).ravel()
    a_change, b_change, z_change = oracles.bilinear_changes(*flat)
    return a_change.reshape(a.shape), b_change.reshape(a.shape), z_change.reshape(layer.z.shape)


@jax.jit
def project_rows(a: Array, b: Array, z: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return pk.project_bilinear(a, b, z, increments=True, implementation="reference")


def project_copies(layer: Layer) -> Changes:
    """The same as the oracle, faster, and free parts as :func:`pk.project_bilinear` lays them."""
    return as_float64(project_rows(*copies_of(layer), as_float64(layer.z)))


def condition(layer: Layer) -> Array:
    """By how much rounding of the inner products may enlarge the relative error of each dot product's change."""
    a, b = copies_of(layer)
    z = as_float64(layer.z)
    x_norms, w_norms = [norm(x)[:, None] for x in as_float64(layer.x)], [norm(w.T) for w in as_float64(layer.w)]
    a_terms, b_terms = (
        sum(abs(c) * size for c, size in zip((*of.x, *of.w), (*x_norms, *w_norms), strict=True))
        for of in as_float64((layer.u, layer.v))
    )
    squares, residual = dot(a, a) + dot(b, b), abs(z - dot(a, b))
    is_near = residual <= (1 + squares) / 16
    apart = np.minimum(dot(a + b, a + b), dot(a - b, a - b))
    return 1 + (abs(z) + a_terms * b_terms) / residual + (a_terms**2 + b_terms**2) / np.where(is_near, squares, apart)


def check(found: pk.FactoredChanges, layer: Layer, expected: Changes, ulps: float, eps: float) -> None:
    """Each dot product's change by its condition, the means by theirs."""
    a_change, b_change, z_change = expected
    lengths = np.sqrt(dot(a_change, a_change) + dot(b_change, b_change) + z_change**2)
    error = ulps * eps * condition(layer) * lengths
    new_a_change, new_b_change = changes_of(found, layer)
    assert (norm(new_a_change - a_change) <= error).all()
    assert (norm(new_b_change - b_change) <= error).all()
    assert (abs(as_float64(found.z_change) - z_change) <= error).all()
    assert (norm(as_float64(found.x_mean) - a_change.mean(1)) <= error.mean(1)).all()
    assert (norm(as_float64(found.w_mean).T - b_change.mean(0)) <= error.mean(0)).all()
    squared = np.sum(a_change**2) + np.sum(b_change**2)
    assert abs(float(found.squared_change) - squared) <= 2 * np.sum(error * lengths)
    assert found.squared_free == 0


# Against the oracle.


@cache
def case(counts: tuple[int, int], residual: str) -> tuple[Layer, Changes]:
    rng = np.random.default_rng([*counts, list(RESIDUALS).index(residual)])
    layer = random_layer(rng, SHAPE, counts, COUNTS[counts], residual, np.float32)
    return layer, oracle(layer)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(
    ("counts", "implementation"),
    [*((counts, "xla") for counts in COUNTS), *((counts, "reference") for counts in list(COUNTS)[::2])],
)
def test_changes_agree_with_mpmath(counts: tuple[int, int], residual: str, implementation: str) -> None:
    layer, expected = case(counts, residual)
    check(project(layer, implementation), layer, expected, ULPS[implementation], compute_eps(np.float32))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(("shape", "dtype", "coefficient_dtype"), SHAPES_AND_DTYPES)
def test_any_shape_and_dtype(
    shape: Shape, dtype: str, coefficient_dtype: str, residual: str, implementation: str, rng: Generator
) -> None:
    layer = random_layer(rng, shape, (2, 1), "both", residual, dtype, coefficient_dtype)
    eps = compute_eps(jnp.promote_types(dtype, coefficient_dtype))
    check(project_jitted(layer, implementation), layer, oracle(layer), ULPS[implementation], eps)


@pytest.mark.parametrize("name", ["x", "w", "u", "v", "z"])
def test_results_have_the_widest_dtype(name: str, implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (2, 1), "arrays", "near", "float16", "bfloat16")
    for dtype, computed in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        widened = jax.tree.map(lambda array, dtype=dtype: array.astype(dtype), getattr(layer, name))
        call = partial(pk.project_dense_factored, implementation=implementation)
        found = jax.eval_shape(call, *layer._replace(**{name: widened}))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(computed)}


@pytest.mark.parametrize("size", [0, 5000])
def test_layers_larger_than_a_block(size: int, rng: Generator) -> None:
    """More roots than are computed at a time, all near or some far, in blocks that do not divide the batch."""
    layer = random_layer(rng, (83, 3, 200), (1, 2), "both", "near", np.float32)
    layer.z[[0, 50, -1], 3] += np.array([size, -size, size], np.float32)
    check(project_jitted(layer), layer, project_copies(layer), ULPS["xla"], compute_eps(np.float32))


def test_only_coefficients_that_are_zero_in_both_keep_a_number(rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (2, 1), "arrays", "far", np.float32)
    u, v = layer.u._replace(x=(1.0, 0.0)), layer.v._replace(x=(0.0, 0.0))
    found = project(layer._replace(u=u, v=v))
    assert [np.shape(c) for c in (*found.u.w, *found.v.w, found.u.x[0], found.v.x[0])] == [layer.z.shape] * 4
    assert (found.u.x[1], found.v.x[1]) == (0.0, 0.0)


# Against the other kernels.


project_dense = jax.jit(partial(pk.project_dense, increments=True), static_argnames="implementation")


@pytest.mark.parametrize("residual", RESIDUALS)
def test_one_vector_each_is_the_dense_layer(residual: str, implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (1, 1), "numbers", residual, np.float32)
    assert (layer.u, layer.v) == (((1.0,), (0.0,)), ((0.0,), (1.0,)))
    found = project(layer, implementation)
    expected = project_dense(layer.x[0], layer.w[0], layer.z, implementation=implementation)
    bound = 2 * ULPS[implementation] * compute_eps(np.float32) * float(condition(layer).max())
    assert max(relative_errors((found.x_mean, found.w_mean, found.z_change), expected)) < bound


project_stored = jax.jit(pk.project_dense_copies, static_argnames="implementation")


@pytest.mark.parametrize("residual", RESIDUALS)
def test_is_the_projection_of_stored_copies(residual: str, implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, SQUARE, (2, 2), "arrays", residual)
    a, b = copies_of(layer)
    x, w = layer.x[0], layer.w[0]
    stored = project_stored(x, w, a - x[:, None], b - w.T, layer.z, implementation=implementation)
    found = project_jitted(layer, implementation)
    results = *changes_of(found, layer), found.x_mean, found.w_mean, found.z_change
    assert max(relative_errors(results, tuple(stored))) < 1e-12


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("sign", [-1, 1])
def test_squared_change_of_nearly_equal_copies(sign: int, gap: float, implementation: str, rng: Generator) -> None:
    """Large coefficients of opposite sign: the sum of squares must not come from their difference."""
    layer = random_layer(rng, SHAPE, (2, 1), "arrays", "far", np.float32)
    u, v = layer.u, jax.tree.map(lambda c: sign * c, layer.u)
    v = v._replace(w=(v.w[0] + np.float32(gap) * layer.v.w[0],))
    z = -sign * rng.uniform(50, 200, layer.z.shape).astype(np.float32)
    layer = layer._replace(u=u, v=v, z=z)
    a_change, b_change, _ = project_copies(layer)
    found = project(layer, implementation)
    assert max(relative_errors(found.squared_change, np.sum(a_change**2) + np.sum(b_change**2))) < 1e-4


# Set-valued dot products.


def integer_layer(rng: Generator) -> Layer:
    """Small integers, whose products do not round, and ``z`` out of reach on both sides."""
    batch, inner, width = SHAPE
    x = tuple(rng.integers(1, 5, (batch, inner)).astype(np.float32) for _ in range(2))
    w = (rng.integers(1, 5, (inner, width)).astype(np.float32),)
    first, second, third = rng.integers(1, 4, (3, batch, width)).astype(np.float32)
    combination = pk.Combination((first, second), (third,))
    z = rng.choice([-1, 1], (batch, width)) * rng.integers(10_000, 90_000, (batch, width))
    return Layer(x, w, combination, combination, z.astype(np.float32))


def zero_numbers(rng: Generator) -> Layer:
    zero = pk.Combination((0.0, 0.0), (0.0,))
    return integer_layer(rng)._replace(u=zero, v=zero)


def zero_arrays(rng: Generator) -> Layer:
    layer = integer_layer(rng)
    zero = jax.tree.map(np.zeros_like, layer.u)
    return layer._replace(u=zero, v=zero)


def zero_vectors(rng: Generator) -> Layer:
    layer = integer_layer(rng)
    return layer._replace(x=tuple(map(np.zeros_like, layer.x)), w=tuple(map(np.zeros_like, layer.w)))


def equal_arrays(rng: Generator) -> Layer:
    layer = integer_layer(rng)
    return layer._replace(z=-abs(layer.z))


def opposite_arrays(rng: Generator) -> Layer:
    layer = integer_layer(rng)
    return layer._replace(v=jax.tree.map(np.negative, layer.v), z=abs(layer.z))


def opposite_numbers(rng: Generator) -> Layer:
    layer = integer_layer(rng)
    u, v = pk.Combination((1.0, -0.5), (2.0,)), pk.Combination((-1.0, 0.5), (-2.0,))
    return layer._replace(u=u, v=v, z=abs(layer.z))


def opposite_vectors(rng: Generator) -> Layer:
    """The first column of ``w`` is opposite to the first row of ``x[0]``; no other dot product is set-valued."""
    layer = integer_layer(rng)
    layer.w[0][:, 0] = -layer.x[0][0]
    zero, one = np.zeros_like(layer.z), np.ones_like(layer.z)
    u, v = pk.Combination((one, zero), (zero,)), pk.Combination((zero, zero), (one,))
    return layer._replace(u=u, v=v, z=abs(layer.z))


SET_VALUED: dict[str, tuple[Callable[[Generator], Layer], int]] = {
    make.__name__: (make, number)
    for make, number in (
        (zero_numbers, 12),
        (zero_arrays, 12),
        (zero_vectors, 12),
        (equal_arrays, 12),
        (opposite_arrays, 12),
        (opposite_numbers, 12),
        (opposite_vectors, 1),
    )
}
"""Layers of 12 dot products, and how many of these are set-valued."""


@pytest.mark.parametrize("name", SET_VALUED)
def test_set_valued_dot_products_leave_out_the_free_part(name: str, implementation: str, rng: Generator) -> None:
    make, number = SET_VALUED[name]
    layer = make(rng)
    full_a, full_b, z_change = project_copies(layer)
    found = project(layer, implementation)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    a_change, b_change = changes_of(found, layer)
    free = dot(full_a - a_change, full_a - a_change) + dot(full_b - b_change, full_b - b_change)
    squared = np.sum(full_a**2) + np.sum(full_b**2)
    assert np.sum(free > 1e-5 * (dot(full_a, full_a) + dot(full_b, full_b))) == number
    expected = z_change, np.sum(np.sort(free, axis=None)[-number:]), squared
    assert max(relative_errors((found.z_change, found.squared_free, found.squared_change), expected)) < 1e-5
    for mean, change in ((found.x_mean, a_change.mean(1)), (found.w_mean, b_change.mean(0).T)):
        assert np.linalg.norm(mean - change) <= 1e-6 * np.sqrt(squared)


def test_zero_copies_within_reach_only_change_z(implementation: str, rng: Generator) -> None:
    layer = zero_numbers(rng)
    layer = layer._replace(z=rng.uniform(-0.99, 0.99, layer.z.shape).astype(np.float32))
    found = project(layer, implementation)
    np.testing.assert_allclose(found.z_change, -layer.z, rtol=1e-5)
    assert float(found.squared_change) == float(found.squared_free) == 0


def test_finite_results_for_wide_scales(implementation: str, rng: Generator) -> None:
    for _ in range(100):
        layer = random_layer(rng, SHAPE, (2, 1), "arrays", "far", np.float32)
        x_size, w_size, z_size = 10 ** rng.uniform(-15, 15, 3).astype(np.float32)
        x, w = tuple(x_size * a for a in layer.x), tuple(w_size * a for a in layer.w)
        found = project_jitted(layer._replace(x=x, w=w, z=z_size * layer.z), implementation)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# Properties.


def permuted(rng: Generator, layer: Layer) -> Callable[[Any], Any]:
    rows, entries, columns = (rng.permutation(length) for length in (*layer.x[0].shape, layer.w[0].shape[1]))

    def permute(changes: tuple[Any, ...]) -> tuple[Any, ...]:
        x, w, u, v, z = changes
        u, v = (jax.tree.map(lambda c: c[rows][:, columns], combination) for combination in (u, v))
        x, w = tuple(a[rows][:, entries] for a in x), tuple(a[entries][:, columns] for a in w)
        return x, w, u, v, z[rows][:, columns]

    return permute


def transposed(rng: Generator, layer: Layer) -> Callable[[Any], Any]:
    def transpose(changes: tuple[Any, ...]) -> tuple[Any, ...]:
        x, w, u, v, z = changes
        new_u, new_v = (jax.tree.map(np.transpose, pk.Combination(other.w, other.x)) for other in (v, u))
        return tuple(a.T for a in w), tuple(a.T for a in x), new_u, new_v, z.T

    return transpose


def rotated(rng: Generator, layer: Layer) -> Callable[[Any], Any]:
    rotation = np.linalg.qr(rng.normal(size=(layer.x[0].shape[1],) * 2))[0]

    def rotate(changes: tuple[Any, ...]) -> tuple[Any, ...]:
        x, w, u, v, z = changes
        return tuple(a @ rotation for a in x), tuple(rotation.T @ a for a in w), u, v, z

    return rotate


def negated(rng: Generator, layer: Layer) -> Callable[[Any], Any]:
    """``x``, its copies and the outputs, but not ``w``."""

    def negate(changes: tuple[Any, ...]) -> tuple[Any, ...]:
        x, w, u, v, z = changes
        flipped = pk.Combination(u.x, tuple(-c for c in u.w)), pk.Combination(tuple(-c for c in v.x), v.w)
        return tuple(-a for a in x), w, *flipped, -z

    return negate


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("symmetry", [permuted, transposed, rotated, negated])
def test_symmetries(
    symmetry: Callable[[Generator, Layer], Callable[[Any], Any]], residual: str, implementation: str, rng: Generator
) -> None:
    layer = random_layer(rng, SQUARE, (2, 2), "arrays", residual)
    transform = symmetry(rng, layer)

    def changes(found: pk.FactoredChanges) -> tuple[Any, ...]:
        """In the order of a layer."""
        return as_float64(((found.x_mean,), (found.w_mean,), found.u, found.v, found.z_change))

    first, second = project_jitted(layer, implementation), project_jitted(Layer(*transform(layer)), implementation)
    bound = 2 * ULPS[implementation] * compute_eps(np.float64) * condition(layer).max()
    assert max(relative_errors(changes(second), transform(changes(first)))) < bound
    assert abs(second.squared_change / first.squared_change - 1) < bound


def test_feasible_copies_do_not_change(implementation: str, rng: Generator) -> None:
    """Small integers, whose products do not round."""
    layer = integer_layer(rng)
    a, b = copies_of(layer)
    found = project(layer._replace(z=dot(a, b).astype(np.float32)), implementation)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_projected_copies_are_feasible(residual: str, implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, SQUARE, (2, 2), "arrays", residual)
    found = project_jitted(layer, implementation)
    (a, b), (a_change, b_change) = copies_of(layer), changes_of(found, layer)
    product = dot(a + a_change, b + b_change)
    gradient = 1 + norm(a + a_change) + norm(b + b_change)
    error = ULPS[implementation] * compute_eps(np.float64) * condition(layer) * (abs(layer.z) + norm(a) + norm(b))
    assert (abs(layer.z + found.z_change - product) <= gradient * error).all()


# Arrays: empty, and what is formed.


@pytest.mark.parametrize("shape", [(0, 6, 4), (5, 6, 0)])
def test_empty_layers(shape: Shape, implementation: str, rng: Generator) -> None:
    """A batch or a width of zero: no copies, and means of nothing are no change."""
    layer = random_layer(rng, shape, (2, 1), "both", "far", np.float32)
    found = project_jitted(layer, implementation)
    assert (found.x_mean.shape, found.w_mean.shape) == (shape[:2], shape[1:])
    assert found.z_change.shape == layer.z.shape
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_dot_products_of_no_entries_are_zero(implementation: str, rng: Generator) -> None:
    batch, _, width = SHAPE
    layer = random_layer(rng, (batch, 0, width), (1, 2), "arrays", "far", np.float32)
    layer = layer._replace(z=layer.z / 20)
    found = project(layer, implementation)
    np.testing.assert_allclose(found.z_change, -layer.z, rtol=1e-5)
    assert (found.x_mean.shape, found.w_mean.shape) == ((batch, 0), (0, width))


@pytest.mark.parametrize("precision", ["highest", "default", lax.Precision.HIGH])
@pytest.mark.parametrize("counts", [(1, 1), (2, 3)])
def test_products_of_each_pair_and_one_of_each_at_the_precision(
    counts: tuple[int, int], precision: lax.PrecisionLike, rng: Generator
) -> None:
    layer = random_layer(rng, SHAPE, counts, "arrays", "near", np.float32)
    jaxpr = jax.make_jaxpr(lambda layer: pk.project_dense_factored(*layer, precision=precision))(layer)
    expected = jax.make_jaxpr(lambda x, w: jnp.matmul(x, w, precision=precision))(layer.x[0], layer.w[0]).eqns[0]
    assert precisions(jaxpr) == [expected.params["precision"]] * (counts[0] * counts[1] + sum(counts))


def test_no_copy_is_stored() -> None:
    shape = (100, 2000, 100)
    x, w, z = (jax.ShapeDtypeStruct(lengths, np.float32) for lengths in (shape[:2], shape[1:], shape[::2]))
    arguments = (x, x), (w, w), ((z, z), (z, z)), ((z, z), (z, z)), z
    compiled = jax.jit(partial(pk.project_dense_factored, implementation="xla")).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * np.prod(shape) / 10


# Under transformations.


def assert_close(results: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Equal to rounding of the largest number: XLA may contract and reorder differently in another program."""
    for left, right in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * abs(np.asarray(right)).max())


def test_is_the_same_under_jit(rng: Generator) -> None:
    layer = random_layer(rng, SQUARE, (2, 2), "arrays", "mixed")
    assert_close(project_jitted(layer, quickly=True), project(layer))


def test_vmap_is_a_loop_over_the_axis(rng: Generator) -> None:
    """Over layers of near, mixed and far roots."""
    layers = [random_layer(rng, SHAPE, (2, 1), "arrays", residual, np.float32) for residual in RESIDUALS]
    looped = [project(layer) for layer in layers]
    stacked = jax.tree.map(lambda *lanes: np.stack(lanes), *layers)
    found = jax.jit(jax.vmap(project))(stacked)
    assert_close(found, jax.tree.map(lambda *lanes: jnp.stack(lanes), *looped), 1e-5)


def test_scan_is_a_loop(rng: Generator) -> None:
    """Shapes and dtypes of the changes are those of what changes, so a projection can be iterated."""
    layer = jax.tree.map(jnp.asarray, random_layer(rng, SQUARE, (2, 2), "arrays", "far"))

    def step(layer: Layer) -> Layer:
        found = project_jitted(layer, quickly=True)
        u, v, z = jax.tree.map(jnp.add, (layer.u, layer.v, layer.z), (found.u, found.v, found.z_change))
        return layer._replace(x=(layer.x[0] + found.x_mean, *layer.x[1:]), u=u, v=v, z=z + 1)

    scanned, _ = lax.scan(lambda layer, _: (step(layer), None), layer, length=4)
    looped = layer
    for _ in range(4):
        looped = step(looped)
    assert_close(scanned, looped, 1e-11)


def test_works_without_float64(rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (2, 1), "both", "far", np.float32)
    with jax.enable_x64(False):
        narrow = project_jitted(layer)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {np.dtype("float32")}
    check(narrow, layer, oracle(layer), ULPS["xla"], compute_eps(np.float32))


# Errors.


def test_each_operand_needs_an_array(implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (1, 1), "arrays", "near")
    for name, counts in (("x", "x holds 0 operands and w 1"), ("w", "x holds 1 operands and w 0")):
        with pytest.raises(ValueError, match=f"^project_dense_factored: {counts}"):
            pk.project_dense_factored(*layer._replace(**{name: ()}), implementation=implementation)


@pytest.mark.parametrize("name", ["u", "v"])
@pytest.mark.parametrize("counts", [(1, 1), (2, 2), (0, 1), (3, 1)])
def test_each_array_needs_a_coefficient(counts: tuple[int, int], name: str, rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (2, 1), "arrays", "near")
    wrong = pk.Combination((1.0,) * counts[0], (1.0,) * counts[1])
    with pytest.raises(ValueError, match=rf"^project_dense_factored: {name} holds \({counts[0]}, {counts[1]}\).*2, 1"):
        pk.project_dense_factored(*layer._replace(**{name: wrong}))
