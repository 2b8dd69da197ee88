"""The Triton kernels of ``project_dense_factored``, interpreted: cases and bounds of :mod:`test_dense_factored`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import gpu

from .test_dense_factored import (
    SET_VALUED,
    SHAPE,
    Generator,
    Layer,
    case,
    check,
    compute_eps,
    copies_of,
    dot,
    oracle,
    project_copies,
    random_layer,
)

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")

ULPS = 2


def project(layer: Layer, precision: str) -> pk.FactoredChanges:
    return pk.project_dense_factored(*layer, precision=precision, implementation="triton")


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("residual", ["near", "mixed", "far"])
@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (3, 2)])
def test_changes_agree_with_mpmath(counts: tuple[int, int], residual: str, precision: str) -> None:
    """Coefficients that are numbers, arrays, or both."""
    layer, expected = case(counts, residual)
    check(project(layer, precision), layer, expected, ULPS, compute_eps(np.float32))


def test_every_dtype(dtype: DTypeLike, rng: Generator) -> None:
    coefficient_dtype = {"float16": "bfloat16", "bfloat16": "float32"}.get(dtype.name, dtype)
    layer = random_layer(rng, SHAPE, (2, 1), "both", "mixed", dtype, coefficient_dtype)
    check(project(layer, "high"), layer, oracle(layer), ULPS, compute_eps(dtype))


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_several_tiles_and_terms_of_a_history_of_three(precision: str, rng: Generator) -> None:
    layer = random_layer(rng, (17, 33, 35), (4, 4), "both", "mixed", np.float32)
    check(project(layer, precision), layer, project_copies(layer), ULPS, compute_eps(np.float32))


@pytest.mark.parametrize("name", SET_VALUED)
def test_set_valued_dot_products_leave_out_the_free_part(name: str, rng: Generator) -> None:
    make, _ = SET_VALUED[name]
    layer = make(rng)
    found = project(layer, "high")
    expected = pk.project_dense_factored(*layer, implementation="xla")
    assert expected.squared_free > 0
    for change, right in zip(found, expected, strict=True):
        assert jax.tree.structure(change) == jax.tree.structure(right)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), change, right)


def test_feasible_copies_do_not_change(rng: Generator) -> None:
    layer = SET_VALUED["equal_arrays"][0](rng)
    a, b = copies_of(layer)
    found = project(layer._replace(z=dot(a, b).astype(np.float32)), "high")
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("shape", [(0, 6, 4), (5, 6, 0), (5, 0, 4)])
def test_empty_layers(shape: tuple[int, int, int], precision: str, rng: Generator) -> None:
    layer = random_layer(rng, shape, (2, 1), "both", "far", np.float32)
    found, expected = project(layer, precision), pk.project_dense_factored(*layer, implementation="xla")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_equal_layers_are_one_launch_under_vmap(precision: str, launches: list[gpu.Launch], rng: Generator) -> None:
    layers = [random_layer(rng, SHAPE, (2, 1), "arrays", "mixed", np.float32) for _ in range(3)]
    stacked = jax.tree.map(lambda *lanes: np.stack(lanes), *layers)
    found = jax.vmap(partial(project, precision=precision))(stacked)
    assert [launch.grid for launch in launches if launch.grid[1] > 1] == [(1, 3)]
    for k, layer in enumerate(layers):
        check(jax.tree.map(lambda x, k=k: x[k], found), layer, oracle(layer), ULPS, compute_eps(np.float32))


@pytest.mark.parametrize(
    ("precision", "dtype", "product"),
    [
        ("highest", "float32", None),
        ("high", "float32", "tf32x3"),
        ("default", "float32", "tf32"),
        ("high", "float64", None),
    ],
)
def test_precision_decides_who_multiplies(
    precision: str, dtype: str, product: str | None, launches: list[gpu.Launch], rng: Generator
) -> None:
    layer = random_layer(rng, SHAPE, (2, 2), "arrays", "near", dtype)
    jax.eval_shape(partial(project, precision=precision), layer)
    (launch,) = launches
    assert launch.constants.get("PRECISION") == product


def test_too_many_pairs_are_refused(rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (4, 5), "numbers", "near", np.float32)
    with pytest.raises(NotImplementedError, match="'triton' cannot run here: .* 20 pairs .* takes 16"):
        project(layer, "highest")
    assert pk.project_dense_factored(*layer).z_change.shape == layer.z.shape


def test_coefficients_of_a_dtype_that_the_kernel_does_not_take(rng: Generator) -> None:
    layer = random_layer(rng, SHAPE, (1, 1), "arrays", "near", np.float32)
    narrow = layer.u._replace(w=(jnp.asarray(layer.u.w[0], jnp.float8_e5m2),))
    with pytest.raises(NotImplementedError, match="coefficient 1 has dtype float8_e5m2"):
        project(layer._replace(u=narrow), "highest")


def test_numbers_stay_numbers_where_the_platform_decides(rng: Generator) -> None:
    """Compiled for the CPU beside a GPU: what is zero for u and v does not change."""
    layer = random_layer(rng, SHAPE, (2, 1), "arrays", "near", np.float32)
    numbers = pk.Combination((1.0, 0.0), (0.0,)), pk.Combination((0.0, 0.0), (1.0,))
    found = pk.project_dense_factored(layer.x, layer.w, *numbers, layer.z)
    expected = pk.project_dense_factored(layer.x, layer.w, *numbers, layer.z, implementation="xla")
    assert (found.u.x[1], found.v.x[1]) == (0.0, 0.0)
    assert isinstance(found.u.x[1], float)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, expected)
