"""Kernels called outside jit: the second call of the same shapes and settings compiles nothing."""

import gc
import weakref
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

from ..compilations import compilations
from .cases import attention, cases

CASES = cases(np.random.default_rng(20260619))
OTHERS = cases(np.random.default_rng(20260620))


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_public_kernel_has_a_case() -> None:
    assert {name for name in pk.__all__ if name.startswith("pro")} == {name.split(",")[0] for name in CASES}


def test_the_count_sees_what_compiles() -> None:
    with compilations() as seen:
        jax.jit(lambda x: x + 1)(1.0)
    assert any("backend_compile" in event for event in seen)


@pytest.mark.parametrize(
    ("name", "implementation"),
    [*((name, "xla") for name in CASES), *((name, "reference") for name in list(CASES)[1::2])],
)
def test_a_second_call_compiles_nothing(name: str, implementation: str) -> None:
    call = partial(CASES[name].kernel, implementation=implementation)
    first = call(*CASES[name].arrays)
    with compilations() as seen:
        again, other = call(*CASES[name].arrays), call(*OTHERS[name].arrays)
    assert seen == []
    assert_equal(first, again)
    assert_different(first, other)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_of_numpy_compile_nothing_of_their_own(dtype: type) -> None:
    """Each of another shape would take a program, which is as long as that of a small kernel."""
    rng = np.random.default_rng(0)
    x, w, z = (rng.normal(size=size).astype(dtype) for size in ((7, 3), (3, 11), (7, 11)))
    with compilations() as seen:
        pk.project_dense(x, w, z)
    assert sum("backend_compile" in event for event in seen) == 1


def test_a_second_call_under_a_transformation_compiles_nothing(rng: np.random.Generator) -> None:
    x, w, z = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 4, 2))

    def both() -> Any:
        one = x[0], w[0], z[0]
        return jax.vmap(pk.project_dense)(x, w, z), jax.jvp(pk.project_dense, one, one)

    first = both()
    with compilations() as seen:
        again = both()
    assert seen == []
    assert_equal(first, again)


def test_settings_are_told_apart(rng: np.random.Generator) -> None:
    """By value, and lists as tuples."""
    x, w, z = rng.normal(size=(1, 4, 4, 2)), rng.normal(size=(3, 3, 2, 3)), rng.normal(size=(1, 2, 2, 3))
    call = partial(pk.project_conv2d, x, w, z, strides=[2, 2], padding=[(1, 1), [1, 1]])
    first = call(precision=["highest", "highest"])
    with compilations() as seen:
        call(precision=("highest", "highest"), strides=(2, 2))
    assert seen == []
    assert_different(first, call(increments=True))


def test_a_map_is_found_by_identity(rng: np.random.Generator) -> None:
    q, k, z = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(3, 2))

    class Attention:
        def __call__(self, q: Any, k: Any) -> Any:
            return attention(q, k)

        def method(self, q: Any, k: Any) -> Any:
            return attention(q, k)

    class Incomparable(Attention):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Incomparable)

    instance = Attention()
    expected = pk.project_bilinear_map(attention, q, k, z)
    for find in (lambda: instance, lambda: instance.method, lambda: attention):
        assert_equal(pk.project_bilinear_map(find(), q, k, z), expected)
        with compilations() as seen:
            pk.project_bilinear_map(find(), q, k, z)
        assert seen == []
    assert_equal(pk.project_bilinear_map(Incomparable(), q, k, z), expected)


def test_captured_arrays_are_freed(rng: np.random.Generator) -> None:
    q, k, z = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(3, 2))

    class Box:
        array = np.ones((3, 2))

    def once() -> weakref.ref[Box]:
        box = Box()
        for _ in range(2):
            pk.project_bilinear_map(lambda q, k, box=box: attention(q, k) * box.array, q, k, z)
        return weakref.ref(box)

    reference = once()
    jax.clear_caches()
    gc.collect()
    assert reference() is None


def test_captured_tracers_work(rng: np.random.Generator) -> None:
    """In every trace those of that trace."""
    q, k, z = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(3, 2))

    def masked(mask: Any) -> Any:
        return pk.project_bilinear_map(lambda q, k: attention(q, k) * mask, jnp.asarray(q) * mask[0, 0], k, z)

    for mask in np.ones((3, 2)), np.eye(3, 2):
        for left, right in zip(jax.jit(masked)(mask), masked(mask), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-12)


def test_programs_have_the_kernel_itself(name: str) -> None:
    """Inside jit the call is inlined: programs are compiled as one."""
    (plain,) = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).eqns
    equations = jax.make_jaxpr(CASES[name].kernel)(*CASES[name].arrays).eqns
    kernels = [e for e in equations if e.primitive.name == "custom_jvp_call" or e.params.get("name") == "_projected"]
    assert kernels
    # Up to jax 0.11 they are inlined when they are traced, from jax 0.12 on when they are lowered.
    assert all(e.primitive is not plain.primitive or e.params["inline"] != plain.params["inline"] for e in kernels)


def assert_equal(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_different(left: Any, right: Any) -> None:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    assert not all(np.array_equal(x, y) for x, y in pairs)
