"""What steps of the algorithms call where they are compiled for a GPU; none is needed."""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_kernels import gpu


@pytest.fixture(autouse=True)
def kernels_by_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the place of each kernel for GPUs a function that has its name, and returns zeros."""
    pytest.importorskip("triton")

    def run(launch: gpu.Launch, arrays: Sequence[jax.Array]) -> Any:
        def kernel(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(jnp.zeros(output.shape, output.dtype) for output in launch.outputs)

        kernel.__name__ = f"on_gpu_{launch.kernel.fn.__module__.split('.')[1]}{launch.kernel.fn.__name__}"
        return jax.jit(kernel)(*arrays)

    monkeypatch.setattr(gpu, "obstacle", lambda: None)
    monkeypatch.setattr(gpu, "_run", run)
    jax.clear_caches()  # which may hold what was traced without a GPU
    yield
    jax.clear_caches()


def mlp(params: Any, x: Any, y: Any, pool: Any = lambda hidden: hidden) -> Any:
    hidden = pool(pj.sum_relu(pj.matmul(x, params[0]), params[1]))
    return pj.cross_entropy(pj.matmul(hidden, params[2]), y, strength=5.0)


def pooled(*arguments: Any) -> Any:
    def pool(hidden: Any) -> Any:
        return pj.max_pool(hidden.reshape(3, 1, 6, 1), window=(1, 2), strides=(1, 1), padding="SAME").reshape(3, 6)

    return mlp(*arguments, pool)


def called(algorithm: pj.Algorithm, network: Any) -> set[str]:
    rng = np.random.default_rng(5)
    params = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 6), (6,), (6, 2))]
    x, y = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.eye(2)[np.array([0, 1, 1])]
    problem = pj.feasibility(network)
    state = algorithm.init(problem, params, x, y)
    traced = jax.jit(functools.partial(algorithm.step, problem)).trace(state)
    return set(re.findall(r"@on_gpu_(\w+?)(?:_\d+)?\(", traced.lower(lowering_platforms=("cuda",)).as_text()))


@pytest.mark.parametrize(
    ("algorithm", "kernels"),
    [
        (pj.alternating_projections(), {"dense_solve"}),
        (pj.douglas_rachford(copies="dense"), {"dense_copies_project_copies"}),
        (pj.douglas_rachford(copies=pj.Factored(history=2)), {"dense_factored_solve"}),
    ],
    ids=["consensus", "stored copies", "factored copies"],
)
def test_layers_are_projected_by_kernels_for_gpus(algorithm: pj.Algorithm, kernels: set[str]) -> None:
    """The changes that algorithms hold do not keep these away."""
    assert called(algorithm, mlp) == kernels


def test_windows_are_too() -> None:
    assert called(pj.alternating_projections(), pooled) == {
        "dense_solve",
        "maximum_lower_windows",
        "maximum_lower_entries",
    }
