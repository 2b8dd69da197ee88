"""The projection of a dense layer with stored deviations: against mpmath, by its optimality and by its symmetries."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import ArrayLike, DTypeLike

import pjax_kernels as pk

from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator
Pair = tuple[float, float]

BATCH, WIDTH, LENGTH = 4, 5, 6

ULPS = {"reference": 8, "xla": 4}
"""Rounding errors allowed; the reference bisects ``log((1 + t)/(1 - t))``, which costs it some when t nears 1."""

STATIC = ("scale", "keep", "gain", "implementation")
project = jax.jit(pk.project_dense_copies, static_argnames=STATIC, compiler_options=AS_FOR_USERS)
project_quickly = jax.jit(pk.project_dense_copies, static_argnames=STATIC)
project_with_traced_settings = jax.jit(
    pk.project_dense_copies, static_argnames="implementation", compiler_options=AS_FOR_USERS
)
"""Compiled once for all of them."""


class Layer(NamedTuple):
    x: Array
    w: Array
    u: Array
    v: Array
    z: Array


class Settings(NamedTuple):
    scale: Pair
    keep: Pair
    gain: Pair


CHANGES = Settings(scale=(-1.0, 2.0), keep=(0.0, 0.0), gain=(1.0, 1.0))
"""The new deviations are the changes; the powers of 2 let the copies be free of rounding."""

SETTINGS = {
    "reflections": Settings((-1.0, -1.0), (-1.0, -1.0), (2.0, 2.0)),
    "Douglas-Rachford": Settings((-1.0, -1.0), (0.0, 0.0), (1.0, 1.0)),
    "relaxed Douglas-Rachford": Settings((-1.0, -1.0), (0.4, 0.4), (0.6, 0.6)),
    "difference map": Settings((1.0, 1.0), (0.0, 0.0), (-1.0, -1.0)),
    "unequal": Settings((0.7, -1.3), (0.2, 0.0), (0.0, -0.6)),
    "large and tiny": Settings((30.0, 1e-3), (1e-3, 7.0), (7.0, 1e-3)),
}


def dot(a: Array, b: Array) -> Array:
    return np.sum(a * b, axis=-1)


def as_float64(arrays: tuple[ArrayLike, ...]) -> tuple[Array, ...]:
    return tuple(np.asarray(array).astype(np.float64) for array in arrays)


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


# Cases whose copies have no rounding in any dtype: their entries are a power of 2 times at most 8 binary digits.


def grid(rng: Generator, *shape: int) -> Array:
    return np.clip(np.round(16 * rng.normal(size=shape)), -60, 60) / 16


def copies_of_units(rng: Generator, units: Pair = (1.0, 1.0)) -> tuple[Array, Array]:
    a, b = grid(rng, 2, BATCH, WIDTH, LENGTH)
    return units[0] * a, units[1] * b


def layer_of_copies(rng: Generator, a: Array, b: Array, z: Array, units: Pair = (1.0, 1.0)) -> Layer:
    x, w = units[0] * grid(rng, BATCH, LENGTH), units[1] * grid(rng, LENGTH, WIDTH)
    scale_u, scale_v = CHANGES.scale
    return Layer(x, w, (a - x[:, None]) / scale_u, (b - w.T) / scale_v, z)


def signs(rng: Generator) -> Array:
    return rng.choice([-1, 1], (BATCH, WIDTH))


def log_uniform(rng: Generator, low: float, high: float) -> Array:
    return 10 ** rng.uniform(low, high, (BATCH, WIDTH))


def with_residual(rng: Generator, size: tuple[float, float], units: Pair = (1.0, 1.0)) -> Layer:
    """``z`` off the product by the power of 10 of ``size`` times 1 + |a|^2 + |b|^2, on either side."""
    a, b = copies_of_units(rng, units)
    z = dot(a, b) + signs(rng) * log_uniform(rng, *size) * (1 + dot(a, a) + dot(b, b))
    return layer_of_copies(rng, a, b, z, units)


def large_z(rng: Generator) -> Layer:
    return layer_of_copies(rng, *copies_of_units(rng), signs(rng) * log_uniform(rng, 3, 4.5))


def one_zero(rng: Generator) -> Layer:
    (a, b), which = copies_of_units(rng), signs(rng)
    return layer_of_copies(
        rng, a * (which > 0)[..., None], b * (which < 0)[..., None], signs(rng) * log_uniform(rng, -1, 2)
    )


def equal(rng: Generator, low: float, high: float) -> Layer:
    """``a = b`` or ``a = -b``, short of the set-valued case or beyond it by factors from ``low`` to ``high``."""
    (a, _), sign = copies_of_units(rng), signs(rng)
    z = sign * (dot(a, a) - rng.uniform(low, high, sign.shape) * (1 + 0.75 * dot(a, a)))
    return layer_of_copies(rng, a, sign[..., None] * a, z)


def nearly_equal(rng: Generator) -> Layer:
    (a, _), sign = copies_of_units(rng), signs(rng)
    noise = rng.choice([-1, 1], a.shape) / 16
    return layer_of_copies(rng, a, sign[..., None] * (a + noise), -sign * log_uniform(rng, 1, 3))


def zero(rng: Generator, low: float, high: float) -> Layer:
    nothing = np.zeros((BATCH, WIDTH, LENGTH))
    return layer_of_copies(rng, nothing, nothing, signs(rng) * rng.uniform(low, high, (BATCH, WIDTH)))


SHORT, LONG = 2.0**-7, 2.0**4

CASES: dict[str, Callable[[Generator], Layer]] = {
    "near": partial(with_residual, size=(-4, -1.3)),
    "less near": partial(with_residual, size=(-1.3, -0.7)),
    "mixed": partial(with_residual, size=(-2, 1)),
    "far": partial(with_residual, size=(0, 1)),
    "short": partial(with_residual, size=(-2, 1), units=(SHORT, SHORT)),
    "long": partial(with_residual, size=(-2, 0.3), units=(LONG, LONG)),
    "unequal": partial(with_residual, size=(-2, 0.3), units=(SHORT, LONG)),
    "large z": large_z,
    "one zero": one_zero,
    "equal before the edge": partial(equal, low=0.1, high=0.9),
    "equal on the other side": partial(equal, low=-30, high=-0.1),
    "nearly equal": nearly_equal,
    "zero": partial(zero, low=0.05, high=0.99),
    "set-valued, equal": partial(equal, low=1.1, high=50),
    "set-valued, zero": partial(zero, low=1.1, high=1000),
}


@cache
def case_layer(case: str, dtype: DTypeLike) -> Layer:
    layer = CASES[case](np.random.default_rng(list(CASES).index(case)))
    return Layer(*(array.astype(dtype) for array in layer))


def copies(layer: Layer, scale: Pair) -> tuple[Array, Array]:
    x, w, u, v, _ = as_float64(layer)
    return x[:, None] + scale[0] * u, w.T + scale[1] * v


def oracle(layer: Layer, scale: Pair) -> tuple[Array, ...]:
    """The changes of the copies of ``x`` and ``w`` (B, M, N) and of ``z`` (B, M)."""
    a, b = copies(layer, scale)
    rows = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), np.asarray(layer.z).astype(np.float64).ravel()
    a_change, b_change, z_change = oracles.bilinear_changes(*rows)
    return a_change.reshape(a.shape), b_change.reshape(a.shape), z_change.reshape(a.shape[:-1])


@cache
def expected_changes(case: str, dtype: DTypeLike) -> tuple[Array, ...]:
    return oracle(case_layer(case, dtype), CHANGES.scale)


def changes_of(layer: Layer, implementation: str, scale: Pair = CHANGES.scale) -> pk.DenseCopies:
    settings = CHANGES._replace(scale=scale)._asdict()
    return project(*layer, **settings, implementation=implementation)


def exactly(layer: Layer, scale: Pair) -> pk.DenseCopies:
    """The same in float64, by the reference."""
    settings = CHANGES._replace(scale=scale)._asdict()
    return project_quickly(*as_float64(layer), **settings, implementation="reference")


def norm(array: Array) -> Array:
    return np.sqrt(dot(array, array))


def length(a: Array, b: Array, z: Array) -> Array:
    """Of every dot product's point."""
    return np.sqrt(dot(a, a) + dot(b, b) + z**2)


def rounding_of_changes(layer: Layer, scale: Pair, expected: tuple[Array, ...]) -> Array:
    """For each dot product the length of the change, times its condition, times the machine epsilon."""
    x, w, u, v, z = as_float64(layer)
    a, b = copies(layer, scale)
    a_terms = norm(x)[:, None] + abs(scale[0]) * norm(u)
    b_terms = norm(w.T) + abs(scale[1]) * norm(v)
    exact = scale == CHANGES.scale
    terms = abs(z) + (norm(a) * norm(b) if exact else a_terms * b_terms)
    return compute_eps(np.result_type(*layer)) * (1 + terms / abs(z - dot(a, b))) * length(*expected)


def check(new: pk.DenseCopies, layer: Layer, settings: Settings, expected: tuple[Array, ...], ulps: int) -> None:
    """Each dot product's error against its condition, each mean's against the mean of these."""
    error = ulps * rounding_of_changes(layer, settings.scale, expected)
    a_change, b_change, z_change = expected
    for result, old, change, keep, gain in zip(
        new[:2], layer[2:4], (a_change, b_change), settings.keep, settings.gain, strict=True
    ):
        assert result.dtype == old.dtype
        kept = keep * old.astype(np.float64)
        limits = jnp.finfo(old.dtype)
        rounding = float(limits.eps) * abs(kept + gain * change) + float(limits.smallest_subnormal)
        rounding += compute_eps(old.dtype) * (abs(kept) + abs(gain * change))
        difference = np.asarray(result).astype(np.float64) - (kept + gain * change)
        assert (norm(difference) <= abs(gain) * error + norm(rounding)).all()
    x_mean, w_mean, new_z_change = as_float64(new[2:])
    eps = compute_eps(np.result_type(*layer))
    x_expected, w_expected = a_change.mean(1), b_change.mean(0).T
    x_rounding, w_rounding = 2 * eps * norm(abs(a_change).mean(1)), 2 * eps * norm(abs(b_change).mean(0))
    assert (norm(x_mean - x_expected) <= error.mean(1) + x_rounding).all()
    assert (norm((w_mean - w_expected).T) <= error.mean(0) + w_rounding).all()
    assert (abs(new_z_change - z_change) <= error).all()


# Against the oracle.


@pytest.mark.parametrize("case", CASES)
def test_changes_agree_with_mpmath(case: str, implementation: str, dtype: DTypeLike) -> None:
    layer = case_layer(case, dtype)
    check(changes_of(layer, implementation), layer, CHANGES, expected_changes(case, dtype), ULPS[implementation])


def random_layer(rng: Generator, shape: tuple[int, int, int], residual: float, scale: Pair, dtype: DTypeLike) -> Layer:
    """``z`` off the product by up to ``residual`` times 1 + |a|^2 + |b|^2."""
    batch, inner, width = shape
    x, w = rng.normal(size=(batch, inner)), rng.normal(size=(inner, width))
    u, v = rng.normal(size=(2, batch, width, inner))
    layer = Layer(*(array.astype(dtype) for array in (x, w, u, v)), np.zeros((batch, width)))
    a, b = copies(layer, scale)
    z = dot(a, b) + rng.uniform(-residual, residual, (batch, width)) * (1 + dot(a, a) + dot(b, b))
    return layer._replace(z=z.astype(dtype))


@pytest.mark.parametrize("residual", [0.05, 5.0])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in SETTINGS), ("unequal", "bfloat16"), ("large and tiny", "bfloat16")],
)
def test_scale_keep_and_gain(name: str, dtype: str, residual: float, implementation: str, rng: Generator) -> None:
    settings = SETTINGS[name]
    layer = random_layer(rng, (3, 7, 4), residual, settings.scale, jnp.dtype(dtype))
    new = project_with_traced_settings(*layer, **settings._asdict(), implementation=implementation)
    check(new, layer, settings, oracle(layer, settings.scale), ULPS[implementation])


@pytest.mark.parametrize("residual", [0.05, 5.0])
@pytest.mark.parametrize("shape", [(1, 17, 7), (4, 96, 1), (3, 1, 4), (1, 1, 1)])
def test_any_shape(shape: tuple[int, int, int], residual: float, implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, shape, residual, (-1.0, -1.0), np.float32)
    settings = CHANGES._replace(scale=(-1.0, -1.0))
    new = project(*layer, **settings._asdict(), implementation=implementation)
    check(new, layer, settings, oracle(layer, settings.scale), ULPS[implementation])


@pytest.mark.parametrize("residual", [0.05, 5.0])
@pytest.mark.parametrize("shape", [(37, 500, 11), (3, 7001, 13)])
def test_layers_larger_than_a_block(shape: tuple[int, int, int], residual: float, rng: Generator) -> None:
    """More entries than are computed at a time, in blocks that do not divide the batch, or of one row."""
    settings = SETTINGS["relaxed Douglas-Rachford"]
    layer = random_layer(rng, shape, residual, settings.scale, np.float32)
    expected = exactly(layer, settings.scale)
    changes = as_float64((expected.u, expected.v, expected.z_change))
    check(project(*layer, **settings._asdict()), layer, settings, changes, ULPS["xla"])


def test_far_roots_in_some_blocks_only(implementation: str, rng: Generator) -> None:
    layer = random_layer(rng, (40, 500, 11), 0.05, (-1.0, -1.0), np.float64)
    layer.z[[1, 25], 3] += 5000
    settings = SETTINGS["Douglas-Rachford"]
    new = project_quickly(*layer, **settings._asdict(), implementation=implementation)
    x_changes, w_changes, z_change = project_copies(layer, settings.scale)
    expected = x_changes, w_changes, x_changes.mean(1), w_changes.mean(0).T, z_change
    assert max(relative_errors(new, expected)) < 1e-12


# Against the other kernels.


def relative_errors(results: tuple[ArrayLike, ...], expected: tuple[ArrayLike, ...]) -> list[float]:
    pairs = zip(as_float64(results), as_float64(expected), strict=True)
    return [float(np.linalg.norm(result - right) / np.linalg.norm(right)) for result, right in pairs]


project_bilinear = jax.jit(partial(pk.project_bilinear, increments=True))
project_dense = jax.jit(partial(pk.project_dense, increments=True), static_argnames="implementation")


def project_copies(layer: Layer, scale: Pair) -> tuple[Array, ...]:
    return as_float64(project_bilinear(*copies(layer, scale), layer.z))


@pytest.mark.parametrize("residual", [0.05, 0.4, 5.0])
def test_is_the_projection_of_explicit_copies(residual: float, implementation: str, rng: Generator) -> None:
    scale = (0.7, -1.3)
    layer = random_layer(rng, (5, 6, 4), residual, scale, np.float64)
    x_changes, w_changes, z_change = project_copies(layer, scale)
    expected = x_changes, w_changes, x_changes.mean(1), w_changes.mean(0).T, z_change
    new = project_quickly(*layer, **CHANGES._replace(scale=scale)._asdict(), implementation=implementation)
    assert max(relative_errors(new, expected)) < 1e-13


@pytest.mark.parametrize("residual", [0.05, 0.4, 5.0])
def test_without_deviations_is_the_dense_layer(residual: float, implementation: str, rng: Generator) -> None:
    """Whatever ``scale`` and ``keep``: zeros stay out of the means."""
    layer = random_layer(rng, (5, 6, 4), residual, (0.0, 0.0), np.float64)
    layer = layer._replace(u=np.zeros((5, 4, 6)), v=np.zeros((5, 4, 6)))
    expected = project_dense(*layer[:2], layer.z, implementation=implementation)
    for name in ("unequal", "large and tiny"):
        new = project_quickly(*layer, **SETTINGS[name]._asdict(), implementation=implementation)
        assert max(relative_errors(new[2:], expected)) < 1e-13


# Optimality.


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_feasible_point_is_nearer(case: str, implementation: str, dtype: str, rng: Generator) -> None:
    layer = case_layer(case, jnp.dtype(dtype))
    a, b = copies(layer, CHANGES.scale)
    z = layer.z.astype(np.float64)
    new = changes_of(layer, implementation)
    a_change, b_change, z_change = changes = as_float64((new.u, new.v, new.z_change))
    near_a, near_b = a + a_change, b + b_change
    error = ULPS[implementation] * rounding_of_changes(layer, CHANGES.scale, changes)
    away = abs(z + z_change - dot(near_a, near_b))
    assert (away <= 2 * error * (1 + norm(near_a) + norm(near_b)) + 1e-15 * abs(z)).all()
    allowed = length(a_change, b_change, z_change) - error
    for size in (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100):
        for centre_a, centre_b in ((near_a, near_b), (a, b), (0 * a, 0 * b)):
            for _ in range(20):
                noise_a, noise_b = size * rng.normal(size=(2, *a.shape))
                sample_a, sample_b = centre_a + noise_a, centre_b + noise_b
                assert (length(sample_a - a, sample_b - b, dot(sample_a, sample_b) - z) >= allowed).all()


# Properties.


@pytest.mark.parametrize("residual", [0.05, 0.4, 5.0])
def test_symmetries(residual: float, implementation: str, rng: Generator) -> None:
    """Permuted, rotated, transposed and negated layers."""
    settings = SETTINGS["unequal"]._asdict()
    layer = random_layer(rng, (5, 6, 4), residual, SETTINGS["unequal"].scale, np.float64)
    rows, columns, entries = rng.permutation(5), rng.permutation(4), rng.permutation(6)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    flip = rng.choice([-1, 1], 5)

    def permute(x: Array, w: Array, u: Array, v: Array, z: Array) -> tuple[Array, ...]:
        u, v = (y[rows][:, columns][..., entries] for y in (u, v))
        return x[rows][:, entries], w[entries][:, columns], u, v, z[rows][:, columns]

    def rotate(x: Array, w: Array, u: Array, v: Array, z: Array) -> tuple[Array, ...]:
        return x @ rotation, rotation.T @ w, u @ rotation, v @ rotation, z

    def transpose(x: Array, w: Array, u: Array, v: Array, z: Array) -> tuple[Array, ...]:
        return w.T, x.T, v.swapaxes(0, 1), u.swapaxes(0, 1), z.T

    def negate(x: Array, w: Array, u: Array, v: Array, z: Array) -> tuple[Array, ...]:
        return flip[:, None] * x, w, flip[:, None, None] * u, v, flip[:, None] * z

    def apply(layer: tuple[Array, ...], settings: dict[str, Pair]) -> tuple[Array, ...]:
        """In the order of the arguments."""
        u, v, x_mean, w_mean, z_change = project_quickly(*layer, **settings, implementation=implementation)
        return as_float64((x_mean, w_mean, u, v, z_change))

    swapped = {name: pair[::-1] for name, pair in settings.items()}
    transforms = ((permute, settings), (rotate, settings), (transpose, swapped), (negate, settings))
    expected = apply(layer, settings)
    for transform, transformed_settings in transforms:
        results = apply(transform(*layer), transformed_settings)
        assert max(relative_errors(results, transform(*expected))) < 1e-13, transform.__name__


def test_feasible_copies_do_not_change(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    """Small integers, whose products do not round."""
    x, w = rng.integers(-2, 3, (BATCH, LENGTH)), rng.integers(-2, 3, (LENGTH, WIDTH))
    u, v = rng.integers(-2, 3, (2, BATCH, WIDTH, LENGTH))
    z = dot(x[:, None] - u, w.T + 2 * v)
    layer = [array.astype(dtype) for array in (x, w, u, v, z)]
    # The first settings are those of the cases above, compiled for every dtype already.
    for keep in ((0.0, 0.0), (1.0, -2.0))[: 2 if dtype == jnp.bfloat16 else 1]:
        new = project(*layer, **CHANGES._replace(keep=keep)._asdict(), implementation=implementation)
        for result, expected in zip(new, (keep[0] * u, keep[1] * v, 0 * x, 0 * w, 0 * z), strict=True):
            np.testing.assert_array_equal(np.asarray(result).astype(np.float64), expected)


def test_finite_results_for_wide_scales(implementation: str, rng: Generator) -> None:
    sizes = 10 ** rng.uniform(-15, 15, (4, 40, 30, 1))
    x, w, z = sizes[0, :, 0] * np.ones(3), (sizes[1, 0] * np.ones(3)).T, sizes[2, :, :, 0]
    u, v = sizes[2:] * rng.normal(size=(2, 40, 30, 3))
    layer = (array.astype(np.float32) for array in (x, w, u, v, rng.choice([-1, 1], z.shape) * z))
    new = project_quickly(*layer, **SETTINGS["unequal"]._asdict(), implementation=implementation)
    assert all(np.isfinite(part).all() for part in new)


@pytest.mark.parametrize("case", ["set-valued, equal", "set-valued, zero"])
def test_set_valued_cases_follow_the_documented_rule(case: str, implementation: str) -> None:
    """The free part lies along the vector of equal entries, positive in the copy of ``x``."""
    layer = case_layer(case, jnp.dtype("float32"))
    a, b = copies(layer, CHANGES.scale)
    new = changes_of(layer, implementation)
    a_change, b_change, z_change = as_float64((new.u, new.v, new.z_change))
    sign = np.where(layer.z > dot(a, b), 1, -1)
    np.testing.assert_allclose(z_change, -sign, rtol=1e-6)
    free = (a + a_change) + sign[..., None] * (b + b_change)
    assert (free > 0).all()
    assert (np.ptp(free, axis=-1) < 1e-5 * free.max(axis=-1)).all()


# Arrays: empty, donated, of several dtypes.


@pytest.mark.parametrize("shape", [(0, 6, 4), (5, 6, 0), (0, 6, 0)])
def test_empty_layers(shape: tuple[int, int, int], implementation: str, rng: Generator) -> None:
    """A batch or a width of zero: no copies, and means of nothing are no change."""
    batch, inner, width = shape
    x, w = rng.normal(size=(batch, inner)), rng.normal(size=(inner, width))
    none = np.zeros((batch, width, inner))
    new = project_quickly(x, w, none, none, np.zeros((batch, width)), implementation=implementation)
    expected = none, none, np.zeros_like(x), np.zeros_like(w), np.zeros((batch, width))
    for result, right in zip(new, expected, strict=True):
        np.testing.assert_array_equal(result, right)


def test_dot_products_of_no_entries_are_zero(implementation: str) -> None:
    z = np.full((3, 5), 0.5)
    nothing = np.zeros((3, 5, 0))
    new = project_quickly(np.zeros((3, 0)), np.zeros((0, 5)), nothing, nothing, z, implementation=implementation)
    np.testing.assert_allclose(new.z_change, -z, atol=1e-12)
    assert [part.shape for part in new[:4]] == [(3, 5, 0), (3, 5, 0), (3, 0), (0, 5)]


project_donated = jax.jit(
    partial(pk.project_dense_copies, **SETTINGS["relaxed Douglas-Rachford"]._asdict()), donate_argnames=("u", "v")
)


@pytest.mark.parametrize("residual", [0.05, 5.0])
def test_donated_deviations_give_the_same_results(residual: float, rng: Generator) -> None:
    """Blocks are written to the arrays that later blocks are read from."""
    settings = SETTINGS["relaxed Douglas-Rachford"]
    layer = random_layer(rng, (37, 500, 11), residual, settings.scale, np.float32)
    kept = project(*layer, **settings._asdict())
    u, v = jnp.array(layer.u), jnp.array(layer.v)
    donated = project_donated(layer.x, layer.w, u, v, layer.z)
    assert u.is_deleted()
    assert v.is_deleted()
    assert max(relative_errors(donated, kept)) < 1e-6


@pytest.mark.parametrize("name", ["Douglas-Rachford", "unequal"])
def test_donated_deviations_are_updated_in_place(name: str) -> None:
    """Memory beside the arguments and results does not grow with the batch, once it is more than a block."""

    def temporaries(batch: int) -> int:
        shapes = ((batch, 100), (100, 20), (batch, 20, 100), (batch, 20, 100), (batch, 20))
        layer = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
        call = partial(pk.project_dense_copies, **SETTINGS[name]._asdict(), implementation="xla")
        analysis = jax.jit(call, donate_argnums=(2, 3)).lower(*layer).compile().memory_analysis()
        assert analysis.alias_size_in_bytes == 2 * 4 * batch * 20 * 100
        return analysis.temp_size_in_bytes

    added_copies = 2 * 4 * (960 - 96) * 20 * 100
    assert temporaries(960) - temporaries(96) < added_copies / 10


def test_results_have_the_dtypes_documented(implementation: str) -> None:
    shapes = {"x": (3, 4), "w": (4, 5), "u": (3, 5, 4), "v": (3, 5, 4), "z": (3, 5)}
    call = partial(pk.project_dense_copies, implementation=implementation)
    for order, wide in (
        (("float32", "float32", "bfloat16", "float16", "float32"), "float32"),
        (("float16", "float16", "float16", "bfloat16", "bfloat16"), "float32"),
        (("float32", "float32", "float16", "float32", "float64"), "float64"),
    ):
        layer = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes.values(), order, strict=True)]
        new = jax.eval_shape(call, *layer)
        assert [part.dtype for part in new] == [*order[2:4], wide, wide, wide]


@pytest.mark.parametrize("name", ["scale", "keep", "gain"])
@pytest.mark.parametrize(
    "value", [1.0, (1.0,), (1.0, 2.0, 3.0), ("1", 1.0), None, (float("nan"), 1.0), (1.0, float("inf"))]
)
def test_settings_are_pairs_of_numbers(name: str, value: object, rng: Generator) -> None:
    layer = random_layer(rng, (3, 4, 5), 1.0, (1.0, 1.0), np.float32)
    with pytest.raises(ValueError, match=rf"^project_dense_copies: {name}(\[[01]\])? is .*two finite numbers"):
        pk.project_dense_copies(*layer, **{name: value})


def test_settings_may_be_traced(rng: Generator) -> None:
    layer = random_layer(rng, (3, 4, 5), 1.0, (1.0, 1.0), np.float32)
    traced = jax.jit(lambda gain: pk.project_dense_copies(*layer, gain=(gain, gain)))(0.75)
    for found, wanted in zip(traced, pk.project_dense_copies(*layer, gain=(0.75, 0.75)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
