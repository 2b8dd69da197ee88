"""Projection of a convolution in consensus form, in jax.numpy: any platform."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pjax_kernels.bilinear_map.xla import transposed
from pjax_kernels.consensus import consensus_increments
from pjax_kernels.dot_products import DotProducts
from pjax_kernels.windows import OfImage


def conv2d_increments(
    x: Array, w: Array, z: Array, *, windows: OfImage, precision: lax.PrecisionLike, residual: Array | None = None
) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, H, W, C) and ``w`` (h, w, C, K), and the change of ``z`` (B, H', W', K)."""
    dots = dot_products(x, w, z, windows=windows, precision=precision)
    return consensus_increments(dots, x, w, z, residual)


def dot_products(x: Array, w: Array, z: Array, *, windows: OfImage, precision: lax.PrecisionLike) -> DotProducts:
    """Those of a convolution."""
    strides, padding = [axis.stride for axis in windows], [axis.padding for axis in windows]

    def product(x: Array, w: Array) -> Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout, precision=precision)

    def to_x(c: Array, w: Array) -> Array:
        return transposed(lambda x: product(x, w), x, c)

    def to_x_by_places(c: Array, w: Array) -> Array:
        """The same: what each place in the windows is sent, by one matrix product, and then added up."""
        sent = sum_windows("ijck,bpqk->ijcbpq", w, c)
        return transposed(lambda x: _at_places(x, windows), x, sent)

    def to_x_beside_to_w(c: Array, w: Array) -> Array:
        """The same, of an operand of its own: of two convolutions of one array, XLA's CPU runs one after the other."""
        return -to_x(-c, w)

    def to_x_on_any_platform(c: Array, w: Array) -> Array:
        # Of few channels, a convolution on CPU takes 4 times as long as the places in the windows, of which there are
        # then so few that what they are sent takes no more memory than c.
        on_cpu = to_x_by_places if w[..., 0].size <= w.shape[3] else to_x_beside_to_w
        return lax.platform_dependent(c, w, cpu=on_cpu, default=to_x)

    # Channels, or the batch, are added up first: what remains costs next to nothing.
    sum_windows = functools.partial(jnp.einsum, precision=precision)
    rows, columns = (jnp.asarray(axis.covers, z.dtype) for axis in windows)
    inside_rows, inside_columns = (jnp.asarray(axis.holds, z.dtype) for axis in windows)

    def of_x(x: Array) -> Array:
        return sum_windows("ph,bhw,qw->bpq", rows, jnp.sum(x, axis=3), columns)[..., None]

    def of_w(w: Array) -> Array:
        return sum_windows("pi,ijk,qj->pqk", inside_rows, jnp.sum(w, axis=2), inside_columns)

    def spread_x(c: Array) -> Array:
        return sum_windows("ph,bpq,qw->bhw", rows, jnp.sum(c, axis=3), columns)[..., None]

    def spread_w(c: Array) -> Array:
        # A product with ones: on CPU a sum over the first axis can be 50 times slower, where the cache aliases.
        of_batch = sum_windows("b,bpqk->pqk", jnp.ones(c.shape[0], c.dtype), c)
        return sum_windows("pi,pqk,qj->ijk", inside_rows, of_batch, inside_columns)[:, :, None, :]

    (batch, _, _, channels), width = x.shape, w.shape[3]
    return DotProducts(
        product,
        of_x,
        of_w,
        to_x=to_x_on_any_platform,
        to_w=lambda c, x: transposed(lambda w: product(x, w), w, c),
        spread_x=spread_x,
        spread_w=spread_w,
        length=channels * np.multiply.outer(*(axis.holds.sum(1) for axis in windows))[..., None],
        x_copies=width * np.multiply.outer(*(axis.covers.sum(0) for axis in windows))[..., None],
        w_copies=batch * np.multiply.outer(*(axis.holds.sum(0) for axis in windows))[..., None, None],
        hold_products=False,
    )


def _at_places(x: Array, windows: OfImage) -> Array:
    """What all windows have at each of their places, ``(h, w, C, B, H', W')``: for its transpose, never computed."""
    rows, columns = windows
    padded = jnp.pad(x, ((0, 0), rows.padding, columns.padding, (0, 0)))

    def at(i: int, j: int) -> Array:
        last = tuple(place + axis.span for place, axis in zip((i, j), windows, strict=True))
        limits, strides = (len(x), *last, x.shape[3]), (1, rows.stride, columns.stride, 1)
        return jnp.moveaxis(lax.slice(padded, (0, i, j, 0), limits, strides), 3, 0)

    return jnp.stack([jnp.stack([at(i, j) for j in range(columns.size)]) for i in range(rows.size)])
