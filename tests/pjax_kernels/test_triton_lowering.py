"""Every Triton kernel in every variant becomes code for GPUs that are not there, by jax-triton itself.

``tools/lower_gpu`` runs this once for each set of releases that ``pyproject.toml`` promises; elsewhere it is skipped.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import jax
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk
from benchmarks.measure import kernel_cases
from pjax_kernels import gpu

jax_triton = pytest.importorskip("jax_triton", exc_type=ImportError)  # which it raises without a GPU plugin of JAX

pytestmark = pytest.mark.skipif(
    os.environ["TRITON_INTERPRET"] == "1", reason="Triton interprets kernels here; tools/lower_gpu compiles them"
)

CAPABILITIES = (80, 90)

Shapes = Sequence[tuple[int, ...]]
Call = tuple[Any, Shapes]

ODD: dict[str, Call] = {name: (case.call, case.shapes) for name, case in kernel_cases.ODD_CASES.items()} | {
    "bilinear 1 x 1": (pk.project_bilinear, ((1, 1), (1, 1), (1,))),
    "threshold 1 x 1": (partial(pk.project_threshold, margin=1.25), ((1, 1), (1, 1), (1,))),
    "threshold layer 1 x 1 x 1": (partial(pk.project_threshold_dense, margin=1.25), ((1, 1), (1, 1), (1, 1))),
    "max 1 x 1": (pk.project_max, ((1, 1), (1,))),
    "max 5 x 8192": (pk.project_max, ((5, 8192), (5,))),
    "max over two axes": (partial(pk.project_max, axis=(0, 2)), ((3, 7, 5), (7,))),
    "max pool, overlapping, padded": (
        partial(pk.project_max_pool, window=(3, 2), strides=(2, 1), padding="SAME"),
        ((2, 9, 10, 3), (2, 5, 10, 3)),
    ),
    "dense 1 x 1 x 1, high": (partial(pk.project_dense, precision="high"), ((1, 1), (1, 1), (1, 1))),
}

SLOW = ("history 3, highest", "history 3, default")
"""These take long to compile, and differ from others in how often a loop is unrolled, or in how numbers are rounded."""

LARGE = {
    name: case
    for name, case in kernel_cases.TRITON_CASES.items()
    if not name.endswith(SLOW) and name not in kernel_cases.RESIDUAL_CASES
}
"""In float32, whose blocks are the largest."""


@pytest.fixture(autouse=True, scope="module", params=CAPABILITIES, ids="sm_{}".format)
def gpu_of_this_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kernels are chosen and compiled as on a GPU of this compute capability."""
    jax.clear_caches()  # which may have calls for another one
    call = mock.Mock(wraps=partial(jax_triton.triton_call, compute_capability=request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_triton, "triton_call", call)
        patch.setattr(gpu, "obstacle", lambda: None)
        patch.setattr(gpu, "platform", lambda: "cuda")
        yield


def assert_lowers(call: Any, shapes: Shapes, dtypes: Sequence[DTypeLike], *, increments: bool) -> None:
    """jax-triton compiles kernels while JAX lowers what calls them."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    project = jax.jit(partial(call, implementation="triton", increments=increments))
    jax_triton.triton_call.reset_mock()
    assert "@triton_kernel_call" in project.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert jax_triton.triton_call.called  # and nothing was kept from another test


VARIANTS = [(name, False) for name in ODD] + [
    (name, True) for name in ODD if not name.startswith(("copies", "dense copies", "factored"))
]
"""Of stored copies and of coefficients the results are what they are, so that there is one program of each."""


@pytest.mark.parametrize(("name", "increments"), VARIANTS)
def test_odd_sizes_in_every_dtype(name: str, increments: bool, dtype: DTypeLike) -> None:
    call, shapes = ODD[name]
    assert_lowers(call, shapes, [dtype] * len(shapes), increments=increments)


@pytest.mark.parametrize(
    "name", ["bilinear 37 x 129", "threshold 37 x 129", "max 37 x 129", "max pool 3 x 10 x 10 x 5, 3 x 3"]
)
def test_arrays_of_several_dtypes(name: str) -> None:
    call, shapes = ODD[name]
    assert_lowers(call, shapes, ["bfloat16", "float16", "float32"][-len(shapes) :], increments=False)


@pytest.mark.parametrize("gpu_of_this_kind", CAPABILITIES[-1:], ids="sm_{}".format, indirect=True)
@pytest.mark.parametrize("name", LARGE)
def test_layers_of_useful_size(name: str) -> None:
    call, shapes = LARGE[name].call, LARGE[name].shapes
    assert_lowers(call, shapes, ["float32"] * len(shapes), increments=True)


@pytest.mark.parametrize("name", kernel_cases.RESIDUAL_CASES)
def test_known_residuals(name: str) -> None:
    call, shapes = kernel_cases.RESIDUAL_CASES[name].call, kernel_cases.RESIDUAL_CASES[name].shapes
    assert_lowers(call, shapes, ["float32"] * len(shapes), increments=True)
