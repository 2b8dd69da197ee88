"""A residual that is known: the same projection, and no loss where it is far below the rounding of the output."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from ..compilations import compilations

Array = np.ndarray
Generator = np.random.Generator
Shapes = Sequence[tuple[int, ...]]


def levels(x: Any) -> Any:
    grid = jnp.linspace(-1, 1, 5)
    return grid[jnp.argmin(jnp.abs(x[..., None] - grid), axis=-1)].astype(x.dtype)


def deviations(*numbers: Any, add: float) -> Any:
    """Of copies from ``x`` and ``w``: small multiples of these, with ``add`` on each one's own coefficient."""
    of_x, of_w, of_both = (1e-12 * number for number in numbers)
    return ((of_x + add,), (of_both,)), ((of_w,), (of_both + add,))


def dense_copies(*arrays: Any, increments: bool = True, **settings: Any) -> Any:
    """With deviations as small as the residuals that must not be lost."""
    assert increments
    return pk.project_dense_copies(*arrays, scale=(1e-12, -1e-12), **settings)


def factored(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """With such deviations too, which are coefficients of the copies themselves where no residual is known."""

    def project(x: Any, w: Any, *numbers: Any, increments: bool = True, **settings: Any) -> Any:
        assert increments
        *coefficients, z = numbers
        u, v = deviations(*coefficients, add=0 if "residual" in settings else 1)
        return kernel([x], [w], u, v, z, **settings)

    return project


KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "bilinear": (pk.project_bilinear, lambda a, b: jnp.sum(a * b, -1), [(6, 5), (6, 5)]),
    "dense": (pk.project_dense, jnp.matmul, [(6, 5), (5, 4)]),
    "map": (lambda *a, **k: pk.project_bilinear_map(jnp.matmul, *a, **k), jnp.matmul, [(6, 5), (5, 4)]),
    "dense copies": (dense_copies, lambda x, w, u, v: x @ w, [(6, 5), (5, 4), (6, 4, 5), (6, 4, 5)]),
    "dense factored": (
        factored(pk.project_dense_factored),
        lambda x, w, *_: x @ w,
        [(6, 5), (5, 4), (6, 4), (6, 4), (6, 4)],
    ),
    "map factored": (
        factored(functools.partial(pk.project_bilinear_map_factored, jnp.matmul)),
        lambda x, w, *_: x @ w,
        [(6, 5), (5, 4), (6, 4), (6, 4), (6, 4)],
    ),
    "conv": (
        pk.project_conv2d,
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")),
        [(2, 4, 4, 2), (3, 3, 2, 3)],
    ),
    "recurrence": (
        pk.project_recurrence,
        lambda x, h, w, u: x @ w + h @ u,
        [(2, 3, 4), (2, 3, 5), (4, 5), (5, 5)],
    ),
    "sum": (lambda *a, **k: pk.project_sum(a[:-1], a[-1], **k), lambda x, y: x + y, [(6, 5), (5,)]),
    "sum over": (lambda *a, **k: pk.project_sum_over(*a, axis=1, **k), lambda x: jnp.sum(x, 1), [(6, 5)]),
    "sum_relu": (
        lambda *a, **k: pk.project_sum_relu(a[:-1], a[-1], **k),
        lambda x, y: jnp.maximum(x + y, 0),
        [(6, 5), (5,)],
    ),
    "max": (pk.project_max, lambda x: jnp.max(x, -1), [(6, 5)]),
    "min": (pk.project_min, lambda x: jnp.min(x, -1), [(6, 5)]),
    "max pool": (
        lambda *a, **k: pk.project_max_pool(*a, window=(2, 2), **k),
        lambda x: jnp.max(x.reshape(2, 2, 2, 2, 2, 3), axis=(2, 4)),
        [(2, 4, 4, 3)],
    ),
    "relaxed": (lambda *a, **k: pk.project_quantize(*a, levels=5, scale=1.0, relaxed=True, **k), levels, [(6, 5)]),
    "quantize": (lambda *a, **k: pk.project_quantize(*a, levels=5, scale=1.0, **k), levels, [(6, 5)]),
}


TRITON = ("bilinear", "dense", "dense copies", "dense factored", "recurrence", "max", "min", "max pool")
"""With a kernel for GPUs."""


def problem(rng: Generator, name: str, shapes: Shapes, dtype: DTypeLike, size: float) -> tuple[list[Array], Array]:
    """Inputs and estimates of their output, of a dtype, and what these have beyond it, of about that size.

    Deviations and coefficients are of the dtype that is computed in.  So is the residual: that of the estimates before
    they are rounded, or, where it is large, as they are.
    """
    wide = np.promote_types(dtype, np.float32)
    dtypes = [dtype, dtype, wide, wide, wide] if name in ("dense copies", "dense factored") else [dtype] * len(shapes)
    inputs = [rng.normal(size=shape).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=False)]
    output = np.asarray(KERNELS[name][1](*(jnp.asarray(array, np.float64) for array in inputs)))
    residual = (size * rng.normal(size=output.shape)).astype(wide)
    z = (output + residual).astype(dtype)
    return [*inputs, z], residual if size < 1 else (z.astype(np.float64) - output).astype(wide)


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Each in the error of the change, relative to its size."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = np.linalg.norm(np.asarray(one, np.float64) - np.asarray(other))
        assert error <= tolerance * np.linalg.norm(other)


@pytest.fixture(params=["reference", "xla", "triton"])
def implementation(request: pytest.FixtureRequest) -> str:
    if request.param == "triton":
        if request.getfixturevalue("name") not in TRITON:
            pytest.skip("there is no Triton kernel")
        pytest.importorskip("triton")
        request.getfixturevalue("triton_interpreted")
    return request.param


@pytest.fixture(params=KERNELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(name: str, rng: Generator) -> tuple[Callable[..., Any], Any, Any]:
    """The kernel, its inputs, and the output that follows from these, all exact in float32."""
    kernel, forward, shapes = KERNELS[name]
    inputs = [np.float64(np.float32(rng.normal(size=shape))) for shape in shapes]
    return kernel, inputs, np.asarray(forward(*map(jnp.asarray, inputs)))


@functools.cache
def projection(name: str, implementation: str) -> Callable[..., Any]:
    """Compiled once for all tests."""
    return jax.jit(functools.partial(KERNELS[name][0], increments=True, implementation=implementation))


def test_is_the_difference(name: str, case: Any, implementation: str, rng: Generator) -> None:
    _, inputs, output = case
    residual = rng.normal(size=output.shape)
    project = projection(name, implementation)
    expected = project(*inputs, output + residual)
    found = project(*inputs, output + residual, residual=residual)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_small_ones_are_not_lost(name: str, case: Any, implementation: str, rng: Generator) -> None:
    """1e-12 of the output, in float32: the changes are those of float64, which still resolves it, to first order."""
    _, inputs, output = case
    residual = 1e-12 * rng.normal(size=output.shape)
    project = projection(name, implementation)
    expected = project(*inputs, output + residual, residual=residual)
    narrow = [np.float32(array) for array in (*inputs, output + residual)]
    found = project(*narrow, residual=np.float32(residual))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-17)


# The formula of a kernel's derivative serves all of its implementations.
DIFFERENTIATED = [*((name, "xla") for name in KERNELS), *((name, "reference") for name in list(KERNELS)[::3])]
DIFFERENTIATED += [(name, "triton") for name in TRITON[::3]]


@pytest.mark.parametrize(("name", "implementation"), DIFFERENTIATED, indirect=True)
def test_derivatives_do_not_change(name: str, case: Any, implementation: str, rng: Generator) -> None:
    kernel, inputs, output = case
    z = output + rng.normal(size=output.shape)
    forward = KERNELS[name][1]
    project = functools.partial(kernel, increments=True, implementation=implementation)
    direction = [rng.normal(size=array.shape) for array in (*inputs, z)]

    def told(*arrays: Any) -> Any:
        *inputs, z = arrays
        return project(*inputs, z, residual=z - forward(*inputs))

    @jax.jit
    def along(*direction: Any) -> Any:
        return [jax.jvp(function, (*inputs, z), direction)[1] for function in (told, project)]

    for found, expected in zip(*map(jax.tree.leaves, along(*direction)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


def test_a_second_call_compiles_nothing(case: Any) -> None:
    kernel, inputs, output = case
    kernel(*inputs, output, residual=output)
    with compilations() as seen:
        kernel(*inputs, output, residual=-output)
    assert seen == []


def test_its_shape_is_that_of_the_output(case: Any) -> None:
    kernel, inputs, output = case
    with pytest.raises(ValueError, match="residual has shape"):
        kernel(*inputs, output, residual=np.zeros((*output.shape, 2)))


def test_changes_are_of_the_dtype_of_the_values(case: Any) -> None:
    """Whatever that of the residual is."""
    kernel, inputs, output = case
    project = functools.partial(kernel, increments=True, residual=output)
    changes = jax.eval_shape(project, *map(np.float32, (*inputs, output)))
    assert {change.dtype.name for change in jax.tree.leaves(changes)} == {"float32"}


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="from jax 0.11 on a loop's body is lowered at each call")
def test_equal_calls_share_the_search_for_far_roots() -> None:
    arrays = jnp.ones(5), jnp.ones(5), jnp.ones(()), jnp.ones(())

    def lines(count: int) -> int:
        def calls(a: Any, b: Any, z: Any, residual: Any) -> Any:
            return [pk.project_bilinear(k * a, b, z, residual=residual, increments=True) for k in range(count)]

        return jax.jit(calls).lower(*arrays).as_text().count("\n")

    assert lines(3) - lines(2) == lines(2) - lines(1) < 0.7 * lines(1)
