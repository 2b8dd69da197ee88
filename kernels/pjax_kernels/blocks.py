"""Block shapes of the Triton kernels: defaults that are safe on every GPU, and a table of what was measured as better.

The table, ``blocks.json``, is filled by ``tools/tune`` on the GPU itself.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TypeAlias, TypedDict

from pjax_kernels import gpu

Blocks: TypeAlias = dict[str, int]
"""Block shapes by the names that the kernel has for them, with ``num_warps`` and, where it matters, ``num_stages``."""


class Entry(TypedDict):
    """Of the table: for all shapes that round up to the same powers of two."""

    chip: str
    kernel: str
    numbers: str
    shape: list[int]
    blocks: Blocks


def find(kernel: str, shape: tuple[int, ...], numbers: str) -> Blocks:
    """The blocks of a kernel for ``shape`` on this machine's GPU: those of the table, or else the defaults.

    ``numbers`` is what the kernel computes with: a dtype, or the name of a product on tensor cores.
    """
    chip, rounded = gpu.chip(), rounded_up(shape)
    for entry in table():
        if (entry["chip"], entry["kernel"], entry["numbers"], entry["shape"]) == (chip, kernel, numbers, rounded):
            return dict(entry["blocks"])
    return DEFAULTS[kernel](shape, numbers)


@functools.cache
def table() -> Sequence[Entry]:
    """All that was measured."""
    entries: list[Entry] = json.loads(resources.files("pjax_kernels").joinpath("blocks.json").read_text())
    return entries


def rounded_up(shape: Sequence[int]) -> list[int]:
    """To powers of two: the shapes between them share an entry."""
    return [_power_of_two(size) for size in shape]


def _power_of_two(size: int) -> int:
    """The least that is no less than ``size`` and 1."""
    return 1 << max(size - 1, 0).bit_length()


def _words(numbers: str) -> int:
    """Registers that one takes."""
    return 2 if numbers == "float64" else 1


def _rows_of_bilinear(shape: Sequence[int], numbers: str) -> Blocks:
    """So few rows (count, length) that a thread has one root."""
    block = _power_of_two(shape[1])
    return {"ROWS": max(1, 512 // _words(numbers) // block), "num_warps": max(4, block // 256)}


def _thresholds(shape: Sequence[int], numbers: str) -> Blocks:
    """Of (outer, length, inner), entries along the second: rows as above, or so many columns side by side."""
    if shape[2] == 1:
        return _rows_of_bilinear(shape[:2], numbers)
    block = _power_of_two(shape[1])
    return {"ROWS": max(8, 1024 // _words(numbers) // block), "num_warps": max(2, block // 64)}


def _many_thresholds(shape: Sequence[int], numbers: str) -> Blocks:
    """Of the same shape, with more entries than registers hold."""
    del numbers
    return {"ROWS": 1, "BLOCK": 4096, "num_warps": 8} if shape[2] == 1 else {"ROWS": 32, "BLOCK": 128, "num_warps": 8}


def _rows_of_max(shape: Sequence[int], numbers: str) -> Blocks:
    del numbers
    block = _power_of_two(shape[1])
    return {"ROWS": max(1, 1024 // block), "num_warps": max(4, block // 512)}


def _copies(shape: Sequence[int], numbers: str) -> Blocks:
    """Of (B, N, M): a thread has one root; enough programs to fill a GPU, as more would have more partial sums."""
    batch, length, width = shape
    block = _power_of_two(length)
    tile = max(1, 512 // _words(numbers) // block)
    rows = max(1, math.isqrt(batch * width // 1024))
    return {"TILE": tile, "ROWS": rows, "COLUMNS": -(-rows // tile) * tile, "num_warps": max(4, block // 256)}


def _solved(shape: Sequence[int], numbers: str) -> Blocks:
    """With so few entries at a time that a thread has no more than four roots."""
    del shape
    return {"TILE": 64, "ENTRIES": 512 // _words(numbers) ** 2, "num_warps": 4}


def _thresholds_solved(shape: Sequence[int], numbers: str) -> Blocks:
    """Likewise; each threshold function has a root for either sign."""
    sizes = _solved(shape, numbers)
    return sizes | {"ENTRIES": sizes["ENTRIES"] // 2}


def _multiplied(shape: Sequence[int], numbers: str) -> Blocks:
    """Of (layers, B, N, M): large tiles where there are enough outputs to fill a GPU with them."""
    layers, batch, _, width = shape
    is_large = layers * batch * width >= 128 * 128 * 128
    sizes = {"TILE": 128, "num_warps": 8} if is_large else {"TILE": 64, "num_warps": 4}
    inner = 16 if numbers == "bf16x6" else 32  # terms of six products take more registers
    return sizes | {"ENTRIES": 512, "INNER": inner, "num_stages": 3}


def _pairs_solved(shape: Sequence[int], numbers: str) -> Blocks:
    del shape
    return {"ROWS": 16 // _words(numbers) ** 2, "COLUMNS": 32, "num_warps": 4}


def _pairs_multiplied(shape: Sequence[int], numbers: str) -> Blocks:
    """A product of a tile for each of 16 pairs is in registers: such tiles are small, or registers would spill."""
    del shape, numbers
    return {"ROWS": 16, "COLUMNS": 32, "INNER": 32, "num_warps": 8, "num_stages": 3}


DEFAULTS: dict[str, Callable[[Sequence[int], str], Blocks]] = {
    "bilinear": _rows_of_bilinear,
    "bilinear, long rows": lambda shape, numbers: {"BLOCK": 4096, "num_warps": 8},
    "threshold": _thresholds,
    "threshold, many entries": _many_thresholds,
    "threshold layer": _thresholds_solved,
    "max": _rows_of_max,
    "max pool": lambda shape, numbers: {"BLOCK": 256, "num_warps": 4},
    "dense copies": _copies,
    "dense": _multiplied,
    "dense, XLA's product": _solved,
    "factored": _pairs_multiplied,
    "factored, XLA's products": _pairs_solved,
}
"""By kernel: the blocks for a shape and for what the kernel computes with."""
