"""One bad row stays one bad row, and nothing is promoted on the way: every kernel whose rows stand apart."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

from .cases import cases
from .test_transformations import KERNELS, case, lane

Array = np.ndarray
Inputs = tuple[Array, ...]

IMPLEMENTATIONS = ["reference", "xla"]
BAD: dict[str, list[float]] = {
    "NaN": [np.nan, 1, 2],
    "inf": [np.inf, 1, 2],
    "-inf": [-np.inf, 1, 2],
    "all -inf": [-np.inf] * 3,
    "overflowing difference": [2e38, -2e38, 0],
    "tiny": [1e-38, -1e-38, 0],
}


def rows(kernel: str, rng: np.random.Generator) -> Inputs:
    """Four rows of three entries, and what belongs to them."""
    x, y, z = rng.normal(size=(3, 4, 3))
    labels = np.eye(3)[[0, 1, 2, 0]]
    return {
        "project_bilinear": (x, y, z[:, 0]),
        "project_max": (x, z[:, 0]),
        "project_max_pool": (x[:, None, :, None], z[:, :1, None, None]),
        "project_sum": (x, y, z),
        "project_sum_over": (x, z[:, 0]),
        "project_sum_relu": (x, y, z),
        "project_quantize": (x, y),
        "project_threshold": (x, y, z[:, 0]),
        "project_margin": (x, labels),
        "prox_cross_entropy": (x, labels),
    }[kernel]


CALLS: dict[str, Callable[..., Any]] = {
    "project_bilinear": pk.project_bilinear,
    "project_max": pk.project_max,
    "project_max_pool": lambda x, z, **options: pk.project_max_pool(x, z, window=(1, 3), **options),
    "project_sum": lambda x, y, z, **options: pk.project_sum((x, y), z, **options),
    "project_sum_over": lambda x, z, **options: pk.project_sum_over(x, z, axis=1, **options),
    "project_sum_relu": lambda x, y, z, **options: pk.project_sum_relu((x, y), z, **options),
    "project_quantize": lambda x, z, **options: pk.project_quantize(x, z, levels=4, scale=1.0, **options),
    "project_threshold": lambda a, b, z, **options: pk.project_threshold(a, b, z, margin=1.5, **options),
    "project_margin": pk.project_margin,
    "prox_cross_entropy": pk.prox_cross_entropy,
}


ON_DEVICES = {
    "triton": ["project_bilinear", "project_max", "project_max_pool", "project_threshold"],
    "tpu": ["project_bilinear", "project_max_pool", "project_sum_relu"],
}
"""Kernels of rows with an implementation of their own, here in its interpreter."""

BY_IMPLEMENTATION = [
    (kernel, implementation, dtype)
    for implementation, kernels in ({"reference": CALLS, "xla": CALLS} | ON_DEVICES).items()
    for kernel in kernels
    for dtype in ("bfloat16", "float32", "float64")
    if (implementation, dtype) != ("tpu", "float64")  # which TPUs do not have
]


@pytest.fixture
def interpreted(implementation: str, request: pytest.FixtureRequest) -> None:
    """Implementations for devices run, interpreted."""
    if implementation in ON_DEVICES:
        request.getfixturevalue(f"{implementation}_interpreted")


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("kernel", "implementation", "dtype"), BY_IMPLEMENTATION)
def test_one_bad_row_stays_one_bad_row(kernel: str, implementation: str, dtype: str, rng: np.random.Generator) -> None:
    """Of four rows for every argument the third has it bad; the others come out as if it were not bad."""
    call = jax.jit(lambda *arrays: CALLS[kernel](*arrays, implementation=implementation))
    arrays = [array.astype(jnp.dtype(dtype)) for array in rows(kernel, rng)]
    arrays = [np.concatenate([array] * len(arrays)) for array in arrays]
    spoilt = range(2, len(arrays[0]), 4)
    expected = jax.tree.leaves(call(*arrays))
    for kind, values in BAD.items():
        bad = [array.copy() for array in arrays]
        for row, array in zip(spoilt, bad, strict=True):
            array[row] = np.resize(np.array(values), array[row].shape)
        for result, right in zip(jax.tree.leaves(call(*bad)), expected, strict=True):
            others = (np.delete(np.asarray(y).astype(np.float64), spoilt, axis=0) for y in (result, right))
            np.testing.assert_allclose(*others, rtol=1e-6, atol=1e-6, err_msg=kind)


def cross_entropy(logits: Any, labels: Any, implementation: str, dtype: str = "float32", **options: Any) -> Array:
    logits, labels = (np.asarray(array).astype(jnp.dtype(dtype)) for array in (logits, labels))
    new = pk.prox_cross_entropy(logits, labels, implementation=implementation, **options)
    return np.asarray(new).astype(np.float64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_masked_classes_stay_and_change_nothing(implementation: str, dtype: str) -> None:
    logits = np.array([[1, -np.inf, 2], [-np.inf, 0.5, -3]])
    labels = np.eye(3)[[0, 1]]
    new = cross_entropy(logits, labels, implementation, dtype)
    assert (new[[0, 1], [1, 0]] == -np.inf).all()
    for row, kept in enumerate(([0, 2], [1, 2])):
        alone = cross_entropy(logits[row : row + 1, kept], labels[row : row + 1, kept], implementation, dtype)
        np.testing.assert_allclose(new[row, kept], alone[0], rtol=1e-6)
    changes = cross_entropy(logits, labels, implementation, dtype, increments=True)
    assert (changes[[0, 1], [1, 0]] == 0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_label_at_a_masked_class_makes_its_row_nan(implementation: str) -> None:
    new = cross_entropy([[1, -np.inf, 2], [1, 0, 2]], np.eye(3)[[1, 1]], implementation)
    assert np.isnan(new[0]).all()
    assert np.isfinite(new[1]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_without_labels_stay(implementation: str, dtype: str) -> None:
    logits = np.array([[0, 0, 0], [1, -2, 40], [1, -np.inf, 2], [1, 2, 3]])
    labels = np.array([[0, 0, 0]] * 3 + [[0, 0, 1]])
    new = cross_entropy(logits, labels, implementation, dtype)
    np.testing.assert_array_equal(new[:3], logits[:3])
    assert (new[3] != logits[3]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_strict_dtype_and_rank_promotion(
    kernel: str, implementation: str, dtype: str, rng: np.random.Generator
) -> None:
    """Users may forbid both in their own programs."""
    inputs = lane(case(kernel, jnp.dtype(dtype), rng), 0)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda *arrays: KERNELS[kernel][0](*arrays, implementation=implementation), *inputs)


SAMPLES = {
    "project_dense": ((0, 2), (0, 2)),
    "project_dense_copies": ((0, 2, 3, 4), (0, 1, 2, 4)),
    "project_conv2d": ((0, 2), (0, 2)),
    "project_recurrence": ((0, 1, 4), (0, 1, 4)),
    "project_bilinear_map": ((0, 1, 2), (0, 1, 2)),
    "project_threshold_dense": ((0, 2), (0, 2)),
}
"""Of dot products: which arrays and which results have a row for each sample, whose weights all share."""

OF_SAMPLES = [(kernel, implementation) for kernel in SAMPLES for implementation in IMPLEMENTATIONS] + [
    (kernel, device) for kernel in ("project_dense", "project_recurrence") for device in ON_DEVICES
]
OF_SAMPLES += [("project_dense_copies", "triton"), ("project_threshold_dense", "triton")]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("kernel", "implementation"), OF_SAMPLES)
def test_one_bad_sample_stays_one_bad_sample(kernel: str, implementation: str, rng: np.random.Generator) -> None:
    """What belongs to the other samples comes out as if it were not bad; the weights know all samples."""
    call, arrays = cases(rng)[kernel]
    arrays = [np.asarray(array, np.float32) for array in arrays]
    project = jax.jit(lambda *arrays: call(*arrays, implementation=implementation))
    expected = project(*arrays)
    batched, results = SAMPLES[kernel]
    for index, bad in itertools.product(batched, (np.nan, np.inf)):
        spoilt = [array.copy() for array in arrays]
        spoilt[index][1] = bad
        new = project(*spoilt)
        for place in results:
            others = (np.delete(np.asarray(tree[place]), 1, axis=0) for tree in (new, expected))
            np.testing.assert_allclose(*others, rtol=2e-6, atol=2e-6, err_msg=f"{bad} in argument {index}")


FACTORED = [(name, i) for name in ("project_dense_factored", "project_bilinear_map_factored") for i in IMPLEMENTATIONS]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("kernel", "implementation"), [*FACTORED, ("project_dense_factored", "triton")])
def test_one_bad_sample_of_factored_copies(kernel: str, implementation: str, rng: np.random.Generator) -> None:
    """Coefficients, outputs and inputs of the other samples come out as if it were not bad."""
    call, arrays = cases(rng)[kernel]
    arrays = jax.tree.map(np.float32, arrays)
    project = jax.jit(lambda *arrays: call(*arrays, implementation=implementation))
    expected = project(*arrays)
    for place, bad in itertools.product((0, 2, 3, 4), (np.nan, np.inf)):  # not the weights
        spoilt = jax.tree.map(np.copy, arrays)
        jax.tree.leaves(spoilt[place])[0][1] = bad
        new = project(*spoilt)
        for found, right in zip(
            *(jax.tree.leaves((of.u, of.v, of.x_mean, of.z_change)) for of in (new, expected)), strict=True
        ):
            if np.ndim(right):
                others = (np.delete(np.asarray(array), 1, axis=0) for array in (found, right))
                np.testing.assert_allclose(*others, rtol=2e-6, atol=2e-6, err_msg=f"{bad} in argument {place}")
