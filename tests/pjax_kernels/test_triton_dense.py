"""The Triton kernels of ``project_dense``, interpreted: the cases and bounds of :mod:`test_dense`."""

import jax
import numpy as np
import pytest
from jax import lax
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import blocks, gpu

from . import oracles
from .test_dense import (
    RESIDUALS,
    ULPS,
    Generator,
    Triple,
    as_float64,
    compute_eps,
    condition,
    layer,
    project,
    project_quickly,
    relative_errors,
)

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")

Array = np.ndarray


def check(inputs: Triple, expected: Triple, precision: str = "highest") -> None:
    changes = project(*inputs, increments=True, precision=precision, implementation="triton")
    errors = relative_errors(changes, expected)
    assert max(errors) < ULPS * compute_eps(inputs[0].dtype) * condition(inputs)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_changes_agree_with_mpmath(residual: str, precision: str, rng: Generator) -> None:
    inputs = layer(rng, 5, 4, 3, residual, np.float32)
    check(inputs, oracles.dense_changes(*as_float64(inputs)), precision)


def test_every_dtype_agrees_with_mpmath(dtype: DTypeLike, rng: Generator) -> None:
    inputs = layer(rng, 5, 4, 3, "mixed", dtype)
    check(inputs, oracles.dense_changes(*as_float64(inputs)), "high")


@pytest.mark.parametrize("shape", [(1, 9, 7), (66, 40, 1), (3, 5, 130)])
def test_any_shape(shape: tuple[int, int, int], rng: Generator) -> None:
    """Several tiles, and several terms of a product at a time; no multiples."""
    inputs = layer(rng, *shape, "mixed", np.float32)
    expected = as_float64(project_quickly(*as_float64(inputs), increments=True, implementation="reference"))
    for precision in ("highest", "high"):
        check(inputs, expected, precision)


def test_blocks_come_from_the_table(
    launches: list[gpu.Launch], monkeypatch: pytest.MonkeyPatch, rng: Generator
) -> None:
    sizes = {"TILE": 128, "ENTRIES": 512, "INNER": 16, "num_warps": 8, "num_stages": 3}
    shape = [1, 256, 4, 8]
    entry = {"chip": gpu.chip(), "kernel": "dense", "numbers": "tf32x3", "shape": shape, "blocks": sizes}
    monkeypatch.setattr(blocks, "table", lambda: [entry])
    inputs = layer(rng, 130, 3, 6, "near", np.float32)
    expected = project_quickly(*as_float64(inputs), increments=True, implementation="reference")
    check(inputs, as_float64(expected), "high")
    (launch,) = launches
    assert (launch.constants["LAYER"].TILE, launch.constants["INNER"], launch.num_warps) == (128, 16, 8)


def test_set_valued_dot_products(rng: Generator) -> None:
    """Columns of ``w`` equal or opposite to every row of ``x``, zero or not, and ``z`` out of reach."""
    row, signs = 2 * rng.integers(1, 5, 4), np.array([1, -1, 1, -1, -1])
    x, w = np.tile(row, (3, 1)), np.outer(row, signs)
    z = x @ w - signs * (1 + row @ row) * rng.integers(2, 9, (3, 5))
    inputs = x.astype(np.float32), w.astype(np.float32), z.astype(np.float32)
    changes = project(*inputs, increments=True, implementation="triton")
    errors = relative_errors(changes, oracles.dense_changes(*as_float64(inputs)))
    assert max(errors) < ULPS * compute_eps(np.float32)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 4, 0), (3, 0, 5)])
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_empty_layers(shape: tuple[int, int, int], precision: str) -> None:
    batch, length, width = shape
    x, w, z = (np.full(shape, 0.5, np.float32) for shape in ((batch, length), (length, width), (batch, width)))
    changes = project(x, w, z, increments=True, precision=precision, implementation="triton")
    for change, expected in zip(changes, (0 * x, 0 * w, -z), strict=True):
        np.testing.assert_allclose(change, expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_equal_layers_are_one_launch_under_vmap(precision: str, launches: list[gpu.Launch], rng: Generator) -> None:
    layers = [layer(rng, 5, 4, 3, "mixed", np.float32) for _ in range(3)]
    stacked = [np.stack(arrays) for arrays in zip(*layers, strict=True)]

    def project_layer(x: Array, w: Array, z: Array) -> tuple[jax.Array, ...]:
        return pk.project_dense(x, w, z, increments=True, precision=precision, implementation="triton")

    changes = jax.vmap(project_layer)(*stacked)
    assert [launch.grid for launch in launches if launch.grid[1] > 1] == [(1, 3)]
    for i, inputs in enumerate(layers):
        expected = project(*inputs, increments=True, implementation="xla")
        assert max(relative_errors([change[i] for change in changes], as_float64(expected))) < 1e-6


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
@pytest.mark.parametrize(
    ("precision", "dtype", "product"),
    [
        ("highest", "float32", None),
        ("high", "float32", {"cuda": "tf32x3", "rocm": "bf16x6"}),
        (lax.Precision.DEFAULT, "float32", {"cuda": "tf32", "rocm": "bf16x3"}),
        (None, "float32", None),
        (lax.DotAlgorithmPreset.TF32_TF32_F32_X3, "float32", None),
        ("high", "float64", None),
    ],
)
def test_precision_decides_who_multiplies(
    precision: lax.PrecisionLike,
    dtype: str,
    product: dict[str, str] | None,
    platform: str,
    monkeypatch: pytest.MonkeyPatch,
    launches: list[gpu.Launch],
) -> None:
    monkeypatch.setattr(gpu, "platform", lambda: platform)
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((5, 4), (4, 3), (5, 3))]
    jax.eval_shape(lambda *arrays: pk.project_dense(*arrays, precision=precision, implementation="triton"), *shapes)
    (launch,) = launches
    assert launch.constants.get("PRECISION") == (product and product[platform])
