"""Triton kernels that are told a residual, interpreted, beside the textbook in float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import gpu

from .test_dense_factored import Layer, combinations
from .test_residual import KERNELS, TRITON, Array, Generator, Shapes, assert_close, problem

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")

ODD: dict[str, Shapes] = {
    "bilinear": [(3, 8193), (3, 8193)],
    "dense": [(66, 40), (40, 7)],
    "dense copies": [(3, 17), (17, 5), (3, 5, 17), (3, 5, 17)],
    "recurrence": [(3, 23, 35), (3, 23, 9), (35, 9), (9, 9)],
    "max": [(3, 3000)],
}
"""Long rows, and several tiles, of no multiples of anything."""


def check(name: str, shapes: Shapes, dtype: DTypeLike, size: float, rng: Generator, tolerance: float) -> None:
    arrays, residual = problem(rng, name, shapes, dtype, size)
    wide = [np.asarray(array, np.float64) for array in (*arrays, residual)]
    found = KERNELS[name][0](*arrays, residual=residual, increments=True, implementation="triton")
    assert_close(found, textbook(name)(*wide[:-1], residual=wide[-1]), tolerance)


@functools.cache
def textbook(name: str) -> Callable[..., Any]:
    """Compiled once for all tests."""
    return jax.jit(functools.partial(KERNELS[name][0], increments=True, implementation="reference"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", TRITON)
def test_tiny_ones_of_values_of_any_dtype(name: str, dtype: str, rng: Generator) -> None:
    check(name, KERNELS[name][2], jnp.dtype(dtype), 1e-7, rng, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-11)])
@pytest.mark.parametrize("name", TRITON)
def test_those_of_far_roots(name: str, dtype: str, tolerance: float, rng: Generator) -> None:
    check(name, KERNELS[name][2], jnp.dtype(dtype), 30.0, rng, tolerance)


@pytest.mark.parametrize("size", [1e-7, 1000.0])
@pytest.mark.parametrize("name", ODD)
def test_odd_sizes(name: str, size: float, rng: Generator) -> None:
    check(name, ODD[name], np.float32, size, rng, 1e-5)


@pytest.mark.parametrize("name", ["bilinear", "dense", "dense copies", "recurrence"])
def test_zero_operands_take_the_free_part(name: str, rng: Generator) -> None:
    """Set-valued: the residual alone says how far the estimate is out of reach."""
    arrays, residual = problem(rng, name, KERNELS[name][2], np.float32, 0.0)
    inputs, residual = [0 * array for array in arrays[:-1]], residual + rng.choice([-5, 5], residual.shape)
    project = functools.partial(KERNELS[name][0], increments=True)
    found = project(*inputs, residual, residual=residual, implementation="triton")
    assert_close(found, project(*map(np.float64, inputs), residual, residual=residual, implementation="xla"), 1e-5)


@pytest.mark.parametrize("name", TRITON)
def test_one_that_is_no_number_stays_in_its_output(name: str, rng: Generator) -> None:
    arrays, residual = problem(rng, name, KERNELS[name][2], np.float32, 0.3)
    residual.ravel()[4] = np.nan
    found = KERNELS[name][0](*arrays, residual=residual, increments=True, implementation="triton")
    z_change = found.z_change if isinstance(found, pk.FactoredChanges) else found[-1]
    np.testing.assert_array_equal(np.isnan(z_change), np.isnan(residual))


@pytest.mark.parametrize("name", ["bilinear", "max", "max pool"])
def test_new_values(name: str, rng: Generator) -> None:
    """These have nothing of the estimate but the residual."""
    arrays, residual = problem(rng, name, KERNELS[name][2], np.float16, 0.3)
    project = functools.partial(KERNELS[name][0], residual=residual, implementation="triton")
    for new, old, change in zip(project(*arrays), arrays, project(*arrays, increments=True), strict=True):
        np.testing.assert_array_equal(new, (old + change).astype(np.float16))


def factored_layer(rng: Generator, counts: tuple[int, int], kind: str, size: float) -> tuple[Layer, Array]:
    """With coefficients of ``size``, beside the first operands, and a residual of that size."""
    batch, length, width = 17, 33, 35
    x, w = ([rng.normal(size=shape) for _ in range(n)] for n, shape in zip(counts, [(17, 33), (33, 35)], strict=True))
    u, v = (next(of_one) for of_one in [combinations(rng, (batch, length, width), counts, kind)] * 2)
    narrow = [np.float32(array) for array in (*x, *w)]
    x, w = tuple(narrow[: counts[0]]), tuple(narrow[counts[0] :])
    u, v = jax.tree.map(lambda c: c if isinstance(c, float) else np.float32(size * c), (u, v))
    residual = np.float32(size * rng.normal(size=(batch, width)))
    output = np.float64(x[0]) @ np.float64(w[0])
    return Layer(x, w, u, v, np.float32(output + residual)), residual


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize(
    ("counts", "kind", "size"), [((1, 2), "both", 0.3), ((4, 4), "arrays", 1e-7), ((3, 2), "arrays", 3.0)]
)
def test_several_operands(counts: tuple[int, int], kind: str, size: float, precision: str, rng: Generator) -> None:
    """Coefficients that are numbers, arrays, or both; tiny and large."""
    layer, residual = factored_layer(rng, counts, kind, size)
    found = pk.project_dense_factored(*layer, residual=residual, precision=precision, implementation="triton")
    wide = jax.tree.map(lambda leaf: leaf if isinstance(leaf, float) else np.float64(leaf), layer)
    expected = pk.project_dense_factored(*wide, residual=np.float64(residual), implementation="xla")
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_a_dense_layer_forms_no_product(precision: str, launches: list[gpu.Launch]) -> None:
    def project(x: Any, w: Any, z: Any, residual: Any) -> Any:
        options: dict[str, Any] = {"precision": precision, "implementation": "triton", "increments": True}
        return pk.project_dense(x, w, z, residual=residual, **options)

    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((5, 6), (6, 7), (5, 7), (5, 7))]
    program = str(jax.make_jaxpr(project)(*shapes))
    assert program.count("dot_general") == 2
    assert [launch.kernel.__name__ for launch in launches] == ["_solve"]


@pytest.mark.parametrize("name", ["bilinear", "dense", "recurrence", "max", "max pool"])
def test_several_are_one_launch_under_vmap(name: str, launches: list[gpu.Launch], rng: Generator) -> None:
    several = [problem(rng, name, KERNELS[name][2], np.float32, 0.3) for _ in range(2)]
    stacked = jax.tree.map(lambda *lanes: np.stack(lanes), *several)
    project: Callable[..., Any] = functools.partial(KERNELS[name][0], increments=True, implementation="triton")
    found = jax.vmap(lambda arrays, residual: project(*arrays, residual=residual))(*stacked)
    assert launches[-1].arrays[-1].size == several[0][1].size * len(several)
    for k, (arrays, residual) in enumerate(several):
        assert_close([change[k] for change in found], project(*arrays, residual=residual), 1e-6)


@pytest.mark.parametrize("name", ["dense", "dense copies", "recurrence", "max"])
def test_empty_batches(name: str, rng: Generator) -> None:
    shapes = [(0, *shape[1:]) if i == 0 or len(shape) == 3 else shape for i, shape in enumerate(KERNELS[name][2])]
    arrays, residual = problem(rng, name, shapes, np.float32, 0.3)
    found = KERNELS[name][0](*arrays, residual=residual, increments=True, implementation="triton")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
