"""Checks of what users pass in."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def problem_arguments(params: Any, data: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Parameters and data as arrays: floating-point and, where their content is known, finite; data also integers."""
    if not jax.tree.leaves(params):
        raise ValueError("params holds no array; there is nothing to train")
    return _checked("params", params, (jnp.floating,)), _checked("data", data, (jnp.floating, jnp.integer))


def low_part(params: Any, params_low: Any) -> None:
    """Raise ``ValueError`` unless ``params_low`` is None or has the structure and the shapes of ``params``."""
    if params_low is None:
        return
    wanted, found = ((jax.tree.structure(t), jax.tree.map(jnp.shape, t)) for t in (params, params_low))
    if wanted != found:
        raise ValueError(f"params_low holds {found[1]}, but params {wanted[1]}; pass solution.params_low, or None")


def number_of_steps(steps: Any) -> int:
    """``steps`` as an integer that is not negative."""
    try:
        count = operator.index(steps)
    except TypeError:
        raise TypeError(f"steps is {steps!r}; pass an integer") from None
    if count < 0:
        raise ValueError(f"steps is {count}; pass a number that is not negative")
    return count


def number(name: str, value: Any, valid: Callable[[float], bool], wanted: str) -> float:
    """``value`` as a float of Python, which takes part in arithmetic of any precision."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating)):
        raise TypeError(f"{name} is {value!r}; pass {wanted}")
    if not valid(float(value)):
        raise ValueError(f"{name} is {value!r}; pass {wanted}")
    return float(value)


def _checked(name: str, tree: Any, kinds: tuple[Any, ...]) -> Any:
    arrays = jax.tree_util.tree_map_with_path(lambda path, leaf: _array(name + jax.tree_util.keystr(path), leaf), tree)
    for path, array in jax.tree_util.tree_leaves_with_path(arrays):
        label = name + jax.tree_util.keystr(path)
        if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
            raise TypeError(
                f"{label} has dtype {array.dtype}; projections move values continuously, so pass floating-point "
                "arrays (class labels as jax.nn.one_hot)"
            )
        if not isinstance(array, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(array))):
            count = int(jnp.sum(~jnp.isfinite(array)))
            raise ValueError(
                f"{label} of shape {array.shape} has {count} entries that are NaN or infinite; "
                "a projection would spread them over the whole network, so remove them first"
            )
    return arrays


def _array(label: str, leaf: Any) -> Array:
    try:
        return jnp.asarray(leaf)
    except TypeError:
        raise TypeError(
            f"{label} is {leaf!r}, of type {type(leaf).__name__}; params and data are trees of arrays, so give other "
            "settings to the network by its closure"
        ) from None
