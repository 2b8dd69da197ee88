"""What steps of the algorithms call where they are compiled for a TPU; none is needed."""

import functools
import re
from collections.abc import Iterator

import jax
import numpy as np
import pytest

import pjax_core as pj

from .networks import NETWORKS, Network
from .test_on_gpus import pooled


@pytest.fixture(autouse=True)
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a TPU, but for what is run."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.clear_caches()  # which may hold what was traced without a TPU
    yield
    jax.clear_caches()


def called(algorithm: pj.Algorithm, network: Network) -> list[str]:
    arrays = jax.tree.map(np.float32, network.arrays(np.random.default_rng(5)))
    problem = network.problem()
    state = jax.eval_shape(functools.partial(algorithm.init, problem), *arrays)
    traced = jax.jit(functools.partial(algorithm.step, problem)).trace(state)
    return sorted(re.findall(r'kernel_name = "(\w+)"', traced.lower(lowering_platforms=("tpu",)).as_text()))


WINDOWS = Network(lambda _, params, x, y: pooled(params, x, y), {0: (4, 6), 1: (6,), 2: (6, 2)}, (3, 4), (3, 2))


@pytest.mark.parametrize(
    ("network", "kernels"),
    [
        (WINDOWS, ["project_max_pool", "project_sum_relu", "solve", "solve"]),
        (NETWORKS["recurrent"], ["project_sum_relu", "solve", "solve"]),
        (NETWORKS["dot_products"], ["project_bilinear"] * 4),
    ],
    ids=["layers", "recurrence", "dot products"],
)
@pytest.mark.parametrize("algorithm", [pj.alternating_projections(), pj.cyclic_projections()], ids=repr)
def test_steps_call_kernels_for_tpus(algorithm: pj.Algorithm, network: Network, kernels: list[str]) -> None:
    """The changes that algorithms hold do not keep these away."""
    assert called(algorithm, network) == kernels
