"""What is known while JAX traces is computed by NumPy: as JAX would, and without compiling programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pjax_kernels.known import _EXACT, _RULES, computed, exact_outputs

from ..compilations import compilations

A = np.arange(-12.0, 12.0, dtype=np.float32).reshape(2, 3, 4) / 3
B = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4) % 5
IS = A > B

EXACT: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda a, b: (a + b, a - b, a * b, -a, abs(a), jnp.maximum(a, b), jnp.minimum(a, b)),
    "comparisons": lambda a, b: (a == b, a != b, a < b, a <= b, a > b, a >= b, (a > b) & ~(a < 0) | (b > 2)),
    "choices": lambda a, b: (jnp.where(a > b, a, b), lax.select_n(jnp.int32(a.ndim - 2), a, b), jnp.where(a > 0, a, 1)),
    "broadcast": lambda a, b: (jnp.broadcast_to(a[:, :1], a.shape), a[0] * b, jnp.full((2, 3), b[0, 0, 0])),
    "axes": lambda a, b: (a.T, a.reshape(4, 6), jnp.moveaxis(b, 0, 1), a[:, None], jnp.squeeze(b[:1], 0)),
    "parts": lambda a, b: (a[:, ::2, 1:3], jnp.flip(a, (0, 2)), *jnp.split(b, 3, 1), *jnp.unstack(b, axis=2)),
    "joined": lambda a, b: (
        jnp.concatenate([a, b], 1),
        jnp.stack([a, b], 1),
        lax.expand_dims(a, (0, 2)),
        jnp.tile(a, (1, 2, 3)),
    ),
    "numbers": lambda a, b: (a + lax.broadcasted_iota(jnp.float32, (2, 3, 4), 1), jnp.tril(a), jnp.eye(3)),
    "padded": lambda a, b: (
        lax.pad(a, np.float32(7), ((1, 2, 0), (0, 0, 2), (-1, 3, 1))),
        lax.pad(b, np.float32(7), ((0, -1, 0), (-1, -1, 0), (2, -2, 3))),
    ),
    "converted": lambda a, b: (a.astype(jnp.bfloat16), (a > b).astype(jnp.float16), (a > b).astype(int).astype(float)),
    "called": lambda a, b: jax.jit(lambda a: jnp.where(a > 0, jax.jit(jnp.abs)(a) + b, b))(a),
}
ROUNDED: dict[str, Callable[..., Any]] = {
    "functions": lambda a, b: tuple(
        f(a)
        for f in (jnp.cos, jnp.exp, jnp.expm1, jnp.sin, jnp.sign, jnp.square, jnp.tanh, lax.erf, lax.erfc, lax.logistic)
    ),
    "of positive ones": lambda a, b: tuple(f(b + 1) for f in (jnp.log, jnp.log1p, jnp.sqrt, lax.rsqrt)),
    "quotients and powers": lambda a, b: (a / (b + 1), lax.integer_pow(a, 3), lax.integer_pow(b + 1, -2)),
    "activations": lambda a, b: (jax.nn.gelu(a), jax.nn.gelu(a, approximate=False), jax.nn.silu(a), jax.nn.softplus(a)),
    "sums": lambda a, b: (a.sum(), a.sum((0, 2)), jnp.mean(b, 1)),
    "products": lambda a, b: (
        jnp.einsum("ijk,ijl->ikl", a, b),
        jnp.einsum("ijk,lmk->ijlm", a, b),
        jnp.einsum("ijk,jik->j", a, b.transpose(1, 0, 2)),
        a[0] @ b[1].T,
        jnp.vdot(a, b),
    ),
}
BY_JAX: dict[str, Callable[..., Any]] = {
    "convolution": lambda a, b: lax.conv(a[None, :1], b[:1, :1, :2, None].reshape(1, 1, 2, 1), (1, 1), "SAME"),
    "sorted": lambda a, b: jnp.sort(b, 1),
    "reshaped along other axes": lambda a, b: jax.lax.reshape(a, (4, 6), (2, 0, 1)),
    "one of three": lambda a, b: lax.select_n(b.astype(jnp.int32) % 3, a, b, -a),
    "counted in half precision": lambda a, b: jnp.arange(2000, dtype=jnp.bfloat16),
    "to integers": lambda a, b: a.astype(jnp.int8),
    "whole quotients": lambda a, b: lax.div(lax.convert_element_type(a, jnp.int32), jnp.int32(3)),
}


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED, *BY_JAX])
def test_is_what_jax_computes(name: str) -> None:
    function = (EXACT | ROUNDED | BY_JAX)[name]
    with compilations() as seen:
        found = computed(function, A, B)
    assert bool(seen) == (name in BY_JAX)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(function)(A, B)), strict=True):
        assert isinstance(ours, np.ndarray)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        tolerance = 2e-6 if name in ROUNDED else 0
        np.testing.assert_allclose(ours.astype(float), np.asarray(theirs, float), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EXACT)
def test_equations_of_constants_are_exact(name: str) -> None:
    """To the last digit, also in half precision and of numbers that are not finite."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        a, b = (array.astype(dtype) for array in (A, B))
        a[0, 0, :3] = np.inf, np.nan, -0.0
        if name == "padded":
            continue
        for ours, theirs in zip(*(jax.tree.leaves(f(EXACT[name], a, b)) for f in (computed, _jitted)), strict=True):
            np.testing.assert_array_equal(np.asarray(ours, float), np.asarray(theirs, float))


def _jitted(function: Callable[..., Any], *arrays: Any) -> Any:
    return jax.jit(function)(*arrays)


@pytest.mark.parametrize("x64", [False, True])
def test_arrays_of_64_bits_are_those_of_jax(x64: bool) -> None:
    captured = np.full((2, 3, 4), 1 / 3)
    with jax.enable_x64(x64), np.errstate(all="raise"):
        found = computed(lambda a: a * captured, A.astype(float))
        expected = jax.jit(lambda a: a * captured)(A.astype(float))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_every_rule_is_compared() -> None:
    used = set()
    for function in (EXACT | ROUNDED).values():
        used |= _names(jax.make_jaxpr(function)(A, B).jaxpr)
    assert set(_RULES) - used <= {"add_any", "copy", "copy_p", "expand_dims"}  # which are made by transposition or not
    assert set(_EXACT) <= set(_RULES)


def _names(jaxpr: Any) -> set[str]:
    inner = [p for e in jaxpr.eqns for name in ("jaxpr", "call_jaxpr") if (p := e.params.get(name)) is not None]
    return {e.primitive.name for e in jaxpr.eqns}.union(*(_names(p.jaxpr) for p in inner))


def test_large_arrays_and_keys_are_left_to_jax() -> None:
    large = jnp.zeros((1 << 22) + 1, jnp.int8)
    (equation,) = jax.make_jaxpr(lambda a: -a)(large).eqns
    assert exact_outputs(equation, [large]) is None
    keys = jax.random.split(jax.random.key(0), 3)
    (equation,) = jax.make_jaxpr(lambda k: lax.slice(k, (1,), (2,)))(keys).eqns
    assert exact_outputs(equation, [keys]) is None
