"""Projections in consensus form against an oracle that stores every copy."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj

from .networks import NETWORKS

pytestmark = pytest.mark.usefixtures("float64")

STEPS = 10
ALTERNATING = [
    "mlp",
    "skip_connection",
    "weight_used_twice",
    "views",
    "features_times_themselves",
    "bias_of_both_colours",
    "parameter_at_the_loss",
    "batch_axes",
    "unread_outputs",
    "convolutions",
    "overlapping_pools",
    "attention",
    "unusual_products",
    "recurrent",
    "loop_of_products",
    "levels_and_sums",
    "threshold_functions",
    "more_views",
]
# Projections are the same in turn; what differs is which values wait for which, where several read them.
IN_TURN = [
    "mlp",
    "weight_used_twice",
    "features_times_themselves",
    "bias_of_both_colours",
    "parameter_at_the_loss",
    "unread_outputs",
    "more_views",
]
# The order of projections matters where a value is used at several distances from the output.
CYCLIC = [
    "skip_connection",
    "weight_used_twice",
    "tied_autoencoder",
    "parameter_used_in_parts",
    "dot_products",
    "weight_of_both_colours",
    "two_losses",
    "strides_that_leave_pixels_out",
    "threshold_functions",
]


@pytest.mark.parametrize(
    ("name", "algorithm", "settings"),
    [(name, "alternating_projections", {}) for name in ALTERNATING]
    + [(name, "alternating_projections", {"in_turn": True}) for name in IN_TURN]
    + [(name, "cyclic_projections", {}) for name in CYCLIC],
)
def test_consensus_form_equals_stored_copies(
    name: str,
    algorithm: str,
    settings: dict[str, bool],
    generator: np.random.Generator,
    relative_error: Any,
) -> None:
    network = NETWORKS[name]
    start, x, y = network.arrays(generator)
    found = network.oracle(start, x, y).run(algorithm, STEPS)[-1]
    expected = {key: values - start[key] for key, values in zip(start, found, strict=True)}

    run = functools.partial(pj.solve, network.problem(), algorithm=getattr(pj, algorithm)(**settings), steps=STEPS)

    @jax.jit
    def parameters(*arguments: Any) -> Any:
        """Without what else a solution has, which takes a sixth of the time."""
        solution = run(*arguments)
        return solution.params, solution.params_low

    high, low = parameters(start, x, y)
    changes = {key: (np.asarray(high[key]) - values) + np.asarray(low[key]) for key, values in start.items()}
    assert relative_error(changes, expected) < 1e-9
    for key in start:
        # A unit that is off for every sample does not move: nothing but rounding is left there.
        allowed = 1e-9 * np.linalg.norm(expected[key]) + 2e-15 * np.linalg.norm(start[key])
        assert np.linalg.norm(changes[key] - expected[key]) <= allowed, key
