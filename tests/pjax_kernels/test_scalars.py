"""Numbers among the arguments of kernels: of Python, of NumPy, arrays without axes, and traced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

from .cases import cases
from .test_direct_calls import assert_equal, compilations

CASES = cases(np.random.default_rng(20260621))
LAYER = CASES["project_dense_copies"].arrays[:5]
LOGITS, LABELS = CASES["prox_cross_entropy"].arrays[:2]
X, Z = CASES["project_quantize"].arrays[:2]
FACTORED = CASES["project_dense_factored"].arrays


def with_pair(name: str, number: Any, **options: Any) -> Any:
    return tuple(pk.project_dense_copies(*LAYER, **{name: (number, number)}, **options))


def with_coefficient(number: Any, **options: Any) -> Any:
    (x, _), w, (u, _), _, z = FACTORED
    return pk.project_dense_factored((x,), w, ((1.0,), (u,)), ((number,), (1.0,)), z, **options)


CALLS: dict[str, Callable[..., Any]] = {
    "strength": lambda s, **options: pk.prox_cross_entropy(LOGITS, LABELS, strength=s, **options),
    "quantize scale": lambda s, **options: pk.project_quantize(X, Z, levels=4, scale=s, **options),
    "scale": partial(with_pair, "scale"),
    "keep": partial(with_pair, "keep"),
    "gain": partial(with_pair, "gain"),
    "coefficient": with_coefficient,
}
KINDS = (np.float32, np.float64, np.int64, int, np.array, jnp.float32, jnp.asarray)


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return CALLS[request.param]


def near(left: Any, right: Any) -> None:
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_number_is_that_number(kind: Any, call: Callable[..., Any], implementation: str) -> None:
    near(call(kind(5), implementation=implementation), call(5.0, implementation=implementation))


def test_a_schedule_compiles_once(call: Callable[..., Any], implementation: str) -> None:
    """Traced, and called directly where numbers are arguments; those among coefficients choose the program."""
    compiled = jax.jit(partial(call, implementation=implementation))
    numbers = (0.5, 2.0, 5.0)
    near([compiled(numbers[0])], [call(numbers[0], implementation=implementation)])
    with compilations() as seen:
        found = [compiled(number) for number in numbers]
        direct = [] if call is with_coefficient else [call(number, implementation=implementation) for number in numbers]
    assert seen == []
    near(direct or found, found)


def test_keep_of_zero_keeps_nothing_of_nan(implementation: str) -> None:
    """Also where it is traced."""
    x, w, u, v, z = LAYER
    u = u.copy()
    u[0, 0, 0] = np.nan
    call = partial(pk.project_dense_copies, x, w, u, v, z, scale=(1.0, 1.0), implementation=implementation)
    traced = jax.jit(lambda keep: call(keep=(keep, keep)).u)(0.0)
    near(traced, call().u)
    assert np.isfinite(traced[1:]).all()


@pytest.mark.parametrize("wrong", [True, np.True_, "5", None, np.ones(3), jnp.ones(1), 1j, float("nan")])
@pytest.mark.parametrize("name", [name for name in CALLS if name != "coefficient"])
def test_other_things_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^pro\w+: {name.split()[-1]}.* is .*; pass ") as raised:
        CALLS[name](wrong)
    assert "[1. 1." not in str(raised.value)


@pytest.mark.parametrize("wrong", [0, -1.0, np.float32(-1), jnp.float32(-1), np.float64("nan")])
@pytest.mark.parametrize("name", ["strength", "quantize scale"])
def test_the_range_is_checked_where_it_is_known(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"is .*; pass a positive number"):
        CALLS[name](wrong)
    jax.eval_shape(CALLS[name], wrong)


def test_the_published_inputs(rng: np.random.Generator) -> None:
    x = rng.normal(size=(16, 8)).astype(np.float32)
    labels = np.eye(8, dtype=np.float32)[np.arange(16) % 8]
    expected = pk.prox_cross_entropy(x, labels)
    assert_equal(pk.prox_cross_entropy(x, labels, strength=np.float32(5)), expected)
    assert_equal(pk.project_quantize(x, x, levels=4, scale=np.float32(1)), pk.project_quantize(x, x, levels=4, scale=1))
    traced = jax.jit(lambda s: pk.prox_cross_entropy(x, labels, strength=s))(5.0)
    np.testing.assert_allclose(traced, expected, rtol=1e-6, atol=1e-6)  # float32, of another program
