"""The projection onto a dense layer: against explicit copies and by its symmetries."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.typing import DTypeLike

import pjax_kernels as pk

from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator
Triple = tuple[Array, Array, Array]

STATIC = ("increments", "implementation", "precision")
project = jax.jit(pk.project_dense, static_argnames=STATIC, compiler_options=AS_FOR_USERS)
project_quickly = jax.jit(pk.project_dense, static_argnames=STATIC)
project_copies = jax.jit(partial(pk.project_bilinear, implementation="reference"))

RESIDUALS = {"nearest": 1 / 64, "nearer": 1 / 16, "near": 1 / 4, "mixed": 0.4, "far": 5.0}
"""Largest ``|z - x w|`` over 1 + |x|^2 + |w|^2: the smaller, the fewer steps a root takes."""

ULPS = 3
"""Rounding errors allowed in the relative error of a change, times the condition of the problem."""


def layer(rng: Generator, batch: int, inner: int, width: int, residual: str, dtype: DTypeLike) -> Triple:
    x = rng.normal(size=(batch, inner)).astype(dtype)
    w = rng.normal(size=(inner, width)).astype(dtype)
    wide_x, wide_w = x.astype(np.float64), w.astype(np.float64)
    scale = 1 + np.sum(wide_x**2, axis=1)[:, None] + np.sum(wide_w**2, axis=0)
    noise = rng.uniform(-1, 1, (batch, width)) * RESIDUALS[residual]
    return x, w, (wide_x @ wide_w + scale * noise).astype(dtype)


def as_float64(arrays: tuple[jax.typing.ArrayLike, ...]) -> Triple:
    return tuple(np.asarray(array).astype(np.float64) for array in arrays)  # type: ignore[return-value]


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def relative_errors(changes: tuple[jax.typing.ArrayLike, ...], expected: Triple) -> list[float]:
    pairs = zip(as_float64(changes), expected, strict=True)
    return [float(np.linalg.norm(change - right) / np.linalg.norm(right)) for change, right in pairs]


def condition(inputs: Triple) -> float:
    """By how much rounding of the products may enlarge the relative error of the changes."""
    x, w, z = as_float64(inputs)
    terms = abs(z) + np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=0)
    return float(1 + np.linalg.norm(terms) / np.linalg.norm(z - x @ w))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_changes_agree_with_mpmath(residual: str, implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    inputs = layer(rng, 5, 4, 3, residual, dtype)
    changes = project(*inputs, increments=True, implementation=implementation)
    errors = relative_errors(changes, oracles.dense_changes(*as_float64(inputs)))
    assert max(errors) < ULPS * compute_eps(dtype) * condition(inputs)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("shape", [(1, 9, 7), (4, 33, 1)])
def test_any_shape(shape: tuple[int, int, int], residual: str, implementation: str, rng: Generator) -> None:
    inputs = layer(rng, *shape, residual, np.float32)
    changes = project(*inputs, increments=True, implementation=implementation)
    errors = relative_errors(changes, oracles.dense_changes(*as_float64(inputs)))
    assert max(errors) < ULPS * compute_eps(np.float32) * condition(inputs)


@pytest.mark.parametrize("residual", ["nearest", "mixed"])
@pytest.mark.parametrize(("shape", "dtype"), [((130, 6, 200), "float32"), ((2, 8, 20_000), "float64")])
def test_layers_larger_than_a_block(
    shape: tuple[int, int, int], residual: str, dtype: DTypeLike, rng: Generator
) -> None:
    """More outputs than are computed at a time, with a batch that the blocks do not divide."""
    inputs = layer(rng, *shape, residual, dtype)
    changes = project(*inputs, increments=True)
    expected = project_quickly(*as_float64(inputs), increments=True, implementation="reference")
    errors = relative_errors(changes, as_float64(expected))
    assert max(errors) < ULPS * compute_eps(dtype) * condition(inputs)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_is_the_mean_of_projected_copies(residual: str, implementation: str, rng: Generator) -> None:
    x, w, z = layer(rng, 7, 5, 6, residual, np.float64)
    copies = np.broadcast_to(x[:, None], (7, 6, 5)), np.broadcast_to(w.T[None], (7, 6, 5))
    x_copies, w_copies, z_new = project_copies(*copies, z)
    expected = x_copies.mean(axis=1), w_copies.mean(axis=0).T, z_new
    for result, right in zip(project_quickly(x, w, z, implementation=implementation), expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-13 * abs(z).max())


@pytest.mark.parametrize("residual", RESIDUALS)
def test_one_dot_product_goes_to_the_nearest_point(residual: str, implementation: str, rng: Generator) -> None:
    """With one row and one column there is one copy, and its mean is the projection itself."""
    x, w, z = as_float64(layer(rng, 1, 6, 1, residual, np.float32))
    new_x, new_w, new_z = as_float64(project_quickly(x, w, z, implementation=implementation))
    np.testing.assert_allclose(new_z, new_x @ new_w, rtol=1e-13)
    distance = np.sum((new_x - x) ** 2) + np.sum((new_w - w) ** 2) + np.sum((new_z - z) ** 2)
    for scale in (1e-4, 1e-2, 1, 100):
        for centre_x, centre_w in ((new_x, new_w), (x, w)):
            sample_x = centre_x + scale * rng.normal(size=(2000, 1, 6))
            sample_w = centre_w + scale * rng.normal(size=(2000, 6, 1))
            samples = zip((sample_x, sample_w, sample_x @ sample_w), (x, w, z), strict=True)
            distances = sum(np.sum((sample - start) ** 2, axis=(1, 2)) for sample, start in samples)
            assert (distances >= distance * (1 - 1e-12)).all()


@pytest.mark.parametrize("gap", [1.0, 0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("sign", [-1, 1])
def test_rows_nearly_equal_to_columns(sign: int, gap: float, dtype: DTypeLike, rng: Generator) -> None:
    """Of ``x - w`` the consensus form has only ``|x|^2 + |w|^2 - 2 x w``, so its rounding grows as the gap closes."""
    column = rng.normal(size=(4, 1))
    x, w = (column + gap * rng.normal(size=(4, 5))).T.astype(dtype), np.tile(sign * column, 3).astype(dtype)
    wide_x, wide_w = x.astype(np.float64), w.astype(np.float64)
    length = np.sum(wide_x**2, axis=1) + np.sum(wide_w[:, 0] ** 2)
    z = (wide_x @ wide_w - sign * (5 + length)[:, None]).astype(dtype)
    changes = project(x, w, z, increments=True, implementation="xla")
    errors = relative_errors(changes, oracles.dense_changes(*as_float64((x, w, z))))
    apart = np.sum((wide_x - sign * wide_w[:, 0]) ** 2, axis=1)
    closeness = float(np.max(length[apart > 0] / apart[apart > 0], initial=1))
    assert max(errors) < ULPS * compute_eps(dtype) * closeness


@pytest.mark.parametrize("scale", [0, 2])
def test_set_valued_dot_products(scale: int, implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    """Columns of ``w`` equal or opposite to every row of ``x``, zero or not, and ``z`` out of reach."""
    row, signs = scale * rng.integers(1, 5, 4), np.array([1, -1, -1])
    x, w = np.tile(row, (5, 1)), np.outer(row, signs)
    z = x @ w - signs * (1 + row @ row) * rng.integers(2, 9, (5, 3))
    inputs = tuple(array.astype(dtype) for array in (x, w, z))
    changes = project(*inputs, increments=True, implementation=implementation)
    errors = relative_errors(changes, oracles.dense_changes(*as_float64(inputs)))
    assert max(errors) < ULPS * compute_eps(dtype)


def test_feasible_layers_stay(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    """Small integers, whose products do not round."""
    x, w = rng.integers(-4, 5, (5, 7)), rng.integers(-4, 5, (7, 3))
    new = project_quickly(*(array.astype(dtype) for array in (x, w, x @ w)), implementation=implementation)
    for result, old in zip(new, (x, w, x @ w), strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(np.asarray(result).astype(int), old)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_symmetries(residual: str, implementation: str, rng: Generator) -> None:
    """Transposed, permuted, rotated and negated layers."""
    x, w, z = layer(rng, 5, 4, 3, residual, np.float64)
    x_change, w_change, z_change = project_quickly(x, w, z, increments=True, implementation=implementation)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    rows, columns = rng.permutation(5), rng.permutation(3)
    signs = rng.choice([-1, 1], 5)[:, None]
    transformed = {
        "transpose": ((w.T, x.T, z.T), (w_change.T, x_change.T, z_change.T)),
        "permute": (
            (x[rows], w[:, columns], z[rows][:, columns]),
            (x_change[rows], w_change[:, columns], z_change[rows][:, columns]),
        ),
        "rotate": ((x @ rotation, rotation.T @ w, z), (x_change @ rotation, rotation.T @ w_change, z_change)),
        "negate rows": ((signs * x, w, signs * z), (signs * x_change, w_change, signs * z_change)),
    }
    for name, (inputs, expected) in transformed.items():
        changes = project_quickly(*inputs, increments=True, implementation=implementation)
        assert max(relative_errors(changes, as_float64(expected))) < 1e-13, name


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("known", [False, True])
def test_transposed_weights(known: bool, residual: str, implementation: str, rng: Generator) -> None:
    x, w, z = layer(rng, 5, 4, 3, residual, np.float64)
    settings: Any = {"increments": True, "implementation": implementation}
    if known:
        settings |= {"residual": z - x @ w}
    expected = pk.project_dense(x, w, z, **settings)
    x_change, w_change, z_change = pk.project_dense(x, w.T, z, transposed=True, **settings)
    assert max(relative_errors((x_change, w_change.T, z_change), as_float64(expected))) < 1e-12
    new = pk.project_dense(x, w.T, z, transposed=True, implementation=implementation)
    assert max(relative_errors((new[0] - x, new[1].T - w, new[2] - z), as_float64(expected))) < 1e-9


def test_derivatives_with_transposed_weights(rng: Generator) -> None:
    x, w, z = layer(rng, 5, 4, 3, "near", np.float64)

    def total(w: Any, transposed: bool) -> Any:
        return sum(jnp.sum(new**2) for new in pk.project_dense(x, w, z, transposed=transposed))

    np.testing.assert_allclose(jax.grad(total)(w.T, True).T, jax.grad(total)(w, False), rtol=1e-10)


@pytest.mark.parametrize("precision", ["highest", "default", lax.Precision.HIGH])
def test_takes_every_precision(precision: lax.PrecisionLike, rng: Generator) -> None:
    inputs = layer(rng, 5, 4, 3, "mixed", np.float32)
    jaxpr = jax.make_jaxpr(lambda *arrays: pk.project_dense(*arrays, precision=precision))(*inputs)
    expected = jax.make_jaxpr(lambda x, w: jnp.matmul(x, w, precision=precision))(*inputs[:2]).eqns[0]
    assert precisions(jaxpr) == [expected.params["precision"]] * 3


def precisions(jaxpr: Any) -> list[Any]:
    """Of all matrix products outside loops; one that is chosen by platform has the same in every branch."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        elif equation.primitive.name == "cond":
            branches = [precisions(branch.jaxpr) for branch in equation.params["branches"]]
            assert all(branch == branches[0] for branch in branches)
            found += branches[0]
        elif equation.primitive.name in ("custom_jvp_call", "jit"):  # newer JAX wraps the one in the other
            inner = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
            found += precisions(getattr(inner, "jaxpr", inner))
    return found
