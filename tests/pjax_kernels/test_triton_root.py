"""The root for Triton kernels, interpreted, against exact integer arithmetic as in :mod:`test_root`."""

import numpy as np
import pytest

from pjax_kernels import root

from . import triton_interpreter
from .test_root import (
    DTYPES,
    PAIRS,
    edge_of_set_valued,
    failures,
    is_set_valued,
    powers_of_ten,
    random_inputs,
    require_wider_than,
    signs,
)

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
root_triton = pytest.importorskip("pjax_kernels.root_triton")

Array = np.ndarray

COUNT = 1 << 13


@triton.jit
def bilinear_root_kernel(p_ptr, q_ptr, z_ptr, t_ptr, beta_ptr, gamma_ptr, radius_ptr, COUNT: tl.constexpr):
    """As :func:`pjax_kernels.root.bilinear_root`."""
    offset = tl.arange(0, COUNT)
    p, q, z = tl.load(p_ptr + offset), tl.load(q_ptr + offset), tl.load(z_ptr + offset)
    scaled = root_triton.scaled_residual(p, q, z)
    near_t = root_triton.near_root(scaled, p, q, 2)
    near_beta, near_gamma = root_triton.near_coefficients(near_t)
    plus, plus_error, minus, minus_error = root_triton.squares(p, q)
    t, beta, gamma, radius = root_triton.far_root(plus, plus_error, minus, minus_error, z)
    is_near = tl.abs(scaled) <= root_triton.NEAR
    tl.store(t_ptr + offset, tl.where(is_near, near_t, t))
    tl.store(beta_ptr + offset, tl.where(is_near, near_beta, beta))
    tl.store(gamma_ptr + offset, tl.where(is_near, near_gamma, gamma))
    tl.store(radius_ptr + offset, tl.where(is_near, 0.0, radius))


def bilinear_root(p: Array, q: Array, z: Array) -> list[Array]:
    """``t``, ``beta``, ``gamma``, ``radius`` for any number of inputs."""
    count = triton.next_power_of_2(len(p))
    padded = [np.pad(array, (0, count - len(p))) for array in (p, q, z)]
    outputs = [np.full(count, np.nan, p.dtype) for _ in range(4)]
    with np.errstate(all="ignore"):
        arguments = map(triton_interpreter.HostArray, (*padded, *outputs))
        bilinear_root_kernel[(1,)](*arguments, COUNT=count)
    return [output[: len(p)] for output in outputs]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_accurate(pair: str, dtype: type) -> None:
    p, q, z = random_inputs(np.random.default_rng(list(PAIRS).index(pair)), pair, COUNT, dtype)
    result = bilinear_root(p, q, z)
    assert all(np.isfinite(part).all() for part in result)
    assert np.abs(result[0]).max() <= 1
    assert failures(result[0], p, q, z) == []


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
    result = bilinear_root(p, q, z)
    assert all(np.isfinite(part).all() for part in result)
    assert failures(result[0], p, q, z) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_coefficients_belong_to_the_root(pair: str, dtype: type) -> None:
    require_wider_than(dtype)
    p, q, z = random_inputs(np.random.default_rng(5), pair, COUNT, dtype)
    t, beta, gamma, _ = (part.astype(np.longdouble) for part in bilinear_root(p, q, z))
    single, eps = ~is_set_valued(beta, gamma), float(np.finfo(dtype).eps)
    inside = single & (abs(t) <= 0.75) & (abs(t) > 4 * np.finfo(dtype).tiny ** 0.5)
    np.testing.assert_allclose(beta[inside], t[inside] / (1 - t[inside] ** 2), rtol=4 * eps)
    np.testing.assert_allclose(gamma[inside], t[inside] ** 2 / (1 - t[inside] ** 2), rtol=4 * eps)
    far = single & (abs(t) > 0.75)
    np.testing.assert_allclose((gamma * (1 + gamma))[far], (beta * beta)[far], rtol=4 * eps)
    assert (np.sign(beta) == np.sign(t)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_set_valued_cases_have_the_radius_that_reaches_the_set(sign: int) -> None:
    rng = np.random.default_rng(8)
    q = np.where(rng.random(COUNT) < 0.2, 0, powers_of_ten(rng, -15, 15, (COUNT,))).astype(np.float32)
    p = -sign * q / 2
    z = (p + sign * edge_of_set_valued(p, q) + sign * powers_of_ten(rng, -3, 6, (COUNT,)) * (1 + q)).astype(np.float32)
    t, beta, gamma, radius = (part.astype(np.float64) for part in bilinear_root(p, q, z))
    assert (t == sign).all()
    assert (beta - sign * gamma == 0.5 * sign).all()
    p, q, z = (array.astype(np.float64) for array in (p, q, z))
    error = radius**2 - (sign * (z - p) - 1 - 0.375 * q)
    assert (abs(error) <= 8 * np.finfo(np.float32).eps * (1 + q + abs(z - p))).all()


def test_uses_the_constants_of_the_root() -> None:
    assert (root_triton.NEAR.value, root_triton.FAR_STEPS.value) == (root.NEAR, root.FAR_STEPS)


def test_the_exact_check_rejects_contracted_sums() -> None:
    """The bound is one that the residual without its rounding errors would miss."""
    p, q, z = random_inputs(np.random.default_rng(9), "independent", COUNT, np.float32)
    t = bilinear_root(p, q, z)[0]
    wrong = t * (1 + 16 * np.finfo(np.float32).eps * signs(np.random.default_rng(0), t.shape)).astype(np.float32)
    assert len(failures(wrong, p, q, z)) > COUNT / 4
