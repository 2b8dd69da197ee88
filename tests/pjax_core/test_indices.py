"""Integers in data select elements of parameters and values."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj

pytestmark = pytest.mark.usefixtures("float64")

TABLE = np.random.default_rng(0).normal(size=(6, 4))
WEIGHT = np.random.default_rng(1).normal(size=(4, 3))
TOKENS = np.array([[0, 2, 2], [5, 2, 0]])
LABELS = np.eye(3)[[[0, 1, 2], [1, 2, 0]]]
ALGORITHMS = {
    "AP": pj.alternating_projections(),
    "CP": pj.cyclic_projections(),
    "DR, dense": pj.douglas_rachford(copies="dense"),
    "DM, factored": pj.difference_map(copies=pj.Factored(history=4)),
}


def known(params: Any, y: Any) -> Any:
    return pj.margin_loss(pj.matmul(pj.embedding(params["table"], TOKENS), params["w"]), y)


def from_data(params: Any, tokens: Any, y: Any) -> Any:
    return pj.margin_loss(pj.matmul(pj.embedding(params["table"], tokens), params["w"]), y)


def of_values(params: Any, tokens: Any, y: Any) -> Any:
    """An operation's output is selected, of which some rows are read by nothing."""
    h = pj.relu(pj.identity(params["table"]))
    return pj.margin_loss(pj.matmul(h[tokens], params["w"]), y)


def run(function: Any, *data: Any, algorithm: pj.Algorithm) -> Any:
    params = {"table": TABLE, "w": WEIGHT}
    return jax.tree.map(
        np.asarray, pj.solve(pj.feasibility(function), params, *data, algorithm=algorithm, steps=4).params
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_indices_from_data_are_those_known_while_tracing(name: str) -> None:
    found = run(from_data, TOKENS, LABELS, algorithm=ALGORITHMS[name])
    expected = run(known, LABELS, algorithm=ALGORITHMS[name])
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-12)
    moved = np.abs(found["table"] - TABLE).max(axis=1) > 1e-6
    assert list(moved) == [True, False, True, False, False, True]
    np.testing.assert_array_equal(found["table"][~moved], TABLE[~moved])


@pytest.mark.parametrize("name", ["AP", "DR, dense"])
def test_rows_of_values_that_data_leave_out_are_free(name: str) -> None:
    found = run(of_values, TOKENS, LABELS, algorithm=ALGORITHMS[name])
    others = run(of_values, TOKENS[:, ::-1], LABELS[:, ::-1], algorithm=ALGORITHMS[name])
    np.testing.assert_allclose(found["table"], others["table"], rtol=0, atol=1e-12)
    assert np.isfinite(found["table"]).all()
    np.testing.assert_allclose(found["table"][[1, 3, 4]], TABLE[[1, 3, 4]], rtol=0, atol=1e-12)
    assert np.abs(found["table"] - TABLE).max() > 1e-6


def test_a_repeated_index_takes_the_mean_of_its_copies() -> None:
    """One step of a logit layer alone: each copy of a row moves as it would by itself."""

    def network(params: Any, tokens: Any, y: Any) -> Any:
        return pj.margin_loss(pj.identity(pj.embedding(params, tokens)), y)

    tokens, labels = np.array([1, 1, 0]), np.array([[4.0, 0.0], [0.0, 3.0], [0.0, 2.0]])
    start = np.array([[1.0, -1.0], [0.5, 0.5]])
    solution = pj.solve(pj.feasibility(network), start, tokens, labels, algorithm=pj.alternating_projections(), steps=1)
    logits = np.where(labels > 0, np.maximum(start[tokens], labels), np.minimum(start[tokens], 0))
    halfway = (start[tokens] + logits) / 2
    expected = np.stack([halfway[2], halfway[:2].mean(axis=0)])
    np.testing.assert_allclose(solution.params, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda p, t, y: pj.margin_loss(p["table"][p["w"]], y), TypeError, "integer or boolean type"),
        (lambda p, t, y: pj.margin_loss(pj.embedding(p["table"], y), y), TypeError, "indices have dtype float"),
        (lambda p, t, y: pj.margin_loss(pj.embedding(p["table"], np.array([6])), y), IndexError, "6 is out of bounds"),
    ],
)
def test_what_is_no_index(function: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(function, TOKENS, LABELS, algorithm=ALGORITHMS["AP"])
