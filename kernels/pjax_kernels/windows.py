"""Where the windows of a convolution or a pooling lie along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim


@dataclass(frozen=True)
class Windows:
    """Windows of ``size`` every ``stride`` along an axis of ``length``, padded by ``low`` and ``high``."""

    length: int
    size: int
    stride: int
    low: int
    high: int

    @property
    def count(self) -> int:
        """How many windows fit."""
        return max((self.low + self.length + self.high - self.size) // self.stride + 1, 0)

    @property
    def span(self) -> int:
        """From an entry of the first window to the same one of the last window, both included."""
        return self.stride * (self.count - 1) + 1

    @property
    def positions(self) -> Any:
        """``(count, size)``: the places of the windows' entries on the padded axis."""
        arange = jnp.arange if is_symbolic_dim(self.count) else np.arange
        return self.stride * arange(self.count)[:, None] + np.arange(self.size)

    @property
    def holds(self) -> np.ndarray:
        """``(count, size)``: whether an entry of a window is no padding."""
        return (self.positions >= self.low) & (self.positions < self.low + self.length)

    @property
    def covers(self) -> np.ndarray:
        """``(count, length)``: whether a window holds a place."""
        return (self.positions[:, :, None] == self.low + np.arange(self.length)).any(axis=1)

    @property
    def coverage(self) -> np.ndarray:
        """``(length,)``: how many windows hold each place."""
        padded = np.bincount(self.positions.ravel(), minlength=self.low + self.length + self.high)
        return padded[self.low : self.low + self.length]

    @property
    def some_are_padding(self) -> bool:
        """Whether a window holds nothing of the axis itself."""
        return bool((~self.holds.any(axis=1)).any())

    @property
    def padding(self) -> tuple[int, int]:
        """As ``jnp.pad`` takes it."""
        return self.low, self.high

    @property
    def inside(self) -> slice:
        """The axis itself within the padded one."""
        return slice(self.low, self.low + self.length)


OfImage = tuple[Windows, Windows]
"""Along its rows and along its columns."""


def place_windows(
    shape: Sequence[int],
    window: Sequence[int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> OfImage:
    """The windows along the rows and along the columns of an image of ``shape``."""
    rows, columns = (
        Windows(length, size, stride, low, high)
        for length, size, stride, (low, high) in zip(shape, window, strides, padding, strict=True)
    )
    return rows, columns


def copies_of_each_entry(rows: Windows, columns: Windows) -> np.ndarray:
    """``(H, W, 1)``: how many windows hold each entry, 1 where none does."""
    return np.maximum(np.outer(rows.coverage, columns.coverage), 1)[..., None]
