"""Modules of Flax and Equinox take steps as they are; all of them do in ``benchmarks.studies.modules``."""

from __future__ import annotations

import pytest

from benchmarks.studies import modules


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("linen RNN", "DR"), ("nnx LSTM", "AP"), ("nnx attention", "AP"), ("equinox bfloat16", "DR")],
    ids=lambda value: value,
)
def test_modules_learn_as_they_are(name: str, algorithm: str) -> None:
    pytest.importorskip("equinox" if name.startswith("equinox") else "flax")
    found = modules.outcome(name, algorithm)
    assert found.finite
    assert found.still == []
    assert found.difference < (2e-2 if "bfloat16" in name else 1e-5)
