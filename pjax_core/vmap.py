"""Vectorisation of functions of traced values, as ``jax.vmap`` does it for functions of arrays."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pjax_core.graph import Constraint, Value, as_value, exposed, hidden, restructure

_LEVELS = itertools.count()


def vmap(function: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """``function`` over an axis of its arguments, as :func:`jax.vmap`, also while a network is traced.

    Each element of the axis has its own constraints; what ``function`` shares between elements, such as weights, has
    a copy in each.  Where an operation can take the axis as more rows it does, so that a dense layer or a convolution
    mapped over samples costs as much as one of a batch.

    Args:
        function: written with the operations of this package for one element.  Traced values that it uses and that
            are not among its arguments are the same for all elements; at least one argument must be traced, unless
            it uses arrays alone.
        in_axes: the axis of each argument to map over, None for an argument that is the same for all; one for all
            arguments, or a tuple with one for each, which may be a tree for an argument that is one.
        out_axes: the axis of each result that the mapped one becomes.

    Returns:
        The function of arguments that have the axis.  An output constraint returned by ``function`` is one over all
        elements.

    Raises:
        ValueError: no argument is mapped, or the axes differ in length.
    """

    @functools.wraps(function)
    def mapped(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        if not any(isinstance(leaf, Value) for leaf in leaves):
            return jax.vmap(function, in_axes, out_axes)(*arguments)
        axes = _axes(in_axes, arguments, structure)
        level = next(_LEVELS)
        length = _common_length(leaves, axes)
        inside = [leaf if axis is None else _hide(leaf, axis, level) for leaf, axis in zip(leaves, axes, strict=True)]
        results, tree = jax.tree.flatten(
            function(*jax.tree.unflatten(structure, inside)), is_leaf=lambda leaf: isinstance(leaf, Constraint)
        )
        outs = jax.tree.leaves(jax.tree.broadcast(out_axes, jax.tree.unflatten(tree, results)))
        shown = [_show(result, axis, level, length) for result, axis in zip(results, outs, strict=True)]
        return jax.tree.unflatten(tree, shown)

    return mapped


def _axes(in_axes: Any, arguments: tuple[Any, ...], structure: Any) -> list[int | None]:
    """The axis of each leaf of the arguments."""
    wanted = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(arguments)
    if len(wanted) != len(arguments):
        raise ValueError(f"vmap: in_axes has {len(wanted)} entries, but there are {len(arguments)} arguments")
    full = jax.tree.broadcast(tuple(wanted), arguments, is_leaf=lambda leaf: leaf is None)
    return jax.tree.leaves(full, is_leaf=lambda leaf: leaf is None)


def _common_length(leaves: list[Any], axes: list[int | None]) -> int:
    """The length of the mapped axes."""
    lengths = [jnp.shape(leaf)[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
    if len(set(lengths)) != 1:
        raise ValueError(f"vmap: the mapped axes have lengths {lengths}; they must agree, and there must be one")
    return lengths[0]


def _hide(leaf: Any, axis: int, level: int) -> Value:
    """The value of one element."""
    return hidden(restructure(lambda array: jnp.moveaxis(array, axis, 0), as_value(leaf)), level)


def _show(result: Any, axis: int, level: int, length: int) -> Any:
    """The value of all elements."""
    if isinstance(result, Constraint):
        return result
    value = as_value(result)
    if level in value.levels:
        return restructure(lambda array: jnp.moveaxis(array, 0, axis), exposed(value, level))
    return restructure(lambda array: jnp.moveaxis(jnp.broadcast_to(array, (length, *array.shape)), 0, axis), value)
