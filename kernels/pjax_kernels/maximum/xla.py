"""Projections onto a maximum in jax.numpy: any platform."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike

from pjax_kernels import sums
from pjax_kernels.roots import computed_once
from pjax_kernels.windows import Windows, copies_of_each_entry

_State = tuple[Array, Array, Array]
_Index = int | Array
_Carry = TypeVar("_Carry")

MAX_UNROLLED = 25
"""Entries of a window for which a loop over them is unrolled, so that XLA fuses its iterations into one."""

FEWEST_PARTS = 4
"""Of a row, for which sums in one pass are faster than one after the other."""

GROUPS = 112
"""Of a long row, the largest entries of so many groups give the first guess: whole vector registers of them."""


def max_increments(x: Array, z: Array, axes: tuple[int, ...], residual: Array | None = None) -> tuple[Array, Array]:
    """The changes of ``x`` and of ``z``, which has size 1 along ``axes``."""
    x = x if residual is None else computed_once(x)
    size = math.prod(x.shape[axis] for axis in axes)
    # Floating-point numbers are added and compared faster, and those in float32 exactly up to 2^24.
    counting = x.dtype if not is_symbolic_dim(size) and size <= 1 << 24 else jnp.int32
    long_rows = axes == (x.ndim - 1,) and not is_symbolic_dim(size) and 2 * GROUPS <= size <= 1 << 24

    def total_loss(x: Array, top: Array, fall: Array) -> tuple[Array, Array]:
        losses = _loss(x, top, fall)
        if long_rows and sums.parts_of(x.shape[-1]) >= FEWEST_PARTS:
            total, count = (y[..., None] for y in sums.over_rows((losses, (losses > 0).astype(counting))))
        else:
            total = jnp.sum(losses, axis=axes, keepdims=True)
            count = jnp.sum((losses > 0).astype(counting), axis=axes, keepdims=True)
        return total, count.astype(jnp.int32)

    top = jnp.max(x, axis=axes, keepdims=True)
    excess = top - z if residual is None else -residual
    fall = 0.5 * excess  # the root for the largest entry alone; others only make it smaller
    if long_rows:
        fall = _fall_of_maximum(_largest_of_groups(x), top, excess, fall, total_loss)
    fall = _fall_of_maximum(x, top, excess, fall, total_loss)
    raised = (fall < 0) & _is_first(x == top, axes, counting)
    return jnp.where(raised, -fall, -_loss(x, top, fall)), excess - fall


def _largest_of_groups(x: Array) -> Array:
    """The largest of every so manyth entry: few, among which most of those are that lose."""
    rows = x.shape[-1] // GROUPS
    return jnp.max(x[..., : rows * GROUPS].reshape(*x.shape[:-1], rows, GROUPS), axis=-2)


def _loss(entry: Array, top: Array, fall: Array) -> Array:
    """What an entry loses when the maximum falls from ``top``."""
    return jnp.maximum(fall - (top - entry), 0)


def _fall_of_maximum(
    x: Array,
    top: Array,
    excess: Array,
    too_large: Array,
    total_loss: Callable[[Array, Array, Array], tuple[Array, Array]],
) -> Array:
    """How far the maximum falls: as it is ``too_large`` where that is negative, else the root of an equation.

    The root of ``total_loss(x, top, fall) = excess - fall``, what the entries lose and what ``z`` gains; the
    function also counts the entries that lose.  The difference of the sides is convex and increases, so Newton's
    method from one that is ``too_large`` comes down without overshooting, and is at the root once no entry drops out.
    A step divides the product of the difference and its slope by at least four; as the slope is a count, few are
    needed: eight for 784 normally distributed entries.  The last step, in which no entry drops out, takes away the
    rounding of those before.
    """

    def entries_drop_out(state: _State) -> Array:
        _, count, previous_count = state
        return jnp.any(count < previous_count)

    def newton(state: _State) -> _State:
        fall, previous_count, _ = state
        # Without the barrier, XLA computes top - x once for all steps: an array to store for every copy, and to read.
        loss, count = total_loss(*lax.optimization_barrier((x, top, fall)))
        step = (loss - (excess - fall)) / (count + 1).astype(fall.dtype)
        return jnp.where(fall > 0, fall - step, fall), count, previous_count

    largest = jnp.full_like(excess, jnp.iinfo(jnp.int32).max, dtype=jnp.int32)
    fall, _, _ = lax.while_loop(entries_drop_out, newton, (too_large, largest - 1, largest))
    return fall


def _is_first(candidates: Array, axes: tuple[int, ...], counting: DTypeLike) -> Array:
    """The first of the ``candidates`` over ``axes`` in row-major order, which numbers of the dtype can count."""
    shape = [size if i in axes else 1 for i, size in enumerate(candidates.shape)]
    order = jnp.arange(math.prod(shape), dtype=counting).reshape(shape)
    return order == jnp.min(order, axis=axes, keepdims=True, initial=order.size, where=candidates)


def max_pool_increments(
    x: Array, z: Array, rows: Windows, columns: Windows, residual: Array | None = None
) -> tuple[Array, Array]:
    """The mean changes of ``x`` over its copies, and the changes of ``z``.

    Copies are not stored: the change of one follows from its entry and from how far its window's maximum falls.
    """
    x = x if residual is None else computed_once(x)
    padded = jnp.pad(x, ((0, 0), rows.padding, columns.padding, (0, 0)), constant_values=-math.inf)

    def entry(padded: Array, i: _Index, j: _Index) -> Array:
        """Entry ``(i, j)`` of every window."""
        return _block(padded, i, j, rows, columns)[:, :: rows.stride, :: columns.stride]

    def fold(step: Callable[[_Carry, _Index, _Index], _Carry], start: _Carry) -> _Carry:
        return _over_entries(step, start, rows.size, columns.size)

    def total_loss(padded: Array, top: Array, fall: Array) -> tuple[Array, Array]:
        def add(sums: tuple[Array, Array], i: _Index, j: _Index) -> tuple[Array, Array]:
            loss = _loss(entry(padded, i, j), top, fall)
            return sums[0] + loss, sums[1] + (loss > 0).astype(jnp.int32)

        return fold(add, (jnp.zeros_like(z), jnp.zeros_like(z, jnp.int32)))

    top = fold(lambda top, i, j: jnp.maximum(top, entry(padded, i, j)), jnp.full_like(z, -math.inf))
    excess = top - z if residual is None else -residual
    fall = _fall_of_maximum(padded, top, excess, 0.5 * excess, total_loss)

    def add_change(state: tuple[Array, Array], i: _Index, j: _Index) -> tuple[Array, Array]:
        totals, not_raised = state
        value = entry(padded, i, j)
        raised = not_raised & (value == top)
        change = jnp.where(raised, -fall, -_loss(value, top, fall))
        dilated = lax.pad(
            change, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, rows.stride - 1), (0, 0, columns.stride - 1), (0, 0, 0))
        )
        block = _block(totals, i, j, rows, columns) + dilated
        return lax.dynamic_update_slice(totals, block, (0, i, j, 0)), not_raised & ~raised

    totals, _ = fold(add_change, (jnp.zeros_like(padded), fall < 0))
    copies = copies_of_each_entry(rows, columns).astype(x.dtype)
    return totals[:, rows.inside, columns.inside] / copies, excess - fall


def _block(padded: Array, i: _Index, j: _Index, rows: Windows, columns: Windows) -> Array:
    """From entry ``(i, j)`` of the first window to that of the last one."""
    batch, _, _, channels = padded.shape
    return lax.dynamic_slice(padded, (0, i, j, 0), (batch, rows.span, columns.span, channels))


def _over_entries(step: Callable[[_Carry, _Index, _Index], _Carry], start: _Carry, height: int, width: int) -> _Carry:
    """The last of ``carry = step(carry, i, j)`` over the entries of a window in row-major order."""
    if height * width > MAX_UNROLLED:
        return lax.fori_loop(0, height * width, lambda k, carry: step(carry, k // width, k % width), start)
    carry = start
    for i in range(height):
        for j in range(width):
            carry = step(carry, i, j)
    return carry
