"""What a framework of projections needs beside the kernels: arguments, forward functions, pairs, work in place."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.arguments import as_array, padding_pairs, positive_pair, require_box
from pjax_kernels.average_pool.windows import WindowsOfArray
from pjax_kernels.average_pool.windows import place as place_windows
from pjax_kernels.dense.span import (
    ChangeInSpan,
    Span,
    no_change_in_span,
    project_dense_in_span,
    span_of,
)
from pjax_kernels.elementwise.functions import elementwise_function
from pjax_kernels.known import computed, exact_outputs
from pjax_kernels.layer.api import RULES as LAYER_RULES
from pjax_kernels.layer.api import is_layer
from pjax_kernels.layer.xla import metric as layer_metric
from pjax_kernels.meshes import on_automatic_axes
from pjax_kernels.pairs import add_to_pair, difference_of_pairs
from pjax_kernels.roots import always, computed_once, replaced_if

__all__ = [
    "LAYER_RULES",
    "ChangeInSpan",
    "Span",
    "WindowsOfArray",
    "add_to_pair",
    "always",
    "as_array",
    "computed",
    "computed_once",
    "conv2d",
    "difference_of_pairs",
    "elementwise_function",
    "exact_outputs",
    "is_layer",
    "layer_metric",
    "max_pool",
    "no_change_in_span",
    "on_automatic_axes",
    "padding_pairs",
    "place_windows",
    "positive_pair",
    "project_dense_in_span",
    "replaced_if",
    "require_box",
    "span_of",
]


def conv2d(x: Array, w: Array, *, strides: tuple[int, int], padding: Any) -> Array:
    """What :func:`pjax_kernels.project_conv2d` projects onto, in the dtype to which both promote.

    Args:
        x: ``(B, H, W, C)``.
        w: ``(h, w, C, K)``.
        strides: for rows and columns.
        padding: from :func:`padding_pairs`.

    Returns:
        ``(B, H', W', K)``.
    """
    dtype = jnp.result_type(x, w)
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x.astype(dtype),
        w.astype(dtype),
        strides,
        padding,
        dimension_numbers=numbers,
        precision=lax.Precision.HIGHEST,
    )


def max_pool(x: Array, *, window: tuple[int, int], strides: tuple[int, int], padding: Any) -> Array:
    """What :func:`pjax_kernels.project_max_pool` projects onto.

    Args:
        x: ``(B, H, W, C)``.
        window: rows and columns.
        strides: from a window to the next.
        padding: from :func:`padding_pairs`; never the maximum.

    Returns:
        ``(B, H', W', C)``.
    """
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    around = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, lowest, lax.max, (1, *window, 1), (1, *strides, 1), around)
