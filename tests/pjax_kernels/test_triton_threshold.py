"""The Triton kernel of ``project_threshold``, interpreted: the tests of :mod:`test_threshold`, shapes, and its root."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import gpu
from pjax_kernels.threshold import root

from . import triton_interpreter
from .test_threshold import (  # noqa: F401 (the tests run here too, for this implementation)
    ENTRIES,
    MARGIN,
    ROWS,
    Point,
    as_float64,
    points,
    project_threshold,
    test_a_bad_row_stays_one,
    test_agrees_with_the_oracle,
    test_any_axis_may_hold_the_entries,
    test_dense_layer_averages_its_copies,
    test_is_idempotent,
    test_keeps_its_digits_where_a_is_nearly_opposite_to_b,
    test_margin_is_reached,
    test_no_sampled_feasible_point_is_nearer,
    test_set_valued_points_are_projected_by_the_rule,
    test_small_changes_keep_their_precision,
    test_turns_with_the_signs,
)

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
threshold = pytest.importorskip("pjax_kernels.threshold.triton")

pytestmark = pytest.mark.usefixtures("triton_interpreted")

Array = np.ndarray
Generator = np.random.Generator

COUNT = 1 << 13


@pytest.fixture
def implementation() -> str:
    return "triton"


def test_new_values_are_rounded_once(dtype: DTypeLike, rng: Generator) -> None:
    point = tuple(array.astype(dtype) for array in points(rng))
    new = project_threshold(*point, margin=MARGIN, implementation="triton")
    changes = project_threshold(*point, margin=MARGIN, increments=True, implementation="triton")
    assert [array.dtype for array in new] == [dtype] * 3
    assert [array.dtype for array in changes] == [jnp.promote_types(dtype, np.float32)] * 3
    for result, old, change in zip(new[:2], point, changes, strict=False):
        np.testing.assert_array_equal(*as_float64(result, (old.astype(change.dtype) + change).astype(dtype)))
    assert set(as_float64(*new)[2]) == {-1.0, 1.0}


def random_inputs(rng: Generator, shape: tuple[int, ...], axis: int, dtype: DTypeLike = np.float32) -> Point:
    a, b = rng.normal(size=(2, *shape)).astype(dtype)
    z = np.copysign(rng.normal(size=np.sum(a, axis).shape), np.sum(as_float64(a, a, a)[0] * b, axis))
    return a, b, z.astype(dtype)


SHAPES = [
    ((1,), 0),
    ((33,), -1),
    ((5, 1), 1),
    ((1, 5), 1),
    ((2, 3, 4), 2),
    ((3, 700), 1),
    ((5, 301), 0),
    ((13, 7, 5), 0),
    ((3, 13, 5), 1),
    ((3, 4097), 1),
    ((515, 9), 0),
    ((2, 2049, 3), 1),
]


@pytest.mark.parametrize(("shape", "axis", "increments"), [(*case, k % 2 == 0) for k, case in enumerate(SHAPES)])
def test_any_shape_and_axis(shape: tuple[int, ...], axis: int, increments: bool, rng: Generator) -> None:
    """Rows and columns, in registers and in blocks; no multiple of either."""
    point = random_inputs(rng, shape, axis)
    settings = {"margin": 2 * math.sqrt(shape[axis]), "axis": axis, "increments": increments}
    found = pk.project_threshold(*point, **settings, implementation="triton")
    wanted = pk.project_threshold(*as_float64(*point), **settings, implementation="reference")
    for one, other, old in zip(found, wanted, point, strict=True):
        assert (one.shape, one.dtype) == (old.shape, np.float32)
        error = np.linalg.norm(np.float64(one) - other) / np.linalg.norm(other)
        assert error < 20 * np.sqrt(shape[axis]) * np.finfo(np.float32).eps


@pytest.mark.parametrize(("shape", "axis"), [((7, 13), -1), ((13, 7, 5), 0), ((3, 4097), -1), ((515, 9), 0)])
def test_everything_is_read_and_written_by_one_launch(
    shape: tuple[int, ...], axis: int, launches: list[gpu.Launch], rng: Generator
) -> None:
    """Where they are: nothing is transposed before."""
    a, b, z = random_inputs(rng, shape, axis)
    jaxpr = jax.make_jaxpr(
        lambda *point: pk.project_threshold(*point, margin=MARGIN, axis=axis, implementation="triton")
    )
    assert "transpose" not in str(jaxpr(a, b, z))
    (launch,) = launches
    assert [array.size for array in launch.arrays] == [a.size, b.size, z.size, 1]
    assert [array.size for array in launch.outputs] == [a.size, b.size, z.size]


def test_a_tie_goes_to_1() -> None:
    """Orthogonal vectors of any lengths are as far from either sign, if ``z`` is 0."""
    sizes = np.float32([1e-6, 0.1, 1, 3, 1e4])
    a, b = np.zeros((2, len(sizes), 3), np.float32)
    a[:, 0], b[:, 1] = sizes, 2 * sizes
    new = project_threshold(a, b, np.zeros(len(sizes), np.float32), margin=MARGIN, implementation="triton")
    np.testing.assert_array_equal(new[2], 1)
    np.testing.assert_allclose((new[0] * new[1]).sum(-1)[:-1], MARGIN, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearly_set_valued_points_lose_no_digits(dtype: DTypeLike, rng: Generator) -> None:
    """``a = -s b`` for the nearer sign ``s``, but for entries of any size, down to those whose squares underflow."""
    a = rng.normal(size=(ROWS, ENTRIES)) * rng.integers(2, size=(ROWS, 1))
    sign = rng.choice([-1, 1], size=ROWS)
    b = -sign[:, None] * a
    a[:, 0], b[:, 0] = 0, rng.normal(size=ROWS) * 10 ** rng.uniform(math.log10(np.finfo(dtype).tiny), 0, ROWS)
    a, b, z = (array.astype(dtype) for array in (a, b, 30 * sign))
    new = as_float64(*project_threshold(a, b, z, margin=MARGIN, implementation="triton"))
    np.testing.assert_array_equal(new[2], sign)
    np.testing.assert_allclose(sign * (new[0] * new[1]).sum(-1), MARGIN, rtol=30 * np.finfo(dtype).eps)


@pytest.mark.parametrize("place", range(3))
def test_nan_in_a_column_makes_it_nan_and_no_other(place: int, rng: Generator) -> None:
    point = random_inputs(rng, (5, 9), axis=0)
    point[place][..., 3] = np.nan
    for new in pk.project_threshold(*point, margin=MARGIN, axis=0, implementation="triton"):
        np.testing.assert_array_equal(np.isnan(new), np.broadcast_to(np.arange(9) == 3, new.shape))


@pytest.mark.parametrize(("shape", "axis"), [((0, 4), 1), ((2, 0, 4), 2), ((3, 4, 0), 1)])
def test_no_functions(shape: tuple[int, ...], axis: int) -> None:
    a, z = np.ones(shape, np.float16), np.ones(np.delete(shape, axis), np.float16)
    new = pk.project_threshold(a, a, z, margin=MARGIN, axis=axis, implementation="triton")
    assert [(x.shape, x.dtype) for x in new] == [(x.shape, x.dtype) for x in (a, a, z)]


def test_dtypes_may_differ(rng: Generator) -> None:
    a, b, z = random_inputs(rng, (4, 9), -1, np.float16)
    inputs = a, b.astype(np.float32), z.astype(jnp.bfloat16)
    new = project_threshold(*inputs, margin=5.0, implementation="triton")
    assert [x.dtype for x in new] == [x.dtype for x in inputs]
    for result, wanted in zip(new, project_threshold(*inputs, margin=5.0, implementation="xla"), strict=True):
        np.testing.assert_allclose(*as_float64(result, wanted), rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_jit_and_vmap(axis: int, rng: Generator) -> None:
    """Mapped twice, one argument not mapped, the margin mapped with one of the two."""
    a, b, z = random_inputs(rng, (2, 3, 4, 5), 2 + axis)
    margins = jnp.float32([1.0, 4.0, 9.0])

    def call(implementation: str) -> tuple[jax.Array, ...]:
        def mapped(a: Array, b: Array, z: Array, margin: Array) -> tuple[jax.Array, ...]:
            return pk.project_threshold(
                a, b, z, margin=margin, axis=axis, increments=True, implementation=implementation
            )

        inner = jax.vmap(mapped, in_axes=(0, 0, 0, None))
        return jax.jit(jax.vmap(inner, in_axes=(1, None, 1, 0), out_axes=1))(a, b[:, 0], z, margins)

    for result, wanted in zip(call("triton"), call("xla"), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=1e-6)


# The root, against the definition that it repeats.


@triton.jit
def root_kernel(
    plus_ptr, minus_ptr, z_ptr, margin_ptr, sign_ptr, sum_ptr, difference_ptr, radius_ptr, COUNT: tl.constexpr
):
    """As :func:`pjax_kernels.threshold_root`."""
    place = tl.arange(0, COUNT)
    plus, minus, z = tl.load(plus_ptr + place), tl.load(minus_ptr + place), tl.load(z_ptr + place)
    sign, of_sum, of_difference, radius = threshold.threshold_root(plus, minus, z, tl.load(margin_ptr + place))
    tl.store(sign_ptr + place, sign)
    tl.store(sum_ptr + place, of_sum)
    tl.store(difference_ptr + place, of_difference)
    tl.store(radius_ptr + place, radius)


def triton_root(*arrays: Array) -> list[Array]:
    outputs = [np.full(COUNT, np.nan, arrays[0].dtype) for _ in range(4)]
    with np.errstate(all="ignore"):
        root_kernel[(1,)](*map(triton_interpreter.HostArray, (*arrays, *outputs)), COUNT=COUNT)
    return outputs


def norms_and_margins(rng: Generator, dtype: DTypeLike) -> tuple[Array, ...]:
    """Of every relation and size, up to those whose products overflow."""
    top = 0.45 * math.log10(np.finfo(dtype).max)
    plus, minus = 10 ** rng.uniform(math.log10(np.finfo(dtype).tiny), top, size=(2, COUNT))
    plus[: COUNT // 2], minus[: COUNT // 2] = 10 ** rng.uniform(-3, 3, size=(2, COUNT // 2))
    plus[:50], minus[25:75] = 0, 0
    minus[100:1000] = plus[100:1000] * (1 + 10 ** rng.uniform(-6, 0, 900))
    z, margin = 3 * rng.normal(size=COUNT), 10 ** rng.uniform(-3, 3, COUNT)
    return tuple(array.astype(dtype) for array in (plus, minus, z, margin))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_root_is_that_of_the_other_implementations(dtype: DTypeLike, rng: Generator) -> None:
    arrays = norms_and_margins(rng, dtype)
    sign, of_sum, of_difference, radius = triton_root(*arrays)
    with jax.disable_jit(), np.errstate(all="ignore"):  # where the compiler contracts nothing
        wanted = pk.threshold_root(*map(jnp.asarray, arrays))
    same = sign == wanted.sign
    assert same.mean() > 0.999  # both signs may be as near
    eps = np.finfo(dtype).eps
    set_valued = np.asarray(wanted.radius) > 0
    beta = np.where(set_valued, -of_difference, (of_sum - of_difference) / 2)
    gamma = np.where(set_valued, 0, -of_sum * of_difference)
    np.testing.assert_allclose((sign * beta)[same], wanted.beta[same], rtol=8 * eps)
    np.testing.assert_allclose(gamma[same], wanted.gamma[same], rtol=8 * eps)
    np.testing.assert_allclose(radius[same], wanted.radius[same], rtol=4 * eps)


def test_uses_the_constants_of_the_root() -> None:
    assert (threshold.FAR.value, threshold.STEPS.value, threshold.DOUBLE_STEPS.value) == (root.FAR, *root.STEPS)
    for dtype, constant in ((np.float32, threshold.NEGLIGIBLE), (np.float64, threshold.DOUBLE_NEGLIGIBLE)):
        assert constant.value == root.NEGLIGIBLE * np.finfo(dtype).tiny


@pytest.mark.parametrize("shape", [(1, 9, 7), (66, 40, 1), (3, 5, 130), (0, 3, 4), (3, 4, 0)])
def test_layers_of_any_shape(shape: tuple[int, int, int], rng: Generator) -> None:
    """Several tiles; no multiples; nothing at all."""
    batch, length, width = shape
    x, w, z = (np.float32(rng.normal(size=size)) for size in ((batch, length), (length, width), (batch, width)))
    run = functools.partial(pk.project_threshold_dense, margin=MARGIN, increments=True)
    found = as_float64(*run(x, w, z, implementation="triton"))
    for one, wanted in zip(found, as_float64(*run(*as_float64(x, w, z), implementation="reference")), strict=True):
        assert np.linalg.norm(one - wanted) <= 2e-6 * np.linalg.norm(wanted)


def test_equal_layers_are_one_launch_under_vmap(launches: list[gpu.Launch], rng: Generator) -> None:
    x, w, z = (np.float32(rng.normal(size=shape)) for shape in ((3, 5, 4), (3, 4, 2), (3, 5, 2)))
    margins = np.float32([0.5, 1.0, 2.0])

    def project(x: Array, w: Array, z: Array, margin: Array, implementation: str) -> tuple[jax.Array, ...]:
        return pk.project_threshold_dense(x, w, z, margin=margin, increments=True, implementation=implementation)

    found = jax.vmap(functools.partial(project, implementation="triton"))(x, w, z, margins)
    assert [launch.grid for launch in launches if launch.grid[1] > 1] == [(1, 3)]
    for lane, margin in enumerate(margins):
        expected = project(x[lane], w[lane], z[lane], margin, "xla")
        for one, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[lane], wanted, rtol=1e-5, atol=1e-6)
