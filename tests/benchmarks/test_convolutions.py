"""The study of convolutions compares networks that compute the same."""

from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj
from benchmarks.studies import convolutions


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 4), (2, 3), (1, 2)])
def test_gathered_windows_make_the_convolution(size: int, stride: int) -> None:
    x, w = jax.random.normal(jax.random.key(0), (2, 7, 8, 3)), jax.random.normal(jax.random.key(1), (size, size, 3, 4))
    plain, gathered = (form(x, w, stride) for form in (convolutions.plain, convolutions.gathered))
    np.testing.assert_allclose(gathered, plain, rtol=1e-5, atol=1e-5)


def test_both_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = ((4, 4, 1), (2,), (2,))
    monkeypatch.setattr(convolutions, "NETWORKS", {"small": network})
    found = convolutions.measure("small", pj.alternating_projections(), batch=2, calls=1)
    assert set(found) == {"plain", "gathered"}
    assert all(np.isfinite(figure) and figure > 0 for figures in found.values() for figure in figures)
