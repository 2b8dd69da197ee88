"""Projection onto Boolean threshold functions on a GPU, in one pass over memory: all is read once and written once.

Entries along any axis are read where they are: of the last axis, rows whose entries are side by side, and of another
one, columns, of which neighbours are.  Those that do not fit the registers are read twice, a block at a time; the
second time they come from the L2 cache.  The root is that of :mod:`pjax_kernels.threshold.root`, see there.

In consensus form one kernel finds all roots and sums, in the place of the products, as in
:mod:`pjax_kernels.dense.triton`: the products of matrices are XLA's.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array, lax

from pjax_kernels import arguments, blocks, gpu, root_triton
from pjax_kernels.dense.triton import launch_tiles, means_of_copies, place_tile, solve_tile
from pjax_kernels.threshold import root

FAR = tl.constexpr(root.FAR)
STEPS, DOUBLE_STEPS = map(tl.constexpr, root.STEPS)
NEGLIGIBLE, DOUBLE_NEGLIGIBLE = (
    tl.constexpr(root.NEGLIGIBLE * float(jnp.finfo(dtype).tiny)) for dtype in (jnp.float32, jnp.float64)
)

_IN_REGISTERS = 4096
"""Entries that a program holds in registers, of the longest row or of eight columns; half as many in float64."""


class Functions(NamedTuple):
    """How many functions there are, and how their entries lie in memory.

    ``LENGTH`` entries of a function lie ``STRIDE`` apart, along axis ``AXIS`` of a block.  As many functions in a row
    have one margin as there are for each of the ``MARGINS``.  A program has ``ROWS`` functions, ``BLOCK`` entries at a
    time, and computes in float64 if ``DOUBLE``.
    """

    COUNT: int
    MARGINS: int
    LENGTH: int
    STRIDE: int
    AXIS: int
    DOUBLE: bool
    INCREMENTS: bool
    ROWS: int
    BLOCK: int


def project_threshold(
    a: Array, b: Array, z: Array, margin: Array, *, axis: int, increments: bool
) -> tuple[Array, Array, Array]:
    """The new ``a`` and ``b``, whose entries lie along ``axis``, and ``z``, which lacks it, or their changes."""
    compute = arguments.compute_dtype((a, b, z))
    results = tuple(compute if increments else array.dtype for array in (a, b, z))

    def project(a: Array, b: Array, z: Array, margin: Array) -> tuple[Array, ...]:
        _, length, inner = a.shape
        words = 2 if compute == jnp.float64 else 1
        block, numbers = triton.next_power_of_2(length), jnp.dtype(compute).name
        if block * min(inner, 8) <= _IN_REGISTERS // words:
            kernel, sizes = _project, {"BLOCK": block} | blocks.find("threshold", a.shape, numbers)
        else:
            kernel, sizes = _project_long, blocks.find("threshold, many entries", a.shape, numbers)
        rows, block, axis = sizes.pop("ROWS"), sizes.pop("BLOCK"), 1 if inner == 1 else 0
        return gpu.launch(
            kernel,
            a,
            b,
            z,
            margin,
            outputs=list(zip((a.shape, b.shape, z.shape), results, strict=True)),
            grid=(triton.cdiv(z.size, rows),),
            GIVEN=Functions(z.size, margin.size, length, inner, axis, words == 2, increments, rows, block),
            **sizes,
        )

    outer, inner = math.prod(a.shape[:axis]), math.prod(a.shape[axis + 1 :])
    shape = outer, a.shape[axis], inner
    new_a, new_b, new_z = gpu.over_leading_axis(project)(
        a.reshape(shape), b.reshape(shape), z.reshape(outer, inner), margin.reshape(1)
    )
    return new_a.reshape(a.shape), new_b.reshape(b.shape), new_z.reshape(z.shape)


def dense_increments(
    x: Array, w: Array, z: Array, margin: Array, *, precision: lax.PrecisionLike
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M), and the change of ``z`` (B, M)."""

    def project(x: Array, w: Array, z: Array, margin: Array) -> tuple[Array, ...]:
        arrays = jnp.sum(x * x, axis=2), jnp.sum(w * w, axis=1), z, margin, jnp.matmul(x, w, precision=precision)
        beta, z_change, *sums = launch_tiles(_solve_layer, "threshold layer", arrays, x.shape[2:], in_place=1)
        (x_mean,), (w_mean,) = means_of_copies((x,), (w,), beta, sums, precision=precision)
        return x_mean, w_mean, z_change

    found = gpu.over_leading_axis(project)(x[None], w[None], z[None], margin.reshape(1))
    return found[0][0], found[1][0], found[2][0]


@triton.jit
def _project(a_ptr, b_ptr, z_ptr, margin_ptr, new_a_ptr, new_b_ptr, new_z_ptr, GIVEN: tl.constexpr):
    row, is_row, z, margin = _load_functions(z_ptr, margin_ptr, GIVEN)
    a, b, offset, inside = _load_entries(a_ptr, b_ptr, row, is_row, 0, GIVEN)

    plus, minus = _squares(a, b, GIVEN.AXIS)
    sign, of_sum, of_difference, radius = threshold_root(plus, minus, z, margin)
    a_change, b_change = _changes(a, b, sign, of_sum, of_difference, radius, GIVEN.LENGTH, GIVEN.AXIS)

    tl.store(new_z_ptr + row, sign - z if GIVEN.INCREMENTS else sign, mask=is_row)
    tl.store(new_a_ptr + offset, a_change if GIVEN.INCREMENTS else a + a_change, mask=inside)
    tl.store(new_b_ptr + offset, b_change if GIVEN.INCREMENTS else b + b_change, mask=inside)


@triton.jit
def _project_long(a_ptr, b_ptr, z_ptr, margin_ptr, new_a_ptr, new_b_ptr, new_z_ptr, GIVEN: tl.constexpr):
    row, is_row, z, margin = _load_functions(z_ptr, margin_ptr, GIVEN)

    plus, minus = tl.zeros_like(z), tl.zeros_like(z)
    for first in range(0, GIVEN.LENGTH, GIVEN.BLOCK):
        a, b, _, _ = _load_entries(a_ptr, b_ptr, row, is_row, first, GIVEN)
        block_plus, block_minus = _squares(a, b, GIVEN.AXIS)
        plus, minus = plus + block_plus, minus + block_minus

    sign, of_sum, of_difference, radius = threshold_root(plus, minus, z, margin)
    tl.store(new_z_ptr + row, sign - z if GIVEN.INCREMENTS else sign, mask=is_row)
    for first in range(0, GIVEN.LENGTH, GIVEN.BLOCK):
        a, b, offset, inside = _load_entries(a_ptr, b_ptr, row, is_row, first, GIVEN)
        a_change, b_change = _changes(a, b, sign, of_sum, of_difference, radius, GIVEN.LENGTH, GIVEN.AXIS)
        tl.store(new_a_ptr + offset, a_change if GIVEN.INCREMENTS else a + a_change, mask=inside)
        tl.store(new_b_ptr + offset, b_change if GIVEN.INCREMENTS else b + b_change, mask=inside)


@triton.jit
def _solve_layer(
    x_squared_ptr, w_squared_ptr, z_ptr, margin_ptr, beta_ptr, _beta_ptr, z_change_ptr, sums_ptr, LAYER: tl.constexpr
):
    tile, margin = place_tile(LAYER), tl.load(margin_ptr + tl.program_id(1))
    inputs, outputs = (x_squared_ptr, w_squared_ptr, z_ptr, beta_ptr), (beta_ptr, z_change_ptr, sums_ptr)
    solve_tile(_layer_root, margin, inputs, outputs, tile, LAYER)


@triton.jit
def _layer_root(p, q, z, inside, margin):
    """What :func:`pjax_kernels.dense.triton.solve_tile` asks of a root."""
    half_p, quarter_q = 0.5 * p, 0.25 * q
    # A negative rounding error is none, but NaN is.
    plus, minus = tl.where(quarter_q + half_p < 0, 0.0, quarter_q + half_p), quarter_q - half_p
    sign, of_sum, of_difference, radius = threshold_root(plus, tl.where(minus < 0, 0.0, minus), z, margin)
    v = -of_difference / (1 + of_difference)
    beta = 0.5 * (of_sum - of_difference)
    set_valued = radius > 0
    gamma = tl.where(inside & ~set_valued, v * beta, 0.0)
    return sign - z, sign, sign * tl.where(set_valued, 0.5, beta), gamma, tl.where(inside, radius, 0.0)


@triton.jit
def _load_functions(z_ptr, margin_ptr, GIVEN: tl.constexpr):
    """The functions of this program: which, whether they exist, their ``z`` and their margins."""
    compute: tl.constexpr = tl.float64 if GIVEN.DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64) * GIVEN.ROWS + tl.arange(0, GIVEN.ROWS)
    is_row = row < GIVEN.COUNT
    z = tl.load(z_ptr + row, mask=is_row, other=0.0).to(compute)
    return row, is_row, z, tl.load(margin_ptr + row // (GIVEN.COUNT // GIVEN.MARGINS), mask=is_row, other=1.0)


@triton.jit
def _load_entries(a_ptr, b_ptr, row, is_row, first, GIVEN: tl.constexpr):
    """A block of entries, from the ``first``, where it is in memory, and which of them exist."""
    compute: tl.constexpr = tl.float64 if GIVEN.DOUBLE else tl.float32
    start = row // GIVEN.STRIDE * (GIVEN.LENGTH * GIVEN.STRIDE) + row % GIVEN.STRIDE
    entry = tl.expand_dims(first + tl.arange(0, GIVEN.BLOCK), 1 - GIVEN.AXIS)
    offset = tl.expand_dims(start, GIVEN.AXIS) + entry.to(tl.int64) * GIVEN.STRIDE
    inside = tl.expand_dims(is_row, GIVEN.AXIS) & (entry < GIVEN.LENGTH)
    a = tl.load(a_ptr + offset, mask=inside, other=0.0).to(compute)
    b = tl.load(b_ptr + offset, mask=inside, other=0.0).to(compute)
    return a, b, offset, inside


@triton.jit
def _squares(a, b, AXIS: tl.constexpr):
    """``|a + b|^2/4`` and ``|a - b|^2/4`` of every function."""
    half_sum, half_difference = 0.5 * (a + b), 0.5 * (a - b)
    return tl.sum(half_sum * half_sum, axis=AXIS), tl.sum(half_difference * half_difference, axis=AXIS)


@triton.jit
def _changes(a, b, sign, of_sum, of_difference, radius, LENGTH: tl.constexpr, AXIS: tl.constexpr):
    """The changes of ``a`` and ``b``, of ``LENGTH`` entries, from what :func:`threshold_root` found.

    They lose no digits where the sum or the difference nearly vanishes.
    """
    sign, free = tl.expand_dims(sign, AXIS), tl.expand_dims(radius * LENGTH**-0.5, AXIS)
    shared = tl.expand_dims(of_sum, AXIS) * (0.5 * (a + sign * b)) + free
    opposed = tl.expand_dims(of_difference, AXIS) * (0.5 * (a - sign * b))
    return shared + opposed, sign * (shared - opposed)


@triton.jit
def threshold_root(plus, minus, z, margin):
    """The nearer sign ``s``, by what factors ``a + s b`` and ``a - s b`` change, and the length of the free part.

    Those of :func:`pjax_kernels.threshold.root.threshold_root`: the factors are ``gamma + beta`` and ``gamma - beta``.
    """
    up_v, up_one_less_v, up_radius, up = _to_margin(plus, minus, margin)
    down_v, down_one_less_v, down_radius, down = _to_margin(minus, plus, margin)
    excess = up - down - 4 * z
    sign = tl.where(excess <= 0, 1.0, tl.where(excess > 0, -1.0, excess))
    v, one_less_v = tl.where(sign > 0, up_v, down_v), tl.where(sign > 0, up_one_less_v, down_one_less_v)
    radius = tl.where(sign > 0, up_radius, down_radius)
    return sign, root_triton.divide(v, one_less_v), root_triton.divide(-v, 1 + v), radius


@triton.jit
def _to_margin(pole, other, margin):
    """``v``, ``1 - v`` and the radius for one sign, and the squared distance; 0, 1, 0, 0 where nothing moves.

    Where the projection is set-valued ``1 - v`` is 1: there is no sum of ``a`` and ``s b`` to change.
    """
    v, one_less_v = _root(pole, other, margin)
    negligible: tl.constexpr = DOUBLE_NEGLIGIBLE if pole.dtype == tl.float64 else NEGLIGIBLE
    reached = pole - other >= margin
    set_valued = (pole <= negligible * (1 + (margin + 0.25 * other))) & (pole - other < margin)
    v = tl.where(reached, 0.0, tl.where(set_valued, 1.0, v))
    one_less_v = tl.where(reached | set_valued, 1.0, one_less_v)
    radius = tl.where(set_valued, root_triton.square_root(margin + 0.25 * other), 0.0)
    slope = 1 / (1 + v)
    return v, one_less_v, radius, 2 * v * v * (margin + 2 * other * slope * slope)


@triton.jit
def _root(pole, other, margin):
    """``v`` and ``1 - v`` where the margin is not reached; any numbers where it is."""
    bound = tl.sqrt(pole / (margin + 0.25 * other))
    is_far = bound < FAR
    residual, q = margin - (pole - other), 2 * (pole + other)
    c0 = tl.where(is_far, -4 * pole, -residual)
    c1 = tl.where(is_far, 4 * pole, q)
    c2 = tl.where(is_far, 4 * margin + (other - pole), 3 * margin - residual)
    c3 = tl.where(is_far, -4 * margin, 0.0)
    c4 = tl.where(is_far, margin, -margin)
    x = tl.where(is_far, bound, tl.minimum(residual / q, 0.5))
    for _ in tl.static_range(DOUBLE_STEPS if pole.dtype == tl.float64 else STEPS):
        f = c0 + x * (c1 + x * (c2 + x * (c3 + x * c4)))
        f1 = c1 + x * (2 * c2 + x * (3 * c3 + x * (4 * c4)))
        f2 = c2 + x * (3 * c3 + x * (6 * c4))
        x = x - f * f1 / (f1 * f1 - f * f2)
    return tl.where(is_far, 1 - x, x), tl.where(is_far, x, 1 - x)
