"""Graphs of scalar functions as curves: where they are projected onto, and where to begin."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Scalar = Callable[[Array], Array]

PARTS = 16
"""Starts on the way to where ``f`` reaches ``z``, along each axis."""

_GAUSS = tuple(zip((0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)), (5 / 18, 8 / 18, 5 / 18), strict=True))
"""Places and weights of Gauss's quadrature on [0, 1], exact for polynomials up to degree 5."""


@dataclass(frozen=True)
class Curve:
    """The graph of ``f`` as ``t -> (x, z)``, with ``t = 0`` above ``anchor(x)``.

    Attributes:
        value: ``f``.
        reach: ``reach(x, f(x))``: residuals up to here have one nearest point, which Newton's method finds from ``x``.
        starts: ``starts(x, z, residual)``: values of ``t`` near which the nearest point of a far one may be, stacked
            along a new first axis.
        point: ``point(x, t)``: the curve.
        changes: ``changes(x, t)``: ``point(x, t) - point(x, 0)``, without cancellation.
        anchors: functions of ``(x, z)``, one for each branch: ``x`` itself where it is in the domain of ``f``, and
            elsewhere some point of it; ``x`` is on the first branch where it is on one.
        lowest: ``lowest(x)``: where the curve begins; None if it has no end.
    """

    value: Scalar
    reach: Callable[[Array, Array], Array]
    starts: Callable[[Array, Array, Array], Array]
    point: Callable[[Array, Array], tuple[Array, Array]]
    changes: Callable[[Array, Array], tuple[Array, Array]]
    anchors: tuple[Callable[[Array, Array], Array], ...] = (lambda x, z: x,)
    lowest: Callable[[Array], Array] | None = None


def slope_of(value: Scalar, x: Array) -> Array:
    """The derivative."""
    return jax.jvp(value, (x,), (jnp.ones_like(x),))[1]


def graph(
    value: Scalar,
    *,
    reach: Callable[[Array, Array], Array],
    inverses: tuple[Scalar, ...] = (),
    difference: Callable[[Array, Array], Array] | None = None,
    anchor: Callable[[Array, Array], Array] = lambda x, z: x,
    smooth: float = 0.0,
) -> Curve:
    """The curve ``t -> (x + t, f(x + t))``.

    ``inverses(z)`` are the points where ``f`` is ``z`` or comes nearest to it, ``difference(x, t)`` is
    ``f(x + t) - f(x)``; ``smooth`` is a length on which ``f`` is a polynomial of degree 6, but for rounding.
    """

    def changes(x: Array, t: Array) -> tuple[Array, Array]:
        return t, _difference(value, x, t, smooth) if difference is None else difference(x, t)

    def starts(x: Array, z: Array, residual: Array) -> Array:
        if not inverses:
            return _around(residual)
        fractions = _fractions(residual)
        ways = [inverse(z) - x for inverse in inverses]
        on_the_way = [inverse(z - (1 - fractions) * residual) - x for inverse in inverses]
        return jnp.concatenate([*(fractions * way for way in ways), *on_the_way])

    return Curve(value, reach, starts, lambda x, t: (x + t, value(x + t)), changes, (anchor,))


def _fractions(like: Array) -> Array:
    """Equal parts of 1, along a new first axis."""
    return jnp.arange(1, PARTS + 1, dtype=like.dtype).reshape(-1, *(1,) * like.ndim) / PARTS


def _around(residual: Array) -> Array:
    """Steps either way, no longer than the residual: the nearest point is no farther along x."""
    lengths = np.unique([*(k / PARTS for k in range(1, PARTS + 1)), *(0.5**k for k in range(12))])
    steps = jnp.asarray([*lengths, *-lengths], residual.dtype)
    return steps.reshape(-1, *(1,) * residual.ndim) * residual


def _difference(value: Scalar, x: Array, t: Array, smooth: float) -> Array:
    """``f(x + t) - f(x)``: as the integral of the slope where ``f`` is smooth, or that agrees up to rounding."""
    start, end = value(x), value(x + t)
    integral = t * sum(weight * slope_of(value, x + place * t) for place, weight in _GAUSS)
    rounding = 8 * jnp.finfo(x.dtype).eps * (jnp.abs(start) + jnp.abs(end) + jnp.abs(x * slope_of(value, x)))
    exact = (jnp.abs(t) <= smooth) | (jnp.abs(integral - (end - start)) <= rounding)
    return jnp.where(exact, integral, end - start)


def _constant_reach(limit: float) -> Callable[[Array, Array], Array]:
    return lambda x, y: jnp.full_like(x, limit)


# Functions by name.


def _tanh() -> Curve:
    def inverse(z: Array) -> Array:
        return jnp.arctanh(jnp.clip(z, *_open_interval(z, 1)))

    def difference(x: Array, t: Array) -> Array:
        return jnp.tanh(t) * (1 - jnp.tanh(x) * jnp.tanh(x + t))

    return graph(jnp.tanh, reach=_constant_reach(0.6), inverses=(inverse,), difference=difference)


def _open_interval(like: Array, limit: float) -> tuple[float, float]:
    inside = limit * (1 - 4 * float(jnp.finfo(like.dtype).eps))
    return -inside, inside


def _sigmoid() -> Curve:
    def inverse(z: Array) -> Array:
        return 2 * jnp.arctanh(jnp.clip(2 * z - 1, *_open_interval(z, 1)))

    def difference(x: Array, t: Array) -> Array:
        sign = jnp.where(t < 0, -1, 1).astype(t.dtype)
        return -sign * jax.nn.sigmoid(sign * (x + t)) * jax.nn.sigmoid(-sign * x) * jnp.expm1(-jnp.abs(t))

    return graph(jax.nn.sigmoid, reach=_constant_reach(4.0), inverses=(inverse,), difference=difference)


def _softplus() -> Curve:
    def inverse(z: Array) -> Array:
        z = jnp.maximum(z, jnp.finfo(z.dtype).tiny)
        return z + jnp.log(-jnp.expm1(-z))

    return graph(jax.nn.softplus, reach=_constant_reach(1.5), inverses=(inverse,), smooth=0.1)


def _exp() -> Curve:
    def inverse(z: Array) -> Array:
        return jnp.log(jnp.maximum(z, jnp.finfo(z.dtype).tiny))

    def anchor(x: Array, z: Array) -> Array:
        return jnp.minimum(x, 0.5 * math.log(float(jnp.finfo(x.dtype).max)))

    def difference(x: Array, t: Array) -> Array:
        return jnp.exp(x) * jnp.expm1(t)

    return graph(jnp.exp, reach=_constant_reach(0.25), inverses=(inverse,), difference=difference, anchor=anchor)


def _log() -> Curve:
    """By the inverse, which is defined everywhere: ``t -> (exp(w), w)``."""
    return Curve(
        value=jnp.log,
        reach=_constant_reach(0.125),
        starts=lambda x, z, residual: jnp.concatenate(
            [_fractions(z) * residual, jnp.log1p(_fractions(z) * jnp.expm1(jnp.minimum(residual, 80)))]
        ),
        point=lambda x, t: (x * jnp.exp(t), jnp.log(x) + t),
        changes=lambda x, t: (x * jnp.expm1(t), t),
        anchors=(lambda x, z: jnp.where(x > 0, x, jnp.exp(jnp.clip(z, -80, 0))),),
    )


def _sqrt() -> Curve:
    """By the inverse: ``t -> (w^2, w)`` for ``w >= 0``."""

    def starts(x: Array, z: Array, residual: Array) -> Array:
        root = jnp.sqrt(x)
        to_z = _fractions(z) * (jnp.maximum(z, 0) - root)
        return jnp.concatenate([to_z, -root[None]])

    return Curve(
        value=jnp.sqrt,
        reach=_constant_reach(0.125),
        starts=starts,
        point=lambda x, t: ((jnp.sqrt(x) + t) ** 2, jnp.sqrt(x) + t),
        changes=lambda x, t: (jnp.maximum(t * (2 * jnp.sqrt(x) + t), -x), t),  # no rounding out of the domain
        anchors=(lambda x, z: jnp.maximum(x, 0),),
        lowest=lambda x: -jnp.sqrt(x),
    )


def _power(exponent: float) -> Curve:
    """``x ** exponent``; for whole numbers from 2 on as it is, else ``t -> (x e^t, x^p e^(p t))`` on each branch."""
    whole = float(exponent).is_integer()
    if whole and exponent >= 0:
        return _whole_power(int(exponent))
    odd = whole and exponent % 2 == 1

    def value(x: Array) -> Array:
        return lax.integer_pow(x, int(exponent)) if whole else x**exponent

    def inverse(z: Array) -> Array:
        limits = jnp.finfo(z.dtype)
        return jnp.clip(jnp.abs(z), limits.tiny**0.25, limits.max**0.25) ** (1 / exponent)

    def starts(x: Array, z: Array, residual: Array) -> Array:
        if odd:
            z = jnp.where(z * x > 0, z, 0)
        way = jnp.log(inverse(z) / jnp.abs(x))
        near = jnp.asarray([sign * 2.0**k for sign in (1, -1) for k in range(-4, 4)], z.dtype)
        near = jnp.broadcast_to(near.reshape(-1, *(1,) * z.ndim), (len(near), *z.shape))
        return jnp.concatenate([_fractions(z) * way, near])

    def own(x: Array, z: Array) -> Array:
        inside = (x != 0) if whole else (x > 0)
        return jnp.where(inside, x, jnp.where(z < 0, -1, 1) * inverse(z) if odd else inverse(z))

    def other(x: Array, z: Array) -> Array:
        return -jnp.sign(own(x, z)) * inverse(z)

    return Curve(
        value=value,
        reach=lambda x, y: jnp.abs(y) * (min(1, abs(exponent)) / 16),
        starts=starts,
        point=lambda x, t: (x * jnp.exp(t), value(x) * jnp.exp(exponent * t)),
        changes=lambda x, t: (x * jnp.expm1(t), value(x) * jnp.expm1(exponent * t)),
        anchors=(own, other) if whole else (own,),
    )


def _whole_power(n: int) -> Curve:
    def root(z: Array) -> Array:
        return (jnp.abs(z) if n % 2 else jnp.maximum(z, 0)) ** (1 / max(n, 1))

    def reach(x: Array, y: Array) -> Array:
        return 0.5 / (max(n * (n - 1), 1) * jnp.maximum(jnp.abs(x) + 0.1, 1 if n == 2 else 0.1) ** max(n - 2, 0) * 1.0)

    inverses = (lambda z: jnp.sign(z) * root(z),) if n % 2 else (root, lambda z: -root(z))
    return graph(
        lambda x: lax.integer_pow(x, n),
        reach=lambda x, y: jnp.minimum(reach(x, y), 0.25 if n <= 2 else 0.1),
        inverses=inverses,
    )


def _gelu(approximate: bool = True) -> Curve:
    return graph(functools.partial(jax.nn.gelu, approximate=approximate), reach=_constant_reach(0.55), smooth=0.1)


NAMED: Mapping[str, Callable[..., Curve]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "gelu": _gelu,
    "silu": lambda: graph(jax.nn.silu, reach=_constant_reach(0.9), smooth=0.1),
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "rsqrt": lambda: _power(-0.5),
    "reciprocal": lambda: _power(-1),
    "square": lambda: _power(2),
    "power": _power,
    "sin": lambda: graph(jnp.sin, reach=_constant_reach(0.5), smooth=0.1),
    "cos": lambda: graph(jnp.cos, reach=_constant_reach(0.5), smooth=0.1),
}
"""What makes the curve of a smooth function, from its settings."""


def of_function(value: Scalar) -> Curve:
    """The curve of a function of which nothing is known but that it is smooth."""

    def reach(x: Array, y: Array) -> Array:
        bend = jnp.abs(slope_of(functools.partial(slope_of, value), x))
        return jnp.minimum(0.1, 0.25 / jnp.maximum(bend, 1e-3)).astype(x.dtype)

    return graph(value, reach=reach)
