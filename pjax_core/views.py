"""NumPy-like selections of elements: no constraints, but views of the values that they select from.

An element that is selected several times has so many copies, whose mean counts; one that is never selected is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pjax_core.graph import Value, is_index
from pjax_core.operand import Operand, Result, axes_of, is_known, restructure, shape_of


def reshape(x: Operand, shape: int | Sequence[int]) -> Result:
    """``x`` in another shape, as in NumPy; -1 stands for the length that fits. No constraint: a view."""
    return restructure(lambda array: jnp.reshape(array, shape), x)


def transpose(x: Operand, axes: Sequence[int] | None = None) -> Result:
    """``x`` with its axes permuted, reversed by default, as in NumPy. No constraint: a view."""
    return restructure(lambda array: jnp.transpose(array, axes), x)


def swapaxes(x: Operand, axis1: int, axis2: int) -> Result:
    """``x`` with two axes exchanged, as in NumPy. No constraint: a view."""
    return restructure(lambda array: jnp.swapaxes(array, axis1, axis2), x)


def moveaxis(x: Operand, source: int | Sequence[int], destination: int | Sequence[int]) -> Result:
    """``x`` with axes moved to other places, as in NumPy. No constraint: a view."""
    return restructure(lambda array: jnp.moveaxis(array, source, destination), x)


def expand_dims(x: Operand, axis: int | Sequence[int]) -> Result:
    """``x`` with new axes of length 1, as in NumPy. No constraint: a view."""
    return restructure(lambda array: jnp.expand_dims(array, axis), x)


def squeeze(x: Operand, axis: int | Sequence[int] | None = None) -> Result:
    """``x`` without axes of length 1, all by default, as in NumPy. No constraint: a view."""
    return restructure(lambda array: jnp.squeeze(array, axis), x)


def concatenate(operands: Sequence[Operand], axis: int = 0) -> Result:
    """Operands joined along an axis, as in NumPy. No constraint: a view."""
    return restructure(lambda *arrays: jnp.concatenate(arrays, axis=axis), *operands)


def stack(operands: Sequence[Operand], axis: int = 0) -> Result:
    """Operands joined along a new axis, as in NumPy. No constraint: a view."""
    return restructure(lambda *arrays: jnp.stack(arrays, axis=axis), *operands)


def split(x: Operand, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Result]:
    """``x`` cut along an axis, into so many equal parts or before the indices given, as in NumPy. Views.

    Raises:
        ValueError: there is no such axis, or the parts would not be equal.
    """
    (axis,) = axes_of(axis, len(shape_of(x)))
    length = shape_of(x)[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        sections = int(indices_or_sections)
        if sections < 1 or length % sections:
            raise ValueError(f"split: an axis of length {length} does not make {sections} equal parts")
        ends = [length // sections * k for k in range(1, sections)]
    else:
        ends = list(indices_or_sections)
    bounds = zip([0, *ends], [*ends, length], strict=True)
    return [index(x, (slice(None),) * axis + (slice(start, stop),)) for start, stop in bounds]


def broadcast_to(x: Operand, shape: Sequence[int]) -> Result:
    """``x`` repeated to a larger shape, as in NumPy. No constraint: a view, whose copies average."""
    return restructure(lambda array: jnp.broadcast_to(array, tuple(shape)), x)


def repeat(x: Operand, repeats: int | Sequence[int], axis: int | None = None) -> Result:
    """Each element of ``x`` repeated, of ``x`` made flat by default, as in NumPy. A view, whose copies average."""
    counts = np.asarray(repeats)
    total = None if counts.ndim == 0 else int(counts.sum())
    return restructure(lambda array: jnp.repeat(array, counts, axis, total_repeat_length=total), x)


def pad(x: Operand, pad_width: int | Sequence[int] | Sequence[Sequence[int]], *, constant_values: float = 0) -> Result:
    """``x`` with a constant around it, as in NumPy. No constraint: a view; what is around it never moves."""
    dtype = x.dtype if isinstance(x, Value) else jnp.result_type(x)
    constant = jnp.asarray(constant_values, dtype)
    return restructure(lambda array, value: jnp.pad(array, pad_width, constant_values=value), x, constant)


def index(x: Operand, where: Any) -> Result:
    """``x[where]`` as in NumPy, with integers also from data. No constraint: a view.

    An element that is selected several times takes the mean of its copies; one that is never selected keeps its value.

    Args:
        x: any shape.
        where: what NumPy takes; arrays of integers may be data, given after params.

    Raises:
        IndexError: an index that is known while tracing is out of range.  Others are clamped.
        TypeError: an index is not of integers.
    """
    indices = where if isinstance(where, tuple) else (where,)
    for part in indices:
        if isinstance(part, str):
            raise TypeError(
                f"index: {part!r} is no index of an array of shape {shape_of(x)}; if it names a parameter, pass params "
                "first, then data"
            )
    places = [place for place, part in enumerate(indices) if isinstance(part, Value) or not is_known(part)]
    for place in places:
        if not np.issubdtype(indices[place].dtype, np.integer):
            raise TypeError(f"index: an index has dtype {indices[place].dtype}; pass integers")
    if not places:
        np.broadcast_to(np.empty(()), shape_of(x))[where]  # raises IndexError: JAX would take the nearest element
        return restructure(lambda array: array[where], x)
    for place in places:
        _require_data(indices[place])

    def select(array: Any, *integers: Any) -> Any:
        parts = list(indices)
        for place, part in zip(places, integers, strict=True):
            parts[place] = part
        return array.at[tuple(parts)].get(mode="clip")

    return restructure(select, x, *(indices[place] for place in places))


def _require_data(part: Operand) -> None:
    """Raise ``TypeError`` unless the index is data."""
    if isinstance(part, Value) and not all(is_index(source) for source in part.slot.sources):
        names = ", ".join(source.name for source in part.slot.sources)
        raise TypeError(f"index: an index comes from {names}; it must be data of integers, given after params")


def embedding(table: Operand, indices: Operand) -> Result:
    """Rows of a table: ``table[indices]``.

    No constraint: a view.  A row that is selected several times takes the mean of its copies, one that is never
    selected keeps its value.

    Args:
        table: ``(V, ...)``, one row for each integer.
        indices: integers of any shape, known or data.

    Returns:
        ``(*indices.shape, ...)``.

    Raises:
        IndexError: an index that is known while tracing is out of range.  Others are clamped.
        TypeError: ``indices`` are not integers.
        ValueError: ``table`` has no axis.
    """
    if not shape_of(table):
        raise ValueError("embedding: table has shape (), but needs an axis of rows")
    dtype = indices.dtype if isinstance(indices, Value) else jnp.result_type(indices)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"embedding: indices have dtype {dtype}; pass integers")
    return index(table, indices if isinstance(indices, Value) or not is_known(indices) else np.asarray(indices))
