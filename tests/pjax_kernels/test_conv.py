"""The projection onto a convolution: against explicit copies of every window, and other kernels."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from pjax_kernels import roots

from . import oracles

Array = np.ndarray
Generator = np.random.Generator
Triple = tuple[Array, Array, Array]

project = jax.jit(pk.project_conv2d, static_argnames=("strides", "padding", "increments", "implementation"))


class Geometry(NamedTuple):
    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    z: tuple[int, int, int, int]
    strides: tuple[int, int]
    padding: Any
    before: tuple[int, int]
    """Rows and columns of padding before the image."""


GEOMETRIES = {
    "valid": Geometry((2, 4, 3, 2), (3, 2, 2, 2), (2, 2, 2, 2), (1, 1), "VALID", (0, 0)),
    "same": Geometry((1, 3, 4, 2), (3, 2, 2, 3), (1, 3, 2, 3), (1, 2), "SAME", (1, 0)),
    "padded": Geometry((1, 3, 2, 1), (2, 3, 1, 2), (1, 2, 3, 2), (3, 2), ((2, 0), (2, 3)), (2, 2)),
    "wide": Geometry((2, 3, 4, 1), (2, 2, 1, 4), (2, 3, 3, 4), (1, 2), ((1, 0), (0, 3)), (1, 0)),
    "gaps": Geometry((1, 5, 5, 1), (2, 2, 1, 3), (1, 2, 2, 3), (3, 3), ((0, 0), (0, 0)), (0, 0)),
}
"""In "wide" no window has more places than there are output channels; in "padded" some windows lie in the padding
alone; in "gaps" none covers the third row and column."""

RESIDUALS = {"near": [0.01, 0.05], "mixed": [0.01, 0.2, 0.5, 10.0]}
"""``|z - p|`` over 1 + |x|^2 + |w|^2, in turn for the outputs."""


def windows(geometry: Geometry, x: Array, w: Array) -> list[tuple[Array, Array]]:
    """Of each output, a view of its window in ``x`` and of as much of ``w``: writing to them writes there."""
    (_, height, width, _), (window_height, window_width, _, _) = x.shape, w.shape
    found = []
    for b, p, q, k in np.ndindex(geometry.z):
        top, left = (
            index * stride - before
            for index, stride, before in zip((p, q), geometry.strides, geometry.before, strict=True)
        )
        rows = slice(max(top, 0), max(min(top + window_height, height), 0))
        columns = slice(max(left, 0), max(min(left + window_width, width), 0))
        of_w = w[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, :, k]
        found.append((x[b, rows, columns], of_w))
    return found


def make_problem(rng: Generator, geometry: Geometry, residual: str) -> Triple:
    x, w = rng.normal(size=geometry.x), rng.normal(size=geometry.w)
    pairs = windows(geometry, x, w)
    p, q = np.array([np.sum(a * b) for a, b in pairs]), np.array([np.sum(a * a) + np.sum(b * b) for a, b in pairs])
    sizes = np.resize(RESIDUALS[residual], p.shape) * rng.choice([-1, 1], p.shape)
    return x, w, (p + sizes * (1 + q)).reshape(geometry.z)


def project_copies(geometry: Geometry, x: Array, w: Array, z: Array) -> Triple:
    """The means over all copies, each projected in mpmath; zero where there are none."""
    x, w, z = (array.astype(np.float64) for array in (x, w, z))
    sums, counts = ([np.zeros_like(array) for array in (x, w)] for _ in range(2))
    z_change = np.zeros(z.size)
    places = zip(windows(geometry, x, w), windows(geometry, *sums), windows(geometry, *counts), strict=True)
    for output, ((a, b), of_sums, of_counts) in enumerate(places):
        if not a.size:  # a window in the padding alone: the only feasible point has z = 0
            z_change[output] = -z.flat[output]
            continue
        *changes, change = oracles.bilinear_changes(a.reshape(1, -1), b.reshape(1, -1), z.reshape(-1, 1)[output])
        z_change[output] = change[0]
        for total, count, of_copies in zip(of_sums, of_counts, changes, strict=True):
            total += of_copies.reshape(total.shape)
            count += 1
    x_mean, w_mean = (total / np.maximum(count, 1) for total, count in zip(sums, counts, strict=True))
    return x_mean, w_mean, z_change.reshape(z.shape)


def assert_close(results: Sequence[Any], expected: Sequence[Any], tolerance: float) -> None:
    for result, right in zip(results, expected, strict=True):
        assert result.shape == right.shape
        assert np.linalg.norm(result - right) <= tolerance * np.linalg.norm(right)


def options(geometry: Geometry) -> dict[str, Any]:
    return {"strides": geometry.strides, "padding": geometry.padding}


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_changes_are_means_over_explicit_copies(name: str, residual: str, implementation: str, rng: Generator) -> None:
    geometry = GEOMETRIES[name]
    problem = make_problem(rng, geometry, residual)
    changes = project(*problem, **options(geometry), increments=True, implementation=implementation)
    assert_close(changes, project_copies(geometry, *problem), 1e-12)


@pytest.mark.parametrize(("residual", "dtype"), [*((r, np.float32) for r in RESIDUALS), ("mixed", jnp.bfloat16)])
def test_changes_in_float32(residual: str, dtype: DTypeLike, implementation: str, rng: Generator) -> None:
    geometry = GEOMETRIES["same"]
    x, w, z = (array.astype(dtype) for array in make_problem(rng, geometry, residual))
    changes = project(x, w, z, **options(geometry), increments=True, implementation=implementation)
    assert_close(changes, project_copies(geometry, x, w, z), 1e-5)


@pytest.mark.parametrize("sizes", [[0.01], [0.01, 0.2], [0.01, 0.2, 10.0]])
def test_large_layers_try_one_step_then_three_then_all(
    sizes: list[float], rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "SMALL", 0)
    monkeypatch.setitem(RESIDUALS, "large", sizes)
    geometry = GEOMETRIES["wide"]
    x, w, z = (array.astype(np.float32) for array in make_problem(rng, geometry, "large"))
    changes = jax.jit(partial(pk.project_conv2d, **options(geometry), increments=True, implementation="xla"))(x, w, z)
    assert_close(changes, project_copies(geometry, x, w, z), 1e-5)


@pytest.mark.parametrize("name", ["padded", "gaps"])
def test_zero_operands_take_the_free_part(name: str, implementation: str, rng: Generator) -> None:
    """Set-valued where ``|z| > 1``: equal entries, as many as lie in the image."""
    geometry = GEOMETRIES[name]
    x, w, z = np.zeros(geometry.x), np.zeros(geometry.w), rng.uniform(1.5, 9, geometry.z)
    z = z * rng.choice([-1, 1], z.shape)
    changes = project(x, w, z, **options(geometry), increments=True, implementation=implementation)
    assert_close(changes, project_copies(geometry, x, w, z), 1e-12)


def test_rows_that_no_window_covers_stay(implementation: str, rng: Generator) -> None:
    geometry = GEOMETRIES["gaps"]
    x, w, z = make_problem(rng, geometry, "mixed")
    new_x = np.asarray(project(x, w, z, **options(geometry), implementation=implementation)[0])
    np.testing.assert_array_equal(new_x[:, 2], x[:, 2])
    np.testing.assert_array_equal(new_x[:, :, 2], x[:, :, 2])
    covered = np.ix_([0], [0, 1, 3, 4], [0, 1, 3, 4])
    assert (new_x[covered] != x[covered]).all()


def test_windows_of_one_pixel_are_a_dense_layer(rng: Generator) -> None:
    x, w, z = rng.normal(size=(2, 3, 2, 4)), rng.normal(size=(1, 1, 4, 3)), 5 * rng.normal(size=(2, 3, 2, 3))
    found = project(x, w, z, increments=True)
    flat = x.reshape(12, 4), w.reshape(4, 3), z.reshape(12, 3)
    dense = jax.jit(partial(pk.project_dense, increments=True))(*flat)
    assert_close([a.reshape(b.shape) for a, b in zip(found, dense, strict=True)], dense, 1e-13)


def test_is_equivariant_under_translations(rng: Generator) -> None:
    """An image shifted inside its border of zeros, and its outputs with it."""
    geometry = GEOMETRIES["valid"]
    x, w, z = make_problem(rng, geometry, "mixed")
    x, z = (np.pad(array, ((0, 0), (2, 3), (2, 3), (0, 0))) for array in (x, z))
    changes = project(x, w, z, increments=True)
    shifted = project(*(np.roll(a, (1, 1), (1, 2)) for a in (x,)), w, np.roll(z, (1, 1), (1, 2)), increments=True)
    assert_close([np.roll(changes[2], (1, 1), (1, 2)), changes[1]], [shifted[2], shifted[1]], 1e-12)


def lowered(*outputs: int) -> Any:
    """Compiled for a layer whose windows, copied, would be 72 times as large as ``z``."""
    shapes = (8, 30, 30, 8), (3, 3, 8, 8), (8, 28, 28, 8)
    x, w, z = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)

    def call(*arrays: Any) -> list[Any]:
        changes = pk.project_conv2d(*arrays, increments=True, implementation="xla")
        return [changes[output] for output in outputs]

    lowered = jax.jit(call).lower(x, w, z)
    # Optimised as outside this module, whose tests are compiled quickly.
    return lowered.compile({"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False})


def test_no_copy_is_stored_and_unused_changes_are_not_computed() -> None:
    z_bytes, everything, without_x = 4 * 8 * 28 * 28 * 8, lowered(0, 1, 2), lowered(1, 2)
    assert everything.memory_analysis().temp_size_in_bytes < 9 * z_bytes
    # Two of them are those of the loops that compute the product anew, where roots are far.
    assert convolutions(everything) == 3 + 2
    assert convolutions(without_x) == 2 + 2


def convolutions(compiled: Any) -> int:
    return compiled.as_text().count(" convolution(")


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_three_convolutions_at_the_precision(precision: str) -> None:
    x, w, z = (np.ones(shape, np.float32) for shape in ((2, 5, 5, 3), (3, 3, 3, 4), (2, 3, 3, 4)))
    program = jax.jit(partial(pk.project_conv2d, precision=precision, implementation="xla")).lower(x, w, z).as_text()
    used = [line.count(f"precision {precision.upper()}") for line in program.splitlines() if "convolution(" in line]
    # Both operands of each, and of the one in the loop that computes the product anew, where roots are far.
    assert used == [2] * (3 + 1)


@pytest.mark.parametrize("strides", [0, (1,), (0, 1), (1.0, 1), (1, True), "11", None])
def test_strides_must_be_two_positive_integers(strides: Any) -> None:
    x, w, z = np.ones((1, 4, 4, 1)), np.ones((2, 2, 1, 1)), np.ones((1, 3, 3, 1))
    with pytest.raises(ValueError, match=r"^project_conv2d: strides is .*positive integers"):
        pk.project_conv2d(x, w, z, strides=strides)


@pytest.mark.parametrize("padding", ["FULL", 1, (1, 1), ((1, 1),), ((1, 1), (1, -1)), ((1, 1), (0.0, 1)), None])
def test_padding_must_be_a_name_or_two_pairs(padding: Any) -> None:
    x, w, z = np.ones((1, 4, 4, 1)), np.ones((2, 2, 1, 1)), np.ones((1, 3, 3, 1))
    with pytest.raises(ValueError, match=r"^project_conv2d: padding is .*'VALID', 'SAME'"):
        pk.project_conv2d(x, w, z, padding=padding)
