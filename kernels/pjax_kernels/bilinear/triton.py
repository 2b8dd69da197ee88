"""Projection onto ``z = a . b`` on a GPU, in one pass over memory: ``a``, ``b`` and ``z`` are read and written once.

Rows that do not fit the registers, are read twice, a block at a time; the
second time they come from the L2 cache, for it holds the rows of all programs that run at once.
"""

from typing import NamedTuple

import jax.numpy as jnp
import triton
import triton.language as tl
from jax import Array

from pjax_kernels import arguments, blocks, gpu, root_triton

_IN_REGISTERS = 4096
"""Entries of the longest row that a program holds in registers; half as many in float64."""


class Rows(NamedTuple):
    """How many rows there are, of how many entries, how many of either a program holds, and what is known.

    ``DOUBLE`` says whether they are in float64, ``INCREMENTS`` whether changes are returned.
    """

    COUNT: int
    LENGTH: int
    ROWS: int
    BLOCK: int
    DOUBLE: bool
    INCREMENTS: bool
    HAS_RESIDUAL: bool


def project_bilinear(
    a: Array, b: Array, z: Array, *, increments: bool, residual: Array | None = None
) -> tuple[Array, Array, Array]:
    """The new ``a`` (..., N), ``b`` (..., N) and ``z`` (...), or their changes."""
    arrays = a, b, z
    compute = arguments.compute_dtype(arrays)
    has_residual = residual is not None
    # Where the residual is known the kernel does without z, and gives its change.
    results = [compute if increments else array.dtype for array in (a, b)]
    results.append(compute if increments or has_residual else z.dtype)

    def project(a: Array, b: Array, known: Array) -> tuple[Array, ...]:
        count, length = a.shape
        words = 2 if compute == jnp.float64 else 1
        block, numbers = triton.next_power_of_2(max(length, 1)), jnp.dtype(compute).name
        if block <= _IN_REGISTERS // words:
            kernel, sizes = _project_rows, {"BLOCK": block} | blocks.find("bilinear", a.shape, numbers)
        else:
            kernel, sizes = _project_long_row, {"ROWS": 1} | blocks.find("bilinear, long rows", a.shape, numbers)
        rows, block = sizes.pop("ROWS"), sizes.pop("BLOCK")
        return gpu.launch(
            kernel,
            a,
            b,
            known,
            outputs=list(zip((a.shape, b.shape, known.shape), results, strict=True)),
            grid=(triton.cdiv(count, rows),),
            GIVEN=Rows(count, length, rows, block, words == 2, increments, has_residual),
            **sizes,
        )

    known = z if residual is None else residual
    new_a, new_b, new_z = gpu.over_leading_axis(project)(
        a.reshape(z.size, a.shape[-1]), b.reshape(z.size, a.shape[-1]), known.reshape(z.size)
    )
    new_z = new_z.reshape(z.shape)
    if has_residual:
        (new_z,) = arguments.apply_increments([z], [new_z], increments)
    return new_a.reshape(a.shape), new_b.reshape(b.shape), new_z


@triton.jit
def _project_rows(a_ptr, b_ptr, known_ptr, new_a_ptr, new_b_ptr, new_z_ptr, GIVEN: tl.constexpr):
    """``known`` is ``z``, or the residual."""
    compute: tl.constexpr = tl.float64 if GIVEN.DOUBLE else tl.float32
    row = tl.program_id(0).to(tl.int64) * GIVEN.ROWS + tl.arange(0, GIVEN.ROWS)
    column = tl.arange(0, GIVEN.BLOCK)
    is_row = row < GIVEN.COUNT
    inside = is_row[:, None] & (column < GIVEN.LENGTH)[None, :]
    offset = row[:, None] * GIVEN.LENGTH + column[None, :]
    a = tl.load(a_ptr + offset, mask=inside, other=0.0).to(compute)
    b = tl.load(b_ptr + offset, mask=inside, other=0.0).to(compute)
    known = tl.load(known_ptr + row, mask=is_row, other=0.0).to(compute)

    p, plus, minus = root_triton.inner_products(a, b)
    t, gamma, beta, of_sum, of_difference, radius = _projection(p, plus, minus, known, GIVEN)
    new_a, new_b = root_triton.changes(a, b, t, gamma, beta, of_sum, of_difference, radius, GIVEN.LENGTH)
    new_z = -t
    if not GIVEN.INCREMENTS:
        new_a, new_b = a + new_a, b + new_b
        if not GIVEN.HAS_RESIDUAL:
            new_z = known + new_z

    tl.store(new_a_ptr + offset, new_a, mask=inside)
    tl.store(new_b_ptr + offset, new_b, mask=inside)
    tl.store(new_z_ptr + row, new_z, mask=is_row)


@triton.jit
def _project_long_row(a_ptr, b_ptr, known_ptr, new_a_ptr, new_b_ptr, new_z_ptr, GIVEN: tl.constexpr):
    compute: tl.constexpr = tl.float64 if GIVEN.DOUBLE else tl.float32
    row = tl.program_id(0) + tl.arange(0, GIVEN.ROWS)  # one, as a block
    start = row.to(tl.int64)[:, None] * GIVEN.LENGTH
    known = tl.load(known_ptr + row).to(compute)

    p, plus, minus = tl.zeros_like(known), tl.zeros_like(known), tl.zeros_like(known)
    for first in range(0, GIVEN.LENGTH, GIVEN.BLOCK):
        column = first + tl.arange(0, GIVEN.BLOCK)[None, :]
        a = tl.load(a_ptr + start + column, mask=column < GIVEN.LENGTH, other=0.0).to(compute)
        b = tl.load(b_ptr + start + column, mask=column < GIVEN.LENGTH, other=0.0).to(compute)
        block_p, block_plus, block_minus = root_triton.inner_products(a, b)
        p, plus, minus = p + block_p, plus + block_plus, minus + block_minus

    t, gamma, beta, of_sum, of_difference, radius = _projection(p, plus, minus, known, GIVEN)
    if not GIVEN.HAS_RESIDUAL:
        tl.store(new_z_ptr + row, -t if GIVEN.INCREMENTS else known - t)
    for first in range(0, GIVEN.LENGTH, GIVEN.BLOCK):
        column = first + tl.arange(0, GIVEN.BLOCK)[None, :]
        a = tl.load(a_ptr + start + column, mask=column < GIVEN.LENGTH, other=0.0).to(compute)
        b = tl.load(b_ptr + start + column, mask=column < GIVEN.LENGTH, other=0.0).to(compute)
        new_a, new_b = root_triton.changes(a, b, t, gamma, beta, of_sum, of_difference, radius, GIVEN.LENGTH)
        if not GIVEN.INCREMENTS:
            new_a, new_b = a + new_a, b + new_b
        tl.store(new_a_ptr + start + column, new_a, mask=column < GIVEN.LENGTH)
        tl.store(new_b_ptr + start + column, new_b, mask=column < GIVEN.LENGTH)
    if GIVEN.HAS_RESIDUAL:  # at last: before the loop, some registers would spill on sm_90
        tl.store(new_z_ptr + row, -t)


@triton.jit
def _projection(p, plus, minus, known, GIVEN: tl.constexpr):
    """What :func:`pjax_kernels.root_triton.projection` finds; ``known`` is ``z``, or the residual."""
    residual = known if GIVEN.HAS_RESIDUAL else None
    return root_triton.projection(p, plus, minus, known, residual, root_triton.NEAR, 2)
