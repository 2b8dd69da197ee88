"""Textbook projection of a convolution: every window copied for every output channel."""

from __future__ import annotations

import numpy as np
from jax import Array, lax

from pjax_kernels.bilinear_map.reference import by_length, selected_increments
from pjax_kernels.windows import OfImage


def conv2d_increments(
    x: Array, w: Array, z: Array, *, windows: OfImage, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, H, W, C) and ``w`` (h, w, C, K), and the change of ``z`` (B, H', W', K)."""
    del precision  # there is no convolution here
    rows, columns = windows
    x_places, w_places = np.arange(x.size).reshape(x.shape), np.arange(w.size).reshape(w.shape)

    def entries(b: int, p: int, q: int, k: int) -> tuple[np.ndarray, ...]:
        i, j = np.flatnonzero(rows.holds[p]), np.flatnonzero(columns.holds[q])
        of_x = x_places[b][np.ix_(rows.positions[p, i] - rows.low, columns.positions[q, j] - columns.low)]
        return of_x.ravel(), w_places[np.ix_(i, j)][..., k].ravel()

    selected = by_length([entries(*output) for output in np.ndindex(z.shape)])
    x_change, w_change, z_change = selected_increments(selected, x, w, z, residual)
    return x_change, w_change, z_change
