"""Pallas kernels for TPUs: where they run, what fits into VMEM, and one way to launch them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

DTYPES = ("bfloat16", "float32")

LANES = 128
"""Numbers in a row of a vector register; a register holds 8 rows of float32."""

VMEM = 12 << 20
"""Bytes of VMEM that blocks and scratch may take: every TPU gives a kernel 16 MiB, which temporaries need too."""

_BUFFERS = 2
"""Copies of every block in VMEM: while one is computed with, the next is read, or the last one written."""


class Output(NamedTuple):
    """An array that a kernel writes, a block at a time."""

    shape: tuple[int, ...]
    dtype: DTypeLike
    block: pl.BlockSpec


def obstacle() -> str | None:
    """Why no TPU kernel can run here, or None."""
    if jax.default_backend() != "tpu":
        return f"the default backend of JAX is {jax.default_backend()!r}, not a TPU"
    return None


def unsupported(arrays: Mapping[str, Array]) -> str | None:
    """Why a kernel does not take these arrays, or None."""
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            return f"{name} has dtype {array.dtype}, and the kernel takes only {', '.join(DTYPES)}"
    return None


def unsupported_precision(precision: lax.PrecisionLike) -> str | None:
    """Why a kernel does not take the ``precision`` of its products, or None."""
    try:
        product_precision(precision)
    except ValueError:
        return f"precision is {precision!r}, and the kernel takes only None, 'default', 'high' and 'highest'"
    return None


def product_precision(precision: lax.PrecisionLike) -> lax.Precision:
    """As Mosaic has it, which has no products in three passes: "high" takes six, as "highest" does."""
    named = jax.config.jax_default_matmul_precision if precision is None else precision  # type: ignore[attr-defined]
    in_one_pass = lax.Precision(named) == lax.Precision.DEFAULT
    return lax.Precision.DEFAULT if in_one_pass else lax.Precision.HIGHEST


def tile_up(size: int, tile: int = LANES) -> int:
    """The least positive multiple of ``tile`` that holds ``size``."""
    return max(pl.cdiv(size, tile), 1) * tile


def block_bytes(*blocks: tuple[tuple[int, ...], DTypeLike]) -> int:
    """VMEM of blocks that are read or written, given by shape and dtype."""
    return _BUFFERS * scratch_bytes(*blocks)


def scratch_bytes(*blocks: tuple[tuple[int, ...], DTypeLike]) -> int:
    """VMEM of blocks of a kernel's own, whose last two axes fill up registers."""

    def padded(shape: tuple[int, ...], dtype: DTypeLike) -> int:
        *leading, rows, lanes = shape
        itemsize = jnp.dtype(dtype).itemsize
        return math.prod(leading) * tile_up(rows, 32 // itemsize) * tile_up(lanes) * itemsize

    return sum(padded(*block) for block in blocks)


def launch(
    kernel: Callable[..., None],
    *arrays: Array,
    name: str,
    grid: tuple[int, ...],
    inputs: Sequence[pl.BlockSpec],
    outputs: Sequence[Output],
    scratch: Sequence[Any] = (),
) -> tuple[Array, ...]:
    """Run a kernel for every point of ``grid``, the last axis fastest, and return its outputs.

    Points along the first axis may run on different cores: what a kernel carries from one to the next, it carries
    along the others.
    """
    varying = jax.sharding.ManualAxisType(
        varying=frozenset().union(*(jax.typeof(array).manual_axis_type.varying for array in arrays))
    )
    call = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=list(inputs),
        out_specs=[output.block for output in outputs],
        out_shape=[jax.ShapeDtypeStruct(output.shape, output.dtype, manual_axis_type=varying) for output in outputs],
        scratch_shapes=list(scratch),
        compiler_params=_compiler_params(len(grid)),
        name=name,
    )
    with jax.enable_x64(False):  # a TPU has no 64-bit numbers, so that none must become of a literal or an index
        return tuple(call(*arrays))


def _compiler_params(axes: int) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=(pltpu.PARALLEL, *[pltpu.ARBITRARY] * (axes - 1)))


def repeat(count: int) -> Callable[[Callable[[Array], None]], None]:
    """Decorates what is done for each of ``count`` numbers, at once."""

    def run(body: Callable[[Array], None]) -> None:
        lax.fori_loop(0, count, lambda i, _: body(i), None)

    return run


def rows_of(part: Array, rows: int) -> Any:
    """The slice of a part of an axis that is divided into parts of ``rows``."""
    return pl.ds(pl.multiple_of(part * rows, rows), rows)
