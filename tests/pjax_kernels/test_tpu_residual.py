"""TPU kernels that are told a residual, interpreted, beside the textbook in float64."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_kernels.bilinear import tpu as bilinear
from pjax_kernels.dense import tpu as dense
from pjax_kernels.sum_relu import tpu as sum_relu

from .test_residual import KERNELS, Array, Generator, assert_close, problem

pytestmark = pytest.mark.usefixtures("tpu_interpreted")

NAMES = ("bilinear", "dense", "recurrence", "sum_relu", "max pool")


def wide(arrays: Sequence[Array]) -> list[Array]:
    return [np.asarray(array, np.float64) for array in arrays]


@functools.partial(jax.jit, static_argnames=("name", "implementation"))
def along(arrays: Any, residual: Any, direction: Any, *, name: str, implementation: str) -> Any:
    """The changes, and how they move."""
    project = functools.partial(KERNELS[name][0], increments=True, implementation=implementation)
    return jax.jvp(lambda *arrays: project(*arrays, residual=residual), arrays, direction)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_residuals_of_any_size(dtype: str, name: str, rng: Generator) -> None:
    """Far below the rounding of values, with squares that vanish, and of far roots; derivatives do not change."""
    for size in (1e-7, 1e-20, 1.0, 30.0):
        arrays, residual = problem(rng, name, KERNELS[name][2], jnp.dtype(dtype), size)
        direction = [rng.normal(size=array.shape).astype(dtype) for array in arrays]
        found = along(arrays, residual, direction, name=name, implementation="tpu")
        known = np.float64(residual)
        expected = along(wide(arrays), known, wide(direction), name=name, implementation="reference")
        for one, other, tolerance in zip(found, expected, (1e-6, 1e-5), strict=True):
            assert_close(one, other, tolerance)


@pytest.mark.parametrize("name", ["bilinear", "dense", "recurrence"])
def test_zero_operands_take_the_free_part(name: str, rng: Generator) -> None:
    """Set-valued: the residual alone says how far the estimate is out of reach."""
    arrays, residual = problem(rng, name, KERNELS[name][2], np.float32, 0.0)
    arrays = [*(0 * array for array in arrays[:-1]), residual + rng.choice(np.float32([-5, 5]), residual.shape)]
    found, _ = along(arrays, arrays[-1], arrays, name=name, implementation="tpu")
    expected, _ = along(wide(arrays), np.float64(arrays[-1]), wide(arrays), name=name, implementation="reference")
    assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_that_is_no_number_stays_in_its_output(name: str, rng: Generator) -> None:
    arrays, residual = problem(rng, name, KERNELS[name][2], np.float32, 0.3)
    residual.ravel()[np.argmax(arrays[-1])] = np.nan  # where a sum, or a maximum, is positive
    found, _ = along(arrays, residual, arrays, name=name, implementation="tpu")
    np.testing.assert_array_equal(np.isnan(found[-1]), np.isnan(residual))


SEVERAL_BLOCKS = {
    "bilinear": (bilinear.project_bilinear, bilinear.Blocks(128, 128), [(130, 300), (130, 300)]),
    "dense": (dense.project_dense, dense.Blocks(128, 128, 128), [(140, 5), (5, 160)]),
    "sum_relu": (
        lambda *arrays, **options: sum_relu.project_sum_relu(arrays[:-1], arrays[-1], **options),
        sum_relu.Blocks(32, 128),
        [(40, 200), (200,)],
    ),
}
"""No multiples of these."""


@pytest.mark.parametrize("name", SEVERAL_BLOCKS)
def test_new_values_in_several_blocks(name: str, rng: Generator) -> None:
    """Far roots among the last rows only."""
    function, blocks, shapes = SEVERAL_BLOCKS[name]
    arrays, residual = problem(rng, name, shapes, np.float32, 0.1)
    arrays[-1][-2:] += 500
    residual[-2:] += 500
    options: dict[str, Any] = {"precision": "highest"} if name == "dense" else {}
    project = jax.jit(functools.partial(function, blocks=blocks, increments=False, **options))
    changes = KERNELS[name][0](*wide(arrays), residual=np.float64(residual), increments=True, implementation="xla")
    found, expected = map(jax.tree.leaves, (project(*arrays, residual=residual), changes))
    for new, old, change in zip(found, arrays, expected, strict=True):
        error = np.abs(np.float64(new) - (old + change))
        assert (error <= 1e-7 * np.abs(old + change) + 1e-6 * np.linalg.norm(change)).all()
