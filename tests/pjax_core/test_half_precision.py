"""Parameters and data in half precision, alone and beside float32: as in float32, and parameters keep their dtypes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj

from ..pairs import pairwise

HALVES = ["bfloat16", "float16"]


def dense(params: Any, x: Any, y: Any) -> Any:
    hidden = pj.sum_relu(pj.matmul(x, params["w0"]), params["b0"])
    return pj.cross_entropy(pj.matmul(hidden, params["w1"]), y)


DENSE = pj.feasibility(dense)
CONVOLUTION = pj.feasibility(lambda params, x, y: pj.margin_loss(pj.conv2d(x, params["f"]), y))


def rounded(arrays: Any, dtype: str) -> Any:
    """The arrays in float32, with numbers that half precision holds."""
    return jax.tree.map(lambda array: np.float32(jnp.asarray(array, dtype)), arrays)


@pytest.mark.parametrize(
    ("halved", "dtype"),
    [("all", "bfloat16"), *zip(["all", "w0", "b0", "w1", "data"], ["float16", "bfloat16"] * 3, strict=False)],
)
def test_projections_in_turn(generator: np.random.Generator, one_hot: Any, dtype: str, halved: str) -> None:
    shapes = {"w0": (8, 12), "b0": (12,), "w1": (12, 2)}
    params = {name: np.float32(generator.normal(size=shape)) for name, shape in shapes.items()}
    x, y = np.float32(generator.normal(size=(16, 8))), np.float32(one_hot(16, 2))
    names = {"all": list(params), "data": []}.get(halved, [halved])
    params |= {name: jnp.asarray(params[name], dtype) for name in names}
    x = jnp.asarray(x, dtype) if halved == "data" else x
    in_turn, beside = (
        pj.solve(DENSE, params, x, y, algorithm=pj.alternating_projections(in_turn=each), steps=2)
        for each in (True, False)
    )
    for name, array in params.items():
        assert in_turn.params[name].dtype == array.dtype
        error = np.linalg.norm(in_turn.change[name] - beside.change[name]) / np.linalg.norm(beside.change[name])
        assert error < 1e-6


ALGORITHMS = [
    pj.alternating_projections(),
    pj.alternating_projections(in_turn=True),
    pj.cyclic_projections(),
    pj.douglas_rachford(),
    pj.douglas_rachford(copies=pj.Factored()),
]


@pytest.mark.parametrize(
    ("algorithm", "of_images", "dtype"), pairwise(ALGORITHMS, ["same", "float32"], HALVES), ids=repr
)
def test_convolutions(generator: np.random.Generator, dtype: str, of_images: str, algorithm: Any) -> None:
    arrays = {"f": generator.normal(size=(3, 3, 1, 2))}, generator.normal(size=(4, 4, 4, 1))
    filters, images = rounded(arrays, dtype)
    labels = np.float32(generator.normal(size=(4, 2, 2, 2)) > 0)
    expected = pj.solve(CONVOLUTION, filters, images, labels, algorithm=algorithm, steps=1).change["f"]
    halves = jnp.asarray(images, dtype if of_images == "same" else "float32")
    filters = jax.tree.map(lambda array: jnp.asarray(array, dtype), filters)
    found = pj.solve(CONVOLUTION, filters, halves, jnp.asarray(labels, dtype), algorithm=algorithm, steps=1)
    assert found.params["f"].dtype == dtype
    # Where all is in half precision, the outputs at the start are too.
    rounding = float(jnp.finfo(dtype).eps) if of_images == "same" else 1e-6
    assert np.linalg.norm(found.change["f"] - expected) < rounding * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_forward_convolutions_promote(generator: np.random.Generator, dtype: str) -> None:
    images, filters = rounded((generator.normal(size=(2, 4, 4, 3)), generator.normal(size=(3, 2, 3, 4))), dtype)
    expected = pj.conv2d(images, filters)
    for mixed in ((jnp.asarray(images, dtype), filters), (images, jnp.asarray(filters, dtype))):
        found = pj.conv2d(*mixed)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
