"""The projection onto layer and RMS normalisation: against all lengths, by optimality, and in increments."""

from typing import Any

import numpy as np
import pytest

import pjax_kernels as pk

Array = np.ndarray
Generator = np.random.Generator


def normalised(x: Array, epsilon: float, centred: bool) -> Array:
    entries = x - x.mean(axis=-1, keepdims=True) if centred else x
    return entries / np.sqrt((entries**2).mean(axis=-1, keepdims=True) + epsilon)


def distance(changes: Any) -> Array:
    return np.sqrt(sum(np.sum(np.float64(change) ** 2, axis=-1) for change in changes))


@pytest.mark.parametrize(
    ("count", "epsilon", "centred"), [(2, 0.1, True), (3, 1e-5, False), (16, 1e-5, True), (16, 1e-5, False)]
)
def test_rows_are_feasible_and_nearly_all_nearest(count: int, epsilon: float, centred: bool, rng: Generator) -> None:
    x, z = rng.normal(size=(2, 100, count))
    settings: dict[str, Any] = {"epsilon": epsilon, "centred": centred, "increments": True}
    changes = pk.project_normalize(x, z, **settings)
    expected = pk.project_normalize(x, z, implementation="reference", **settings)
    np.testing.assert_allclose(normalised(x + changes[0], epsilon, centred), z + changes[1], atol=1e-7)
    assert (distance(changes) <= distance(expected) + 1e-8).mean() >= 0.9
    start = np.linalg.norm(z - normalised(x, epsilon, centred), axis=-1)
    assert (distance(changes) <= start + 1e-12).all()


@pytest.mark.parametrize(("centred", "implementation"), [(True, "xla"), (False, "reference")])
def test_no_feasible_row_is_nearer_where_the_residual_is_small(
    centred: bool, implementation: str, rng: Generator
) -> None:
    x = rng.normal(size=(20, 6))
    z = normalised(x, 1e-5, centred) + 0.05 * rng.normal(size=(20, 6))
    changes = pk.project_normalize(x, z, centred=centred, increments=True, implementation=implementation)
    for spread in (1e-4, 1e-2, 1):
        samples = x + np.asarray(changes[0]) + spread * rng.normal(size=(500, 20, 6))
        sampled = distance((samples - x, normalised(samples, 1e-5, centred) - z))
        assert (sampled >= distance(changes) - 1e-9).all()


@pytest.mark.parametrize("centred", [True, False])
def test_changes_are_precise_relative_to_the_residual(centred: bool, rng: Generator) -> None:
    """Where the residual can be told from the rounding of the values: 1e-2 of them leaves 1e-5."""
    x = np.float32(rng.normal(size=(50, 8)))
    z = np.float32(normalised(np.float64(x), 1e-5, centred) + 1e-2 * rng.normal(size=(50, 8)))
    found = pk.project_normalize(x, z, centred=centred, increments=True)
    exact = pk.project_normalize(np.float64(x), np.float64(z), centred=centred, increments=True)
    for new, old in zip(found, exact, strict=True):
        assert np.linalg.norm(new - old) <= 1e-4 * np.linalg.norm(old)


def test_along_another_axis(rng: Generator) -> None:
    x, z = rng.normal(size=(2, 5, 4, 3))
    along = pk.project_normalize(x, z, axis=1)
    moved = pk.project_normalize(np.moveaxis(x, 1, -1), np.moveaxis(z, 1, -1))
    for one, other in zip(along, moved, strict=True):
        np.testing.assert_array_equal(one, np.moveaxis(np.asarray(other), -1, 1))


@pytest.mark.parametrize("settings", [{"axis": 2}, {"epsilon": 0.0}, {"axis": 0}])
def test_settings_that_do_not_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        pk.project_normalize(np.ones((1, 4)), np.ones((1, 4)), **settings)
