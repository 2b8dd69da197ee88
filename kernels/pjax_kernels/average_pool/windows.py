"""Where the windows of a pooling lie in an array of any number of axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_kernels.windows import Windows


@dataclass(frozen=True)
class WindowsOfArray:
    """The windows along each axis, and what the sum of a window is multiplied by: None for its mean.

    Padding is no entry: it adds nothing to a sum, and does not count for a mean.
    """

    axes: tuple[Windows, ...]
    factor: float | None

    @property
    def shape(self) -> tuple[int, ...]:
        """How many windows there are along each axis."""
        return tuple(axis.count for axis in self.axes)

    @property
    def size(self) -> tuple[int, ...]:
        """The extent of a window along each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def strides(self) -> tuple[int, ...]:
        """From a window to the next along each axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """As ``jnp.pad`` takes it."""
        return tuple(axis.padding for axis in self.axes)

    @property
    def inside(self) -> tuple[slice, ...]:
        """The array itself within the padded one."""
        return tuple(axis.inside for axis in self.axes)

    @property
    def entries(self) -> np.ndarray:
        """How many entries each window has, padding left out, of length 1 along axes where all agree."""
        return _outer([axis.holds.sum(axis=1) if _is_pooled(axis) else np.ones(1, int) for axis in self.axes])

    @property
    def factors(self) -> np.ndarray:
        """What the sum of each window is multiplied by."""
        return 1 / np.maximum(self.entries, 1) if self.factor is None else np.full((1,) * len(self.axes), self.factor)

    @property
    def coverage(self) -> np.ndarray:
        """How many windows hold each entry of the array, of length 1 along axes where all agree."""
        return _outer([axis.coverage if _is_pooled(axis) else np.ones(1, int) for axis in self.axes])

    @property
    def laid_out(self) -> tuple[int, ...]:
        """The shape of all windows, each laid out along axes of its own."""
        return (*self.shape, *self.size)

    @property
    def places(self) -> tuple[np.ndarray, ...]:
        """Indices of the padded array: the entries of all windows, in the shape ``laid_out``."""
        rank = len(self.axes)
        return tuple(
            axis.positions.reshape([{i: axis.count, rank + i: axis.size}.get(j, 1) for j in range(2 * rank)])
            for i, axis in enumerate(self.axes)
        )

    def spread(self, x: Array) -> Array:
        """The entries of each window along the last axis, zero where there is padding."""
        return jnp.pad(x, self.padding)[self.places].reshape(*self.shape, math.prod(self.size))


def place(
    shape: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    factor: float | None,
) -> WindowsOfArray:
    """The windows of an array of this shape; one number for each axis."""
    axes = (
        Windows(length, size, stride, low, high)
        for length, size, stride, (low, high) in zip(shape, window, strides, padding, strict=True)
    )
    return WindowsOfArray(tuple(axes), factor)


def _is_pooled(axis: Windows) -> bool:
    """Whether a window is more than one entry of its own; batches, which are not, may be too long to count."""
    return (axis.size, axis.stride, axis.low, axis.high) != (1, 1, 0, 0)


def _outer(along_axes: Sequence[np.ndarray]) -> np.ndarray:
    """The products of one number for each axis, of length 1 along those where all agree."""
    short = [numbers[:1] if np.all(numbers == numbers[:1]) else numbers for numbers in along_axes]
    return functools.reduce(np.multiply.outer, short, np.ones(()))
