"""The bilinear root: the one number that projects onto ``z = a . b``.

The projection of ``(a, b, z)`` onto the set ``{a . b = z}`` is ``a' = (a + t b)/(1 - t^2)``,
``b' = (b + t a)/(1 - t^2)``, ``z' = z - t``, where ``t`` in [-1, 1] is the root of the increasing function
``f(t) = ((1 + t^2) p + t q)/(1 - t^2)^2 + t - z`` with ``p = a . b``, ``q = |a|^2 + |b|^2 >= 2|p|``
(Bauschke, Lal, Wang, arXiv 2206.04878).  With ``P = |a + b|^2/4 = (q + 2p)/4``, ``M = |a - b|^2/4 = (q - 2p)/4``

    f(t) = P/(1 - t)^2 - M/(1 + t)^2 + t - z,        a' + b' = (a + b)/(1 - t),   a' - b' = (a - b)/(1 + t),

so each end of the interval is a pole, and the projection is set-valued just where the pole that should stop the
root is missing: ``P = 0`` and ``z`` large (``a = -b``), or ``M = 0`` and ``-z`` large (``a = b``).

All of it is elementwise ``jax.numpy`` without control flow: every implementation, Pallas kernels included,
evaluates these same expressions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

NEAR = 1 / 16
"""Largest ``|z - p|/(1 + q)`` for which two steps of :func:`near_root` give the root to 4 ulp."""

FAR_STEPS = 4
"""Halley steps of :func:`far_root`: the error falls as 6e-1, 8e-2, 6e-4, 2e-10, 0 over all inputs."""


class BilinearRoot(NamedTuple):
    """The root ``t``, and the coefficients of the increments that follow from it.

    ``a' - a = gamma a + beta b`` and ``b' - b = gamma b + beta a``.  Where the projection is unique, ``|t| < 1``,
    ``beta = t/(1 - t^2)``, ``gamma = t beta`` and ``radius = 0``.  Where it is set-valued, ``t`` is 1 or -1:
    ``beta = t/2`` and ``gamma = 0`` then give the part that is determined, which halves ``a`` and ``b``, and for every
    unit vector ``e`` a nearest point is reached by adding ``radius e`` to ``a`` and ``t radius e`` to ``b``.
    """

    t: Array
    beta: Array
    gamma: Array
    radius: Array


def bilinear_root(p: Array, q: Array, z: Array, residual: Array | None = None) -> BilinearRoot:
    """The root for every finite ``p``, ``q``, ``z`` of one floating-point dtype: inside [-1, 1] and never NaN.

    ``residual`` is ``z - p`` where that is known beyond the rounding of both.
    """
    scaled = scaled_residual(p, q, z, residual)
    near = near_coefficients(near_root(scaled, p, q))
    far = far_root(*squares(p, q), z)
    is_near = jnp.abs(scaled) <= NEAR
    return BilinearRoot(*(jnp.where(is_near, n, f) for n, f in zip(near, far, strict=True)))


def scaled_residual(p: Array, q: Array, z: Array, residual: Array | None = None) -> Array:
    """``(z - p)/(1 + q)``: a first guess of the root, and the measure of how hard it is to find."""
    # Halved: the difference of two finite numbers must not overflow.
    half = 0.5 * z - 0.5 * p if residual is None else 0.5 * residual
    return half / (0.5 + 0.5 * q)


def quick_scaled_residual(p: Array, q: Array, z: Array, residual: Array | None = None) -> Array:
    """The same with one rounding more, by the reciprocal of :func:`near_root`.

    XLA fuses it into all that uses it; a quotient it would store.  Meant for rounded ``p``, whose error is larger.
    """
    quarter = 0.25 * z - 0.25 * p if residual is None else 0.25 * residual
    return quarter * (1 / (0.25 + 0.25 * q))


def near_limits(dtype: DTypeLike) -> tuple[float, float, float]:
    """Largest ``|z - p|/(1 + q)`` for which one, two, three steps of :func:`near_root` converge; the last to 8 ulp."""
    one_step = 1 / 64 if jnp.finfo(dtype).bits <= 32 else 1 / 1024
    return one_step, NEAR, 1 / 4


def near_coefficients(t: Array) -> BilinearRoot:
    """The coefficients for a root well inside (-1, 1)."""
    beta = t / (1 - t * t)
    return BilinearRoot(t, beta, t * beta, jnp.zeros_like(t))


def near_root(scaled: Array, p: Array, q: Array, *, steps: int = 2) -> Array:
    """The root for small ``scaled``, by Halley steps from there: 42 flops and a division each, and 5 and 1 before."""
    four_c = 1 / (0.25 + 0.25 * q)  # 1/(1 + q) would be subnormal, hence flushed to zero, for the largest q
    c, p = 0.25 * four_c, 0.25 * p * four_c
    t = scaled
    for _ in range(steps):
        t = _near_step(t, scaled, p, c)
    return t


def _near_step(t: Array, scaled: Array, p: Array, c: Array) -> Array:
    """One Halley step on f cleared of its denominators; ``p`` and the 1 in f are in units of ``1 + q = 1/c``."""
    t2 = t * t
    u = 1 - t2
    # f (1 - t^2)^2, arranged so that t - scaled is the only difference of nearly equal terms, and exact.
    f = (t - scaled) + t2 * ((3 - t2) * p + (2 - t2) * (scaled - c * t))
    f1 = 2 * p * t * (3 + t2) + (1 - c) * (1 + 3 * t2) + c * (u * u * u)  # f' (1 - t^2)^3
    f2 = 3 * (p * (1 + t2 * (6 + t2)) + 2 * (1 - c) * t * (1 + t2))  # f''/2 (1 - t^2)^4
    return t - u * (f * f1) / (f1 * f1 - f * f2)


class Square(NamedTuple):
    """A squared norm as a value and what rounding took from it."""

    value: Array
    error: Array


def squares(p: Array, q: Array) -> tuple[Square, Square]:
    """``P = |a + b|^2/4`` and ``M = |a - b|^2/4`` from ``p`` and ``q``, none below zero."""
    q = jnp.maximum(q, 2 * jnp.abs(p))  # rounding of p and q may have lost |a - b|^2 >= 0
    return Square(*_two_sum(0.25 * q, 0.5 * p)), Square(*_two_sum(0.25 * q, -0.5 * p))


def far_root(plus: Square, minus: Square, z: Array) -> BilinearRoot:
    """The root for ``P = plus``, ``M = minus`` where it is not near 0, set-valued cases included."""
    sign, pole, other, equation = _oriented(plus, minus, z)
    lower_bound = _lower_bound(equation)
    v = _far_start(lower_bound, equation)
    for _ in range(FAR_STEPS):
        v = _far_step(v, lower_bound, equation)
    t = jnp.where(v <= 3, _precise_step(v / (1 + v), pole, other, sign * z), v / (1 + v))
    v = jnp.where(v <= 3, t / (1 - t), v)
    set_valued = (pole.value <= 0) & (equation.excess >= 0)
    return _far_coefficients(sign, t, v, set_valued, other, equation)


def stretched(t: Array) -> Array:
    """``v = t/(1 - |t|)``: small roots keep their precision in it, and so do the distances of large ones from 1 and -1.

    It is infinite where the projection is set-valued.
    """
    return t * (1 / (1 - jnp.abs(t)))


def stretched_iteration(minus_v: Array, scaled: Array, plus: Array, minus: Array, *, found: float = 0) -> Array:
    """One step nearer to the roots, given and returned as :func:`stretched` and negated, for ``P``, ``M`` as they are.

    For loops: one elementwise expression of few operations.  Where ``minus_v`` is infinite, the result is the guess of
    :func:`far_root`, and ``FAR_STEPS`` later the root to 8 ulp; from the ``scaled`` residual, as many steps as
    :func:`near_root` takes are enough.  Where the size of that is at most ``found``, nothing changes.
    """
    pole, other, equation = _signed_equation(scaled, plus, minus)
    lower_bound, v = _lower_bound(equation), jnp.abs(minus_v)
    v = jnp.where(jnp.isinf(v), _far_start(lower_bound, equation), _far_step(v, lower_bound, equation))
    v = jnp.where((pole <= 0) & (equation.excess >= 0), jnp.inf, v)
    return jnp.where(jnp.abs(scaled) <= found, minus_v, jnp.where(scaled < 0, v, -v))


def stretched_coefficients(v: Array) -> tuple[Array, Array, Array]:
    """``t``, ``beta`` and ``gamma`` of a :func:`stretched` root."""
    size, sign, set_valued = jnp.abs(v), jnp.sign(v), jnp.isinf(v)
    # Quotients of three kinds, none in two of the results: the compiler would store it for them.
    t = jnp.where(set_valued, sign, v / (1 + size))
    beta = jnp.where(set_valued, 0.5 * sign, (1 + size) * (v / (1 + 2 * size)))
    return t, beta, jnp.where(set_valued, 0, beta * (v * (1 / (1 + size))))


def stretched_rest(v: Array) -> Array:
    """``beta`` less ``gamma`` with its sign: ``t/(1 + |t|)``."""
    size = jnp.abs(v)
    return jnp.where(jnp.isinf(v), 0.5 * jnp.sign(v), v / (1 + 2 * size))


def stretched_radius(v: Array, scaled: Array, plus: Array, minus: Array) -> Array:
    """The radius of a set-valued projection, 0 where it is not set-valued."""
    _, other, equation = _signed_equation(scaled, plus, minus)
    radius = jnp.sqrt(jnp.maximum(equation.excess, 0)) * jnp.sqrt(1 + 2 * other)
    return jnp.where(jnp.isinf(v), radius, 0)


def _signed_equation(scaled: Array, plus: Array, minus: Array) -> tuple[Array, Array, _Equation]:
    """The squares by the pole at the sign of the root and by the other one, and the equation for v."""
    negative = scaled < 0
    pole, other = jnp.where(negative, minus, plus), jnp.where(negative, plus, minus)
    return pole, other, _scaled_equation(pole, other, jnp.abs(scaled))


def _oriented(plus: Square, minus: Square, z: Array) -> tuple[Array, Square, Square, _Equation]:
    """The sign of the root, the squares by the pole at that sign and by the other one, and the equation for v."""
    # f is odd under (P, M, z, t) -> (M, P, -z, -t): solve for t >= 0, where only the pole at 1 matters.
    negative = z < plus.value - minus.value
    sign = jnp.where(negative, -jnp.ones_like(z), jnp.ones_like(z))
    pole = Square(*(jnp.where(negative, m, p) for p, m in zip(plus, minus, strict=True)))
    other = Square(*(jnp.where(negative, p, m) for p, m in zip(plus, minus, strict=True)))
    return sign, pole, other, _scale_equation(pole, other, sign * z)


def _far_coefficients(
    sign: Array, t: Array, v: Array, set_valued: Array, other: Square, equation: _Equation
) -> BilinearRoot:
    """The coefficients for the root ``sign * t`` and ``v = t/(1 - t)``."""
    radius = jnp.sqrt(jnp.maximum(equation.excess, 0)) * jnp.sqrt(1 + 2 * other.value)
    return BilinearRoot(
        t=sign * jnp.where(set_valued, 1, t),
        beta=sign * jnp.where(set_valued, 0.5, (1 + v) * (v / (1 + 2 * v))),
        gamma=jnp.where(set_valued, 0, v * (v / (1 + 2 * v))),
        radius=jnp.where(set_valued, radius, 0),
    )


def changes_of_halves(t: Array, beta: Array, gamma: Array) -> tuple[Array, Array]:
    """``gamma + beta = t/(1 - t)``, by which ``a + b`` grows, and ``gamma - beta = -t/(1 + t)`` for ``a - b``.

    Each from the form that does not cancel.
    """
    of_sum = jnp.where(t > 0, gamma + beta, t / (1 - jnp.minimum(t, 0)))
    of_difference = jnp.where(t < 0, gamma - beta, -t / (1 + jnp.maximum(t, 0)))
    return of_sum, of_difference


class _Equation(NamedTuple):
    """``pole v (2 + v) + other v (2 + 3v)/(1 + 2v)^2 + one v/(1 + v) = scaled``, everything over ``1 + q``.

    In ``v = t/(1 - t)`` there is no pole, and small distances from both ends of 0 <= t < 1 keep their precision.
    The last two terms are bounded, by 3/4 ``other`` and ``one``; ``excess`` is ``scaled`` less these bounds.
    """

    pole: Array
    other: Array
    one: Array
    scaled: Array
    excess: Array


def _scale_equation(pole: Square, other: Square, z: Array) -> _Equation:
    """The equation for v, divided by ``1 + q = 1 + 2 (P + M)``."""
    unit = 2.0**-3  # keeps the sums below finite for the largest inputs
    residual = (unit * z - unit * pole.value) + unit * other.value
    per_unit = 1 / (unit + (2 * unit) * (pole.value + other.value))
    return _scaled_equation(pole.value, other.value, residual * per_unit)


def _scaled_equation(pole: Array, other: Array, scaled: Array) -> _Equation:
    """The same from the scaled residual."""
    unit = 2.0**-3
    per_unit = 1 / (unit + (2 * unit) * (pole + other))
    one, other = unit * per_unit, (unit * other) * per_unit
    return _Equation((unit * pole) * per_unit, other, one, scaled, scaled - (one + 0.75 * other))


def _lower_bound(equation: _Equation) -> Array:
    """A number that v is not below: the root where the bounded terms are as steep as at 0."""
    return 2 * equation.scaled * (1 / (1 + jnp.sqrt(1 + 4 * equation.pole * equation.scaled)))


def _far_start(lower_bound: Array, equation: _Equation) -> Array:
    """A guess of v: the largest of three, one for each balance of the terms."""
    pole, other, one, _, excess = equation
    tiny = jnp.finfo(excess.dtype).tiny
    # The pole alone takes the excess: pole v (2 + v) = excess.
    root = jnp.sqrt(jnp.maximum(excess, 0)) / jnp.sqrt(jnp.maximum(pole, tiny))
    by_excess = jnp.where(root > 1e6, root, root * (root / (1 + jnp.sqrt(1 + root * root))))
    # The bounded terms are near their bounds, which they miss by tail/(1 + v).
    tail = one + 0.25 * other
    # The cube root of pole tail^2: a few digits are enough, and not every platform has cube roots.
    missing = jnp.maximum(-excess, 0) + jnp.exp((jnp.log(pole) + 2 * jnp.log(tail)) * (1 / 3))
    by_tail = tail / jnp.maximum(missing, tiny) - 1
    return jnp.minimum(jnp.maximum(lower_bound, jnp.maximum(by_excess, by_tail)), _largest(excess))


def _largest(like: Array) -> float:
    """A bound on v that leaves room for its multiples."""
    return float(jnp.finfo(like.dtype).max) / 8


def _far_step(v: Array, lower_bound: Array, equation: _Equation) -> Array:
    """One Halley step in v."""
    pole, other, one, scaled, excess = equation
    e, d = 1 / (1 + v), 1 / (1 + 2 * v)
    d2 = d * d
    below = v * (pole * (2 + v) + other * (2 + 3 * v) * d2 + one * e) - scaled
    above = pole * v * (2 + v) - (0.25 * other * d * (2 + d) + one * e) - excess  # the same, precise for large v
    f = jnp.where(v < 1, below, above)
    f1 = 2 * (pole * (1 + v) + other * (1 + v) * d2 * d) + one * e * e
    f2 = pole - other * (5 + 4 * v) * d2 * d2 - one * e * e * e
    new = v - f / (f1 - f * (f2 / f1))
    # Where the slope vanishes within rounding (pole = 0 at the very edge of the set-valued case) a step is noise.
    return jnp.where((new >= 0.9 * lower_bound) & (new <= _largest(v)), new, v)


def _precise_step(t: Array, pole: Square, other: Square, z: Array) -> Array:
    """A last Halley step for ``t <= 3/4``, with the residual in twice the working precision.

    The flat part of f would multiply a rounding error by up to three.  The step starts from ``t`` cut to half its
    digits, so that the squares in f are exact.
    """
    t = _split(t)[0]
    unit = 2.0 ** -(jnp.finfo(t.dtype).nmant // 2 + 4)  # keeps all below, splitting too, finite for the largest inputs
    s2, w2 = (1 - t) * (1 - t), (1 + t) * (1 + t)
    # f = P t (2 - t)/(1 - t)^2 + M t (2 + t)/(1 + t)^2 + ((P - M) - z) + t
    from_pole, error1 = _times_quotient(unit * pole.value, t * (2 - t), s2)
    from_other, error2 = _times_quotient(unit * other.value, t * (2 + t), w2)
    residual, error3 = _two_sum(unit * pole.value, -unit * other.value)
    residual, error4 = _two_sum(residual, -unit * z)
    total, error5 = _two_sum(from_pole, from_other)
    total, error6 = _two_sum(total, residual)
    total, error7 = _two_sum(total, unit * t)
    error_pole = (unit * pole.error) * (1 + t * (2 - t) / s2)
    error_other = (unit * other.error) * (t * (2 + t) / w2 - 1)
    f = total + (error1 + error2 + error3 + error4 + error5 + error6 + error7 + error_pole + error_other)
    f1 = 2 * ((unit * pole.value) / (s2 * (1 - t)) + (unit * other.value) / (w2 * (1 + t))) + unit
    f2 = 3 * ((unit * pole.value) / (s2 * s2) - (unit * other.value) / (w2 * w2))
    return t - f / (f1 - f * (f2 / f1))


def _times_quotient(x: Array, numerator: Array, denominator: Array) -> tuple[Array, Array]:
    """``x * numerator / denominator`` and what rounding took from it."""
    quotient = numerator / denominator
    product, product_error = _two_product(quotient, denominator)
    quotient_error = ((numerator - product) - product_error) / denominator
    total, total_error = _two_product(x, quotient)
    return total, total_error + x * quotient_error


def _two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """The rounded sum and its rounding error (Knuth)."""
    total = x + y
    y_part = total - x
    return total, (x - (total - y_part)) + (y - y_part)


def _two_product(x: Array, y: Array) -> tuple[Array, Array]:
    """The rounded product and its rounding error (Dekker)."""
    product = x * y
    x_high, x_low = _split(x)
    y_high, y_low = _split(y)
    return product, ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low


def _split(x: Array) -> tuple[Array, Array]:
    """Two numbers of half the digits that add up to ``x`` (Veltkamp)."""
    shifted = (2.0 ** ((jnp.finfo(x.dtype).nmant + 2) // 2) + 1) * x
    high = shifted - (shifted - x)
    return high, x - high
