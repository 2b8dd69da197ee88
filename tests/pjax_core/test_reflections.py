"""Algorithms that reflect, against an oracle that stores every copy; and the oracle by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pjax_core as pj

from .networks import NETWORKS, changes_by_step
from .stored_copies import State, StoredCopies

pytestmark = pytest.mark.usefixtures("float64")

SEED = 1
"""With it, every parameter of every network moves."""

# The oracle by itself.

# Cross-entropy does not project onto a set.
WITH_MARGIN = ["weight_used_twice", "parameter_used_in_parts", "dot_products", "data_of_both_colours", "unread_outputs"]


def random_state(name: str) -> tuple[StoredCopies, State]:
    """An oracle in a state far from the network's own computation, where copies disagree."""
    generator = np.random.default_rng(SEED)
    oracle = NETWORKS[name].oracle(*NETWORKS[name].arrays(generator))
    return oracle, generator.normal(size=oracle.start().shape)


@pytest.mark.parametrize("name", WITH_MARGIN)
def test_projections_are_idempotent(name: str) -> None:
    oracle, z = random_state(name)
    for project in (oracle.project_a, oracle.project_b):
        projected = project(z)
        assert np.max(np.abs(projected - z)) > 0.1
        np.testing.assert_allclose(project(projected), projected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["deep_mlp", *WITH_MARGIN])
def test_the_difference_map_is_douglas_rachford_in_the_other_order(name: str) -> None:
    oracle, z = random_state(name)
    swapped = (z + oracle.reflect_a(oracle.reflect_b(z))) / 2
    assert np.max(np.abs(swapped - oracle.douglas_rachford(z))) > 0.1
    np.testing.assert_allclose(oracle.difference_map(z), swapped, rtol=0, atol=1e-13)
    # The general formula has this limit.
    np.testing.assert_allclose(oracle.difference_map(z, beta=1 + 1e-12), swapped, rtol=0, atol=1e-9)


# The package.

ALGORITHMS: dict[str, tuple[str, dict[str, float]]] = {
    "AR": ("alternating_reflections", {}),
    "DR(0.5)": ("douglas_rachford", {"relaxation": 0.5}),
    "DR(0.3)": ("douglas_rachford", {"relaxation": 0.3}),
    "DM(1)": ("difference_map", {"beta": 1.0}),
    "DM(0.5)": ("difference_map", {"beta": 0.5}),
    "DM(-0.7)": ("difference_map", {"beta": -0.7}),
    "CDR": ("cyclic_douglas_rachford", {}),
}
# Compilation takes nearly all of the time, and it grows with the history, so each algorithm is on few networks.  In
# cyclic Douglas-Rachford a slot with sources of different layers ("features_of_several_layers") has no place.
DENSE = [
    ("deep_mlp", "DR(0.3)"),
    ("views", "AR"),
    ("two_losses", "DM(1)"),
    ("features_of_several_layers", "DR(0.5)"),
    ("bias_of_both_colours", "DM(0.5)"),
    ("dot_products", "DM(-0.7)"),
    ("tied_autoencoder", "CDR"),
    ("data_of_both_colours", "CDR"),
    ("convolutions", "DR(0.5)"),
    ("strides_that_leave_pixels_out", "CDR"),
    ("overlapping_pools", "DM(1)"),
    ("two_recurrences", "DR(0.3)"),
    ("loop_of_products", "DM(0.5)"),
    ("levels_and_sums", "DM(0.5)"),
    *(("threshold_functions", algorithm) for algorithm in ("DR(0.3)", "DM(0.5)", "CDR")),
]
FACTORED = [
    ("unread_outputs", "DR(0.5)"),
    ("tied_autoencoder", "DR(0.3)"),
    ("parameter_at_the_loss", "DM(-0.7)"),
    ("parameter_at_the_loss", "CDR"),
    ("convolutions", "DR(0.5)"),
    ("recurrent", "DM(1)"),
    ("attention", "AR"),
    ("unusual_products", "DM(0.5)"),
]


@pytest.mark.parametrize(("name", "algorithm"), DENSE)
def test_dense_copies_equal_stored_copies(name: str, algorithm: str) -> None:
    compare_with_stored_copies(name, algorithm, "dense", steps=6)


@pytest.mark.parametrize(("name", "algorithm"), FACTORED)
def test_factored_copies_with_their_whole_history_equal_stored_copies(name: str, algorithm: str) -> None:
    steps = 4
    # Cyclic Douglas-Rachford moves each layer twice a step, with its neighbour on either side.
    history = 2 * steps if algorithm == "CDR" else steps
    compare_with_stored_copies(name, algorithm, pj.Factored(history=history), steps)


def compare_with_stored_copies(name: str, algorithm: str, copies: Any, steps: int) -> None:
    """Compare the change of every parameter after every step."""
    network, (factory, settings) = NETWORKS[name], ALGORITHMS[algorithm]
    start, x, y = network.arrays(np.random.default_rng(SEED))
    expected = network.oracle(start, x, y).run(factory, steps, **settings)
    made = getattr(pj, factory)(**settings, copies=copies)
    found = changes_by_step(network.problem(), made, steps, start, x, y)
    for step in range(1, steps + 1):
        for (key, values), parameters in zip(start.items(), expected[step], strict=True):
            change = parameters - values
            # Before the loss reaches a parameter, the oracle's copies of it have nothing but rounding.
            allowed = 1e-10 * np.linalg.norm(change) + 2e-15 * np.linalg.norm(values)
            assert np.linalg.norm(found[step][key] - change) <= allowed, (step, key)
            assert step < steps or np.linalg.norm(change) > 1e-5 * np.linalg.norm(values), key
