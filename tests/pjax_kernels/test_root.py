"""The bilinear root against exact integer arithmetic and against mpmath."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import jax
import mpmath
import numpy as np
import pytest

from pjax_kernels import root, roots

from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator

CASES = 1_000_000
CHUNK = 1 << 16
DTYPES = [np.float32, np.float64]
bilinear_root = jax.jit(root.bilinear_root, compiler_options=AS_FOR_USERS)
bilinear_roots = jax.jit(roots.bilinear_roots, compiler_options=AS_FOR_USERS)


# Inputs: p and q come from pairs of vectors of every relation, z from targets relative to p and q.


def powers_of_ten(rng: Generator, low: float, high: float, shape: tuple[int, ...]) -> Array:
    return 10 ** rng.uniform(low, high, shape)


def signs(rng: Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice([-1.0, 1.0], shape)


def nearly(rng: Generator, a: Array) -> Array:
    return a * (1 + rng.normal(size=a.shape) * powers_of_ten(rng, -12, -1, (len(a), 1)))


PAIRS: dict[str, Callable[[Generator, Array, Array], tuple[Array, Array]]] = {
    "independent": lambda rng, a, b: (a, b),
    "equal": lambda rng, a, b: (a, a),
    "opposite": lambda rng, a, b: (a, -a),
    "nearly equal": lambda rng, a, b: (a, nearly(rng, a)),
    "nearly opposite": lambda rng, a, b: (a, -nearly(rng, a)),
    "one zero": lambda rng, a, b: (0 * a, b),
    "both zero": lambda rng, a, b: (0 * a, 0 * b),
}


def products(rng: Generator, pair: str, count: int, dtype: type) -> tuple[Array, Array]:
    """``p`` and ``q`` as a kernel rounds them, so ``q < 2|p|`` happens."""
    a, b = (rng.normal(size=(count, 4)) * powers_of_ten(rng, -15, 15, (count, 1)) for _ in range(2))
    a, b = (x.astype(dtype) for x in PAIRS[pair](rng, a, b))
    return (a * b).sum(1, dtype=dtype), (a * a).sum(1, dtype=dtype) + (b * b).sum(1, dtype=dtype)


def edge_of_set_valued(p: Array, q: Array) -> Array:
    """``|z - p|`` beyond which the projection is set-valued where ``a = b`` or ``a = -b``."""
    return 1 + 0.75 * (q / 4 + abs(p) / 2)


TARGETS: dict[str, Callable[[Generator, Array, Array], Array]] = {
    "the product": lambda rng, p, q: p,
    "near the product": lambda rng, p, q: p + signs(rng, p.shape) * powers_of_ten(rng, -9, 2, p.shape) * (1 + q),
    "any scale": lambda rng, p, q: signs(rng, p.shape) * powers_of_ten(rng, -15, 15, p.shape),
    "edge of the set-valued case": lambda rng, p, q: (
        p
        + signs(rng, p.shape)
        * edge_of_set_valued(p, q)
        * (1 + signs(rng, p.shape) * powers_of_ten(rng, -12, 0, p.shape))
    ),
    "exactly at that edge": lambda rng, p, q: p + signs(rng, p.shape) * edge_of_set_valued(p, q),
    "huge": lambda rng, p, q: signs(rng, p.shape) * powers_of_ten(rng, 20, 37, p.shape),
}


def random_inputs(rng: Generator, pair: str, count: int, dtype: type) -> tuple[Array, Array, Array]:
    """``count`` triples p, q, z, with every kind of target in equal parts."""
    p, q = products(rng, pair, count, dtype)
    parts = zip(TARGETS.values(), np.array_split(p, len(TARGETS)), np.array_split(q, len(TARGETS)), strict=True)
    z = [target(rng, p.astype(np.float64), q.astype(np.float64)) for target, p, q in parts]
    return p, q, np.concatenate(z).astype(dtype)


# Exact arithmetic: Python integers in fixed point.


def fractional_bits(*arrays: Array) -> Array:
    """Bits after the binary point that hold each element of all ``arrays`` exactly."""
    exponents = [np.where(array == 0, 53, np.frexp(array)[1]) for array in arrays]
    return np.maximum(53 - np.min(exponents, axis=0), 0)


def fixed_point(array: Array, bits: Array) -> Array:
    mantissa, exponent = np.frexp(array.astype(np.float64))
    shift = np.where(array == 0, 0, exponent - 53 + bits)
    return (mantissa * 2.0**53).astype(np.int64).astype(object) << shift.astype(object)


def textbook_f(t: Array, p: Array, q: Array, z: Array, one: Array) -> tuple[Array, Array]:
    """A numerator with the sign of f, and the positive denominator with which it is f.

    The pole terms ``(q + 2p)/4 /(1 - t)^2`` and ``(q - 2p)/4 /(1 + t)^2`` are absent where they are zero.
    """
    plus, minus = q + 2 * p, q - 2 * p
    square_to_1 = np.where(plus == 0, one, one - t) ** 2
    square_to_minus_1 = np.where(minus == 0, one, one + t) ** 2
    denominator = 4 * square_to_1 * square_to_minus_1
    return one**2 * (plus * square_to_minus_1 - minus * square_to_1) + (t - z) * denominator, denominator


def tolerance_in_t(t: Array) -> Array:
    """4 ulp in float32, 1e-13 relative in float64; numbers that XLA may flush to zero count as zero."""
    limits = np.finfo(t.dtype)
    size = abs(t)
    ulp = np.spacing(np.nextafter(size, 0))  # just below a power of two, the finer one
    tolerance = 4 * ulp.astype(np.float64) if t.dtype == np.float32 else 1e-13 * size
    return np.where(size < 4 * limits.tiny, 4 * float(limits.tiny), tolerance)


def failures(t: Array, p: Array, q: Array, z: Array) -> list[tuple[float, ...]]:
    """The inputs and results that miss the accuracy required, decided without rounding."""
    missed = []
    for start in range(0, len(t), CHUNK):
        chunk = slice(start, start + CHUNK)
        arrays = t[chunk], p[chunk], q[chunk], z[chunk]
        missed += [tuple(float(array[i]) for array in arrays) for i in np.flatnonzero(~is_accurate(*arrays))]
    return missed


def is_accurate(t: Array, p: Array, q: Array, z: Array, raise_q: bool = True) -> Array:
    """Whether ``t`` is the root, with ``q`` raised to ``2|p|`` where rounding has put it below."""
    q = np.maximum(q, 2 * abs(p)) if raise_q else q
    accurate = is_near_root(t, p, q, z, tolerance_in_t(t))
    if t.dtype == np.float32:
        others = np.flatnonzero(~accurate & (abs(t) >= 0.5))
        accurate[others] = nearly_solves(*(array[others] for array in (t, p, q, z)))
    return accurate


def is_near_root(t: Array, p: Array, q: Array, z: Array, width: Array) -> Array:
    """Whether the root is within ``width`` of ``t``: exactly, where long doubles cannot tell."""
    near = is_near_for_certain(t, p, q, z, width)
    rest = np.flatnonzero(~near)
    t, p, q, z, width = (array[rest] for array in (t, p, q, z, width))
    bits = fractional_bits(t, p, q, z, width)
    exact = (fixed_point(array, bits) for array in (t, p, q, z, width))
    near[rest] = brackets_root(*exact, np.full(len(t), 1, object) << bits.astype(object))
    return near


def is_near_for_certain(t: Array, p: Array, q: Array, z: Array, width: Array) -> Array:
    """Where f is of either sign within 0.999 of the width, by more than all of its terms may be rounded."""
    t, p, q, z, width = (array.astype(np.longdouble) for array in (t, p, q, z, width))
    plus, minus = (q + 2 * p) / 4, (q - 2 * p) / 4

    def sign(t: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            from_plus, from_minus = (
                np.where(pole == 0, 0, pole / distance**2) for pole, distance in ((plus, 1 - t), (minus, 1 + t))
            )
            f = from_plus - from_minus + t - z
            rounding = 32 * np.finfo(np.longdouble).eps * (from_plus + from_minus + abs(t) + abs(z))
            return np.where(abs(f) > rounding, np.sign(f), 0)

    low, high = t - 0.999 * width, t + 0.999 * width
    return ((low <= -1) | (sign(low) < 0)) & ((high >= 1) | (sign(high) > 0))


def brackets_root(t: Array, p: Array, q: Array, z: Array, width: Array, one: Array) -> Array:
    """Whether the root is within ``width`` of ``t``; it is always inside [-1, 1]."""
    low, high = t - width, t + width
    above_low = (low <= -one) | (textbook_f(low, p, q, z, one)[0] <= 0)
    below_high = (high >= one) | (textbook_f(high, p, q, z, one)[0] >= 0)
    return (above_low & below_high).astype(bool)


def nearly_solves(t: Array, p: Array, q: Array, z: Array) -> Array:
    """Whether ``|f(t)| <= 1e-6 (1 + q)``."""
    bits = fractional_bits(t, p, q, z)
    t, p, q, z = (fixed_point(array, bits) for array in (t, p, q, z))
    one = np.full(len(t), 1, object) << bits.astype(object)
    numerator, denominator = textbook_f(t, p, q, z, one)
    return (10**6 * abs(numerator) <= denominator * (one + q)).astype(bool)


def require_wider_than(dtype: type) -> None:
    if np.finfo(np.longdouble).nmant <= np.finfo(dtype).nmant:
        pytest.skip("long double is no wider than float64 on this platform")


def is_set_valued(beta: Array, gamma: Array) -> Array:
    return (abs(beta) == 0.5) & (gamma == 0)


# Tests.


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_accurate_on_a_million_inputs(pair: str, dtype: type) -> None:
    rng = np.random.default_rng(list(PAIRS).index(pair))
    p, q, z = random_inputs(rng, pair, -(-CASES // len(PAIRS)), dtype)
    result = [np.asarray(part) for part in bilinear_root(p, q, z)]
    assert all(np.isfinite(part).all() for part in result)
    assert all(part.dtype == dtype for part in result)
    assert np.abs(result[0]).max() <= 1
    assert failures(result[0], p, q, z) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_accurate_where_p_is_near_half_of_q(dtype: type) -> None:
    """``|p|`` within three ulp of ``q/2``, on both sides: one of the two poles comes and goes.

    No vectors have ``q < 2|p|``; the root for ``q`` itself and the root for ``q = 2|p|`` are equally right.
    """
    rng = np.random.default_rng(7)
    count = 60_000
    q = powers_of_ten(rng, -15, 30, (count,)).astype(dtype)
    p = (q / 2 + rng.integers(-3, 4, count) * np.spacing(q / 2)).astype(dtype) * signs(rng, (count,)).astype(dtype)
    parts = zip(TARGETS.values(), np.array_split(p, len(TARGETS)), np.array_split(q, len(TARGETS)), strict=True)
    z = np.concatenate([target(rng, p.astype(float), q.astype(float)) for target, p, q in parts]).astype(dtype)
    t = np.asarray(bilinear_root(p, q, z).t)
    assert (is_accurate(t, p, q, z) | is_accurate(t, p, q, z, raise_q=False)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_accurate_for_the_largest_and_smallest_numbers(dtype: type) -> None:
    limits = np.finfo(dtype)
    sizes = [0, limits.tiny, limits.eps, 0.5, 1, 3, 1 / limits.eps, limits.max**0.5, limits.max / 8, limits.max]
    q, fraction, z = np.meshgrid(
        np.array(sizes, dtype),
        np.array([-1, np.nextafter(-1, 0, dtype=dtype), -0.3, 0, 0.7, 1], dtype),
        np.array([*sizes, *(-x for x in sizes)], dtype),
    )
    p, q, z = (fraction * (q / 2)).ravel(), q.ravel(), z.ravel()
    result = [np.asarray(part) for part in bilinear_root(p, q, z)]
    assert all(np.isfinite(part).all() for part in result)
    assert failures(result[0], p, q, z) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_agrees_with_mpmath(pair: str, dtype: type) -> None:
    """A root-finder at 800 bits, as a check of the exact arithmetic too."""
    p, q, z = random_inputs(np.random.default_rng(3), pair, 24, dtype)
    t = np.asarray(bilinear_root(p, q, z).t)
    with mpmath.workprec(oracles.PRECISION):
        inputs = (mpmath.matrix(array.tolist()) for array in (p, q, z))
        expected = [oracles.bilinear_root(*row) for row in zip(*inputs, strict=True)]
        errors = np.array([float(abs(mpmath.mpf(float(x)) - y)) for x, y in zip(t, expected, strict=True)])
    size = np.array([float(abs(x)) for x in expected])
    assert (errors[size < 0.5] <= 1.001 * tolerance_in_t(t)[size < 0.5]).all()
    assert is_accurate(np.array([float(x) for x in expected]).astype(dtype), p, q, z).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exact_check_rejects_wrong_roots(dtype: type) -> None:
    p, q, z = random_inputs(np.random.default_rng(4), "independent", 6000, dtype)
    t = np.asarray(bilinear_root(p, q, z).t)
    inside = (abs(t) > 1e-12) & (abs(t) < 0.5)
    wrong = t + (3 * tolerance_in_t(t)).astype(dtype)
    assert inside.sum() > 1000
    assert not is_accurate(wrong, p, q, z)[inside].any()


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_near_root_alone_is_accurate_in_its_range(dtype: type, steps: int) -> None:
    """``near_root`` takes the scaled residual as exact, so here ``z`` is what makes it so."""
    rng = np.random.default_rng(11)
    count, largest = 60_000, root.near_limits(dtype)[steps - 1]
    q = powers_of_ten(rng, -15, 30, (count,)).astype(dtype)
    p = (q / 2 * rng.choice([-1, 1, *rng.uniform(-1, 1, 6)], count)).astype(dtype)
    size = np.where(rng.random(count) < 0.5, largest, largest * powers_of_ten(rng, -9, 0, (count,)))
    scaled = (size * signs(rng, (count,))).astype(dtype)

    t = np.asarray(jax.jit(partial(root.near_root, steps=steps), compiler_options=AS_FOR_USERS)(scaled, p, q))
    width = tolerance_in_t(t)
    if largest > root.NEAR:
        width *= 2
    bits = fractional_bits(t, p, q, scaled, width) + 64  # below, z is rounded to these bits
    exact_t, exact_p, exact_q, exact_scaled, width = (fixed_point(x, bits) for x in (t, p, q, scaled, width))
    one = np.full(count, 1, object) << bits.astype(object)
    z = exact_p + ((exact_scaled * (one + exact_q)) >> bits.astype(object))
    assert brackets_root(exact_t, exact_p, exact_q, z, width, one).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_far_roots_in_a_loop_are_accurate(pair: str, dtype: type) -> None:
    """Twice the tolerance, beyond what near roots are used for."""
    p, q, z = random_inputs(np.random.default_rng(12), pair, 30_000, dtype)
    far = abs(z / 2 - p / 2) / (0.5 + q / 2) > root.near_limits(dtype)[-1]
    p, q, z = p[far], q[far], z[far]
    t = np.asarray(bilinear_roots(p, q, z).t)
    q = np.maximum(q, 2 * abs(p))
    accurate = is_near_root(t, p, q, z, 2 * tolerance_in_t(t))
    others = np.flatnonzero(~accurate & (abs(t) >= 0.5))
    accurate[others] = nearly_solves(*(array[others] for array in (t, p, q, z)))
    assert len(t) > 1000
    assert accurate.all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_steps_of_near_root_reach_as_far_as_bilinear_root_uses_them(dtype: type) -> None:
    assert root.near_limits(dtype)[1] == root.NEAR


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_coefficients_belong_to_the_root(pair: str, dtype: type) -> None:
    require_wider_than(dtype)
    p, q, z = random_inputs(np.random.default_rng(5), pair, 30_000, dtype)
    t, beta, gamma, _ = (np.asarray(part).astype(np.longdouble) for part in bilinear_root(p, q, z))
    single, eps = ~is_set_valued(beta, gamma), float(np.finfo(dtype).eps)

    inside = single & (abs(t) <= 0.75) & (abs(t) > 4 * np.finfo(dtype).tiny ** 0.5)
    np.testing.assert_allclose(beta[inside], t[inside] / (1 - t[inside] ** 2), rtol=4 * eps)
    np.testing.assert_allclose(gamma[inside], t[inside] ** 2 / (1 - t[inside] ** 2), rtol=4 * eps)
    # gamma (1 + gamma) = beta^2 for every t, however near to 1.
    far = single & (abs(t) > 0.75)
    np.testing.assert_allclose((gamma * (1 + gamma))[far], (beta * beta)[far], rtol=4 * eps)
    assert (np.sign(beta) == np.sign(t)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_coefficients_solve_the_equation_near_the_ends(pair: str, dtype: type) -> None:
    """There t itself holds few digits of 1 - |t|; the increments are made with ``v = |beta| + gamma = t/(1 - t)``."""
    require_wider_than(dtype)
    p, q, z = random_inputs(np.random.default_rng(6), pair, 30_000, dtype)
    t, beta, gamma, _ = (np.asarray(part).astype(np.longdouble) for part in bilinear_root(p, q, z))
    p, q, z = (array.astype(np.longdouble) for array in (p, q, z))
    sign, q = np.sign(t), np.maximum(q, 2 * abs(p))
    pole, other, change = (q + 2 * sign * p) / 4, (q - 2 * sign * p) / 4, abs(z - p)
    held = np.sqrt(change) < 1e28 * np.sqrt(pole)  # v is bounded at the three-quarter power of the largest number
    missing_pole = (pole == 0) & (change < edge_of_set_valued(p, q))
    far = (abs(t) > 0.5) & (held | missing_pole) & ~is_set_valued(beta, gamma)
    v = abs(beta) + gamma
    left = pole * v * (2 + v) + other * v * (2 + 3 * v) / (1 + 2 * v) ** 2 + v / (1 + v)
    bound = 4 * np.finfo(dtype).eps * (1 + q + change)
    assert far.sum() > 1000
    assert (abs(left - change) <= bound)[far].all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_set_valued_cases_have_the_radius_that_reaches_the_set(sign: int, dtype: type) -> None:
    """With ``a = -b`` the nearest points have ``|a' + b'|^2/4 = radius^2``, ``a' - b' = (a - b)/2``, ``z' = z - 1``."""
    rng = np.random.default_rng(8)
    count = 20_000
    q = np.where(rng.random(count) < 0.2, 0, powers_of_ten(rng, -15, 15, (count,))).astype(dtype)
    p = -sign * q / 2
    excess = powers_of_ten(rng, -3, 6, (count,)) * (1 + q)
    z = (p + sign * (1 + 0.75 * (q / 2) + excess)).astype(dtype)
    t, beta, gamma, radius = (np.asarray(part).astype(np.float64) for part in bilinear_root(p, q, z))
    assert (t == sign).all()
    assert (beta - sign * gamma == 0.5 * sign).all()
    p, q, z = (array.astype(np.float64) for array in (p, q, z))
    error = radius**2 - (sign * (z - p) - 1 - 0.375 * q)
    assert (abs(error) <= 8 * np.finfo(dtype).eps * (1 + q + abs(z - p))).all()


def flops_and_divisions(steps: int) -> tuple[int, int]:
    number = jax.ShapeDtypeStruct((), np.float32)
    jaxpr = jax.make_jaxpr(partial(root.near_root, steps=steps))(number, number, number)
    counts = Counter(equation.primitive.name for equation in jaxpr.eqns)
    assert set(counts) <= {"add", "sub", "mul", "div"}
    return counts.total() - counts["div"], counts["div"]


def test_near_root_costs_what_its_docstring_says() -> None:
    before, step = flops_and_divisions(0), [after - flops for after, flops in costs_of_a_step()]
    stated = re.search(r"(\d+) flops and a division each, and (\d+) and 1 before", root.near_root.__doc__ or "")
    assert stated is not None
    assert step == [int(stated[1]), 1]
    assert before == (int(stated[2]), 1)


def costs_of_a_step() -> Iterator[tuple[int, int]]:
    yield from zip(flops_and_divisions(2), flops_and_divisions(1), strict=True)
