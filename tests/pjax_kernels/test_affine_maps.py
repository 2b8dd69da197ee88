"""Affine constraints with constant coefficients: lines, signed sums, means, average pooling; mirrored maxima."""

from typing import Any

import numpy as np
import pytest

import pjax_kernels as pk

Array = np.ndarray
Generator = np.random.Generator


def onto_hyperplane(entries: Array, z: float, normal: Array, offset: float = 0.0) -> tuple[Array, float]:
    """The changes of a point that lead to the nearest one of ``{z = normal . entries + offset}``."""
    whole, point = np.append(normal, -1.0), np.append(entries, z)
    *changes, z_change = -whole * (whole @ point + offset) / (whole @ whole)
    return np.array(changes), z_change


def test_affine(implementation: str, rng: Generator) -> None:
    x, z, scale, offset = (
        rng.normal(size=(5, 4)),
        rng.normal(size=(5, 4)),
        3 * rng.normal(size=4),
        rng.normal(size=(5, 1)),
    )
    changes = pk.project_affine(x, z, scale=scale, offset=offset, increments=True, implementation=implementation)
    for i, j in np.ndindex(5, 4):
        expected = onto_hyperplane(x[i, j], z[i, j], scale[j : j + 1], offset[i, 0])
        np.testing.assert_allclose([changes[0][i, j], changes[1][i, j]], np.append(*expected), atol=1e-14)


def test_affine_in_float32_is_precise_relative_to_the_residual(rng: Generator) -> None:
    x = np.float32(rng.integers(1, 64, size=100))
    z = np.float32(2 * x + 1e-3 * rng.normal(size=100))
    changes = pk.project_affine(x, z, scale=2, increments=True)
    exact = pk.project_affine(np.float64(x), np.float64(z), scale=2, increments=True)
    for found, expected in zip(changes, exact, strict=True):
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def test_signed_sums(implementation: str, rng: Generator) -> None:
    x, bias, z = rng.normal(size=(6, 3)), rng.normal(size=3), rng.normal(size=(6, 3))
    (x_change, bias_change), z_change = pk.project_sum(
        (x, bias), z, coefficients=(2.0, -1.0), increments=True, implementation=implementation
    )
    expected = np.zeros((6, 3, 3))
    for i, j in np.ndindex(6, 3):
        expected[i, j] = np.append(*onto_hyperplane(np.array([x[i, j], bias[j]]), z[i, j], np.array([2.0, -1.0])))
    np.testing.assert_allclose(x_change, expected[..., 0], atol=1e-14)
    np.testing.assert_allclose(bias_change, expected[..., 1].mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(z_change, expected[..., 2], atol=1e-14)


def test_the_mean_of_a_row(implementation: str, rng: Generator) -> None:
    x, z = rng.normal(size=(4, 5)), rng.normal(size=4)
    changes = pk.project_sum_over(x, z, axis=1, factor=0.2, increments=True, implementation=implementation)
    for i in range(4):
        expected = onto_hyperplane(x[i], z[i], np.full(5, 0.2))
        np.testing.assert_allclose(np.append(changes[0][i], changes[1][i]), np.append(*expected), atol=1e-14)


POOLINGS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((7,), {"window": (3,), "strides": (2,)}),
    ((7,), {"window": (3,), "strides": (1,), "padding": "SAME"}),
    ((2, 5, 6), {"window": (1, 2, 3), "strides": (1, 2, 1), "padding": ((0, 0), (1, 0), (0, 2)), "factor": 1 / 6}),
    ((2, 4, 4, 3), {"window": (1, 2, 2, 1)}),
    ((2, 4, 4, 3), {"window": (1, 4, 4, 1), "factor": 1.0}),
]


@pytest.mark.parametrize(("shape", "settings"), POOLINGS)
def test_average_pooling_against_explicit_windows(
    shape: tuple[int, ...], settings: dict[str, Any], implementation: str, rng: Generator
) -> None:
    x = rng.normal(size=shape)
    window, strides = settings["window"], settings.get("strides", settings["window"])
    padding = settings.get("padding", "VALID")
    pads = (
        {"VALID": [(0, 0)] * len(shape), "SAME": [(1, 1)] * len(shape)}.get(padding)
        if isinstance(padding, str)
        else padding
    )
    counts = [(n + a + b - w) // s + 1 for n, (a, b), w, s in zip(shape, pads, window, strides, strict=True)]
    z = rng.normal(size=counts)
    changes = pk.project_average_pool(x, z, increments=True, implementation=implementation, **settings)
    total, copies = np.zeros(shape), np.zeros(shape)
    for place in np.ndindex(*counts):
        starts = [i * s - a for i, s, (a, _) in zip(place, strides, pads, strict=True)]
        where = tuple(slice(max(i, 0), max(i + w, 0)) for i, w in zip(starts, window, strict=True))
        entries = x[where]
        factor = settings.get("factor") or 1 / entries.size
        change, z_change = onto_hyperplane(entries.ravel(), z[place], np.full(entries.size, factor))
        total[where] += change.reshape(entries.shape)
        copies[where] += 1
        np.testing.assert_allclose(changes[1][place], z_change, atol=1e-13)
    np.testing.assert_allclose(changes[0], total / np.maximum(copies, 1), atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (2, 2)}, "positive integer for each of the 1 axes"),
        ({"window": (2,), "padding": ((1, -1),)}, "padding is"),
        ({"window": (9,)}, "is larger than x"),
    ],
)
def test_windows_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pk.project_average_pool(np.ones(4), np.ones(2), **settings)


def test_a_minimum_is_a_maximum_turned_around(implementation: str, rng: Generator) -> None:
    x, z = rng.normal(size=(6, 5)), rng.normal(size=6)
    x[0], z[0] = 1, -2
    lowered = pk.project_min(x, z, implementation=implementation)
    raised = pk.project_max(-x, -z, implementation=implementation)
    for low, high in zip(lowered, raised, strict=True):
        np.testing.assert_array_equal(low, -np.asarray(high))
    np.testing.assert_allclose(np.min(lowered[0], axis=1), lowered[1], atol=1e-12)


@pytest.mark.parametrize("coefficients", [(1.0,), (1.0, np.nan), (1.0, True)])
def test_coefficients_are_numbers_one_for_each_input(coefficients: Any) -> None:
    with pytest.raises(ValueError, match="coefficients"):
        pk.project_sum((np.ones(2), np.ones(2)), np.ones(2), coefficients=coefficients)
