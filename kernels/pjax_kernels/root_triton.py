"""The bilinear root of :mod:`pjax_kernels.root` for Triton kernels: the same equations, see there.

Three things differ.  Rounding errors of products are taken with halves cut by their bits, which cannot overflow.  The
compiler must not contract products and sums (:mod:`pjax_kernels.gpu` forbids it), or the errors of sums would be
wrong.  Division is ``divide`` where its rounding reaches the result, and Triton's faster one, within 2 ulp, in
what only corrects it.
"""

import triton
import triton.language as tl

from pjax_kernels import root

NEAR = tl.constexpr(root.NEAR)
FAR_STEPS = tl.constexpr(root.FAR_STEPS)


@triton.jit
def scaled_residual(p, q, z, residual=None):
    """``(z - p)/(1 + q)``: a first guess of the root, and the measure of how hard it is to find."""
    half = 0.5 * z - 0.5 * p if residual is None else 0.5 * residual
    return divide(half, 0.5 + 0.5 * q)


@triton.jit
def near_root(scaled, p, q, STEPS: tl.constexpr, UNROLLED: tl.constexpr = True):
    """The root for small ``scaled``, by Halley steps from there; see :func:`bilinear_root` for ``UNROLLED``."""
    four_c = 1 / (0.25 + 0.25 * q)
    c, p = 0.25 * four_c, 0.25 * p * four_c
    t = scaled
    if UNROLLED:
        for _ in tl.static_range(STEPS):
            t = _near_step(t, scaled, p, c)
    else:
        for _ in range(STEPS):
            t = _near_step(t, scaled, p, c)
    return t


@triton.jit
def near_coefficients(t):
    """``beta`` and ``gamma`` for a root well inside (-1, 1)."""
    beta = divide(t, 1 - t * t)
    return beta, t * beta


@triton.jit
def squares(p, q):
    """``P = |a + b|^2/4`` and ``M = |a - b|^2/4``, none below zero, each followed by what rounding took from it."""
    q = tl.maximum(q, 2 * tl.abs(p))
    plus, plus_error = _two_sum(0.25 * q, 0.5 * p)
    minus, minus_error = _two_sum(0.25 * q, -0.5 * p)
    return plus, plus_error, minus, minus_error


@triton.jit
def far_root(plus, plus_error, minus, minus_error, z, UNROLLED: tl.constexpr = True):
    """``t``, ``beta``, ``gamma`` and ``radius`` where the root is not near 0, set-valued cases included."""
    negative = z < plus - minus
    sign = tl.where(negative, -1.0, 1.0).to(z.dtype)
    pole, pole_error = tl.where(negative, minus, plus), tl.where(negative, minus_error, plus_error)
    other, other_error = tl.where(negative, plus, minus), tl.where(negative, plus_error, minus_error)
    z = sign * z
    pole_part, other_part, one, scaled, excess = _scale_equation(pole, other, z)

    lower_bound = 2 * scaled / (1 + tl.sqrt(1 + 4 * pole_part * scaled))
    v = _far_start(lower_bound, pole_part, other_part, one, excess)
    least = 0.9 * lower_bound
    if UNROLLED:
        for _ in tl.static_range(FAR_STEPS):
            v = _far_step(v, least, pole_part, other_part, one, scaled, excess, UNROLLED)
    else:
        for _ in range(FAR_STEPS):
            v = _far_step(v, least, pole_part, other_part, one, scaled, excess, UNROLLED)
    t = divide(v, 1 + v)
    precise = v <= 3
    t = tl.where(precise, _precise_step(t, pole, pole_error, other, other_error, z), t)
    v = tl.where(precise, divide(t, 1 - t), v)

    set_valued = (pole <= 0) & (excess >= 0)
    radius = square_root(tl.maximum(excess, 0.0)) * square_root(1 + 2 * other)
    slope = divide(v, 1 + 2 * v)
    t = sign * tl.where(set_valued, 1.0, t)
    beta = sign * tl.where(set_valued, 0.5, (1 + v) * slope)
    gamma = tl.where(set_valued, 0.0, v * slope)
    return t, beta, gamma, tl.where(set_valued, radius, 0.0)


@triton.jit
def bilinear_root(p, q, z, residual, LIMIT: tl.constexpr, STEPS: tl.constexpr, UNROLLED: tl.constexpr = True):
    """``t``, ``beta``, ``gamma`` and ``radius`` of a block of two axes; ``residual`` is ``z - p`` if known, or None.

    Roots with a scaled residual up to ``LIMIT`` take ``STEPS`` steps; far ones are computed if there are any.  Unless
    they are ``UNROLLED``, steps are a loop of the program: Triton compiles in time that grows with the square of the
    operations it sees, times its loads and stores, but a program with few registers left would spill some.
    """
    scaled = scaled_residual(p, q, z, residual)
    t = near_root(scaled, p, q, STEPS, UNROLLED)
    beta, gamma = near_coefficients(t)
    radius = tl.zeros_like(t)
    is_near = tl.abs(scaled) <= LIMIT
    if tl.min(tl.min(is_near.to(tl.int32), axis=1), axis=0) == 0:
        plus, plus_error, minus, minus_error = squares(p, q)
        far_t, far_beta, far_gamma, far_radius = far_root(plus, plus_error, minus, minus_error, z, UNROLLED)
        t, beta = tl.where(is_near, t, far_t), tl.where(is_near, beta, far_beta)
        gamma, radius = tl.where(is_near, gamma, far_gamma), tl.where(is_near, radius, far_radius)
    return t, beta, gamma, radius


@triton.jit
def inner_products(a, b):
    """``a . b``, ``|a + b|^2/4`` and ``|a - b|^2/4`` of every row of two blocks."""
    half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
    return (
        tl.sum(a * b, axis=1),
        tl.sum(half_sum * half_sum, axis=1),
        tl.sum(half_difference * half_difference, axis=1),
    )


@triton.jit
def projection(p, plus, minus, z, residual, LIMIT: tl.constexpr, STEPS: tl.constexpr):
    """What :func:`changes` needs of roots: ``t``, ``gamma``, ``beta``, ``of_sum``, ``of_difference``, ``radius``.

    ``p = a . b``, ``plus = |a + b|^2/4``, ``minus = |a - b|^2/4``, without rounding where the last two nearly vanish.
    Roots with a scaled residual up to ``LIMIT`` take ``STEPS`` steps, and have the last three zero; others have
    ``gamma`` and ``beta`` zero.  Where a ``residual`` is known, ``p`` and ``z`` follow from it; otherwise it is None.
    """
    q = 2 * (plus + minus)
    if residual is not None:
        p = plus - minus
        z = p + residual
    scaled = scaled_residual(p, q, z, residual)
    t = near_root(scaled, p, q, STEPS, UNROLLED=False)
    beta, gamma = near_coefficients(t)
    zero = tl.zeros_like(t)
    of_sum, of_difference, radius = zero, zero, zero
    is_near = tl.abs(scaled) <= LIMIT
    if tl.min(is_near.to(tl.int32), axis=0) == 0:
        far_t, far_beta, far_gamma, far_radius = far_root(plus, zero, minus, zero, z, UNROLLED=False)
        # gamma + beta = t/(1 - t) and gamma - beta = -t/(1 + t), each from the form that does not cancel.
        far_sum = tl.where(far_t > 0, far_gamma + far_beta, divide(far_t, 1 - tl.minimum(far_t, 0.0)))
        far_difference = tl.where(far_t < 0, far_gamma - far_beta, divide(-far_t, 1 + tl.maximum(far_t, 0.0)))
        t = tl.where(is_near, t, far_t)
        gamma, beta = tl.where(is_near, gamma, 0.0), tl.where(is_near, beta, 0.0)
        of_sum, of_difference = tl.where(is_near, 0.0, far_sum), tl.where(is_near, 0.0, far_difference)
        radius = tl.where(is_near, 0.0, far_radius)
    return t, gamma, beta, of_sum, of_difference, radius


@triton.jit
def changes(a, b, t, gamma, beta, of_sum, of_difference, radius, LENGTH: tl.constexpr):
    """The changes of ``a`` and ``b``, blocks of rows of ``LENGTH`` entries, from what :func:`projection` found."""
    shared = of_sum[:, None] * (0.5 * (a + b))
    opposed = of_difference[:, None] * (0.5 * (a - b))
    free = radius * max(LENGTH, 1) ** -0.5
    a_change = gamma[:, None] * a + beta[:, None] * b + ((shared + opposed) + free[:, None])
    b_change = gamma[:, None] * b + beta[:, None] * a + ((shared - opposed) + (t * free)[:, None])
    return a_change, b_change


@triton.jit
def _near_step(t, scaled, p, c):
    """One Halley step in t."""
    t2 = t * t
    u = 1 - t2
    f = (t - scaled) + t2 * ((3 - t2) * p + (2 - t2) * (scaled - c * t))
    f1 = 2 * p * t * (3 + t2) + (1 - c) * (1 + 3 * t2) + c * (u * u * u)
    f2 = 3 * (p * (1 + t2 * (6 + t2)) + 2 * (1 - c) * t * (1 + t2))
    return t - u * (f * f1) / (f1 * f1 - f * f2)


@triton.jit
def _scale_equation(pole, other, z):
    """The parts of the equation for v, divided by ``1 + q = 1 + 2 (P + M)``."""
    unit: tl.constexpr = 0.125  # keeps the sums below finite for the largest inputs
    denominator = unit + (2 * unit) * (pole + other)
    per_unit = divide(tl.full(pole.shape, 1, pole.dtype), denominator)
    residual = (unit * z - unit * pole) + unit * other
    one, other_part, scaled = unit * per_unit, (unit * other) * per_unit, residual * per_unit
    return (unit * pole) * per_unit, other_part, one, scaled, scaled - (one + 0.75 * other_part)


@triton.jit
def _far_start(lower_bound, pole, other, one, excess):
    """A guess of v: the largest of three, one for each balance of the terms."""
    largest: tl.constexpr = 4.2e37 if pole.dtype == tl.float32 else 2.2e307
    tiny: tl.constexpr = 1.2e-38 if pole.dtype == tl.float32 else 2.3e-308
    root_of_excess = tl.sqrt(tl.maximum(excess, 0.0)) / tl.sqrt(tl.maximum(pole, tiny))
    small = root_of_excess * (root_of_excess / (1 + tl.sqrt(1 + root_of_excess * root_of_excess)))
    by_excess = tl.where(root_of_excess > 1e6, root_of_excess, small)
    tail = one + 0.25 * other
    cube_root_of_tail = _cube_root(tail)
    missing = tl.maximum(-excess, 0.0) + _cube_root(pole) * cube_root_of_tail * cube_root_of_tail
    by_tail = tail / tl.maximum(missing, tiny) - 1
    return tl.minimum(tl.maximum(lower_bound, tl.maximum(by_excess, by_tail)), largest)


@triton.jit
def _far_step(v, least, pole, other, one, scaled, excess, UNROLLED: tl.constexpr):
    """One Halley step in v, which stays from the ``least`` to the largest."""
    largest: tl.constexpr = 4.2e37 if v.dtype == tl.float32 else 2.2e307
    e, d = 1 / (1 + v), 1 / (1 + 2 * v)
    d2 = d * d
    below = v * (pole * (2 + v) + other * (2 + 3 * v) * d2 + one * e) - scaled
    # A loop would keep a quarter of ``other`` in registers.
    from_other = 0.25 * other * d if UNROLLED else other * (0.25 * d)
    above = pole * v * (2 + v) - (from_other * (2 + d) + one * e) - excess
    f = tl.where(v < 1, below, above)
    f1 = 2 * (pole * (1 + v) + other * (1 + v) * d2 * d) + one * e * e
    f2 = pole - other * (5 + 4 * v) * d2 * d2 - one * e * e * e
    new = v - f / (f1 - f * (f2 / f1))
    return tl.where((new >= least) & (new <= largest), new, v)


@triton.jit
def _precise_step(t, pole, pole_error, other, other_error, z):
    """A last Halley step for ``t <= 3/4``, with the residual in twice the working precision."""
    unit: tl.constexpr = 2.0**-15 if t.dtype == tl.float32 else 2.0**-30
    t = _high_half(t)
    s, w = 1 - t, 1 + t
    s2, w2 = s * s, w * w
    pole, other = unit * pole, unit * other
    from_pole, error1 = _times_quotient(pole, t * (2 - t), s2)
    from_other, error2 = _times_quotient(other, t * (2 + t), w2)
    residual, error3 = _two_sum(pole, -other)
    residual, error4 = _two_sum(residual, -unit * z)
    total, error5 = _two_sum(from_pole, from_other)
    total, error6 = _two_sum(total, residual)
    total, error7 = _two_sum(total, unit * t)
    error_pole = (unit * pole_error) * (1 + t * (2 - t) / s2)
    error_other = (unit * other_error) * (t * (2 + t) / w2 - 1)
    f = total + (error1 + error2 + error3 + error4 + error5 + error6 + error7 + error_pole + error_other)
    f1 = 2 * (pole / (s2 * s) + other / (w2 * w)) + unit
    f2 = 3 * (pole / (s2 * s2) - other / (w2 * w2))
    return t - f / (f1 - f * (f2 / f1))


@triton.jit
def _times_quotient(x, numerator, denominator):
    """``x * numerator / denominator`` and what rounding took from it."""
    quotient = numerator / denominator
    product, product_error = _two_product(quotient, denominator)
    quotient_error = ((numerator - product) - product_error) / denominator
    total, total_error = _two_product(x, quotient)
    return total, total_error + x * quotient_error


@triton.jit
def _two_sum(x, y):
    """The rounded sum and its rounding error (Knuth)."""
    total = x + y
    y_part = total - x
    return total, (x - (total - y_part)) + (y - y_part)


@triton.jit
def _two_product(x, y):
    """The rounded product and its rounding error (Dekker)."""
    product = x * y
    x_high, y_high = _high_half(x), _high_half(y)
    x_low, y_low = x - x_high, y - y_high
    return product, ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low


@triton.jit
def _high_half(x):
    """``x`` cut to half its digits, towards zero."""
    if x.dtype == tl.float32:
        high = (x.to(tl.int32, bitcast=True) & -0x1000).to(tl.float32, bitcast=True)
    else:
        high = (x.to(tl.int64, bitcast=True) & -0x8000000).to(tl.float64, bitcast=True)
    return high


@triton.jit
def divide(x, y):
    """``x / y`` rounded to nearest."""
    return tl.div_rn(x, y) if x.dtype == tl.float32 else x / y


@triton.jit
def square_root(x):
    """``sqrt(x)`` rounded to nearest."""
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


@triton.jit
def _cube_root(x):
    """``x**(1/3)`` for ``x >= 0``, to a few digits."""
    return tl.exp2(tl.log2(x) * (1 / 3))
