"""What the windows of a convolution cover, along each axis by itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Axis(NamedTuple):
    """The windows along one axis of an image."""

    size: int
    window: int
    stride: int
    padding: tuple[int, int]

    @property
    def outputs(self) -> int:
        """How many windows there are."""
        return max((self.size + sum(self.padding) - self.window) // self.stride + 1, 0)

    @property
    def places(self) -> NDArray[np.intp]:
        """Where the entries of each window lie, ``(outputs, window)``: outside 0, ..., size - 1 in the padding."""
        return np.arange(self.outputs)[:, None] * self.stride - self.padding[0] + np.arange(self.window)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether that is no padding, ``(outputs, window)``."""
        return (self.places >= 0) & (self.places < self.size)

    @property
    def covers(self) -> NDArray[np.bool_]:
        """Whether each window covers each entry of the image, ``(outputs, size)``."""
        return (self.places[:, :, None] == np.arange(self.size)).any(axis=1)


class Windows(NamedTuple):
    """The windows along both axes."""

    rows: Axis
    columns: Axis
