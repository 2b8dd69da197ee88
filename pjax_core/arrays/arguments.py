"""Checks of what users pass in."""

from __future__ import annotations

import numbers
import operator
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_core.arrays.meshes import varying, varying_axes
from pjax_core.arrays.messages import described, is_known
from pjax_kernels.compose import as_array


def problem_arguments(params: Any, data: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Parameters and data as arrays: floating-point and, where their content is known, finite; data also integers."""
    if not jax.tree.leaves(params):
        raise ValueError("params holds no array; there is nothing to train")
    given, structure = jax.tree_util.tree_flatten_with_path((params, data))
    labels = [("params", "data")[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in given]
    leaves = [leaf for _, leaf in given]
    arrays = list(map(_array, labels, leaves))
    for label, array in zip(labels, arrays, strict=True):
        _require_kind(label, array)
    _require_finite(labels, leaves, arrays)
    # Inside shard_map all that is computed of data varies, parameters too.
    return jax.tree.unflatten(structure, varying(arrays, varying_axes(arrays)))


class Known:
    """Tuples of arrays of JAX, by identity, of which something is known for good: such arrays never change.

    It does not keep them.
    """

    def __init__(self) -> None:
        self._references: dict[tuple[int, ...], list[weakref.ref]] = {}

    def __contains__(self, arrays: tuple[Any, ...]) -> bool:
        references = self._references.get(tuple(map(id, arrays)))
        return references is not None and all(r() is a for r, a in zip(references, arrays, strict=True))

    def add(self, arrays: tuple[Any, ...]) -> None:
        """Remember these arrays, unless one of them can change."""
        if all(isinstance(array, Array) and is_known(array) for array in arrays):
            key = tuple(map(id, arrays))
            self._references[key] = [weakref.ref(array, lambda _: self._references.pop(key, None)) for array in arrays]


_finite = Known()
"""Arrays that were checked."""

_of_solve = Known()
"""Arrays that :func:`pjax_core.solve` returned: it may be computing them still, and nobody waits for that to end."""


def returned_by_solve(tree: Any) -> None:
    """Let the next call not wait for these arrays: they are checked once they are there."""
    for leaf in jax.tree.leaves(tree):
        _of_solve.add((leaf,))


def low_part(params: Any, params_low: Any) -> Any:
    """``params_low``: ``ValueError`` unless it is None or has the structure and the shapes of ``params``."""
    if params_low is None:
        return None
    wanted, found = ((jax.tree.structure(t), jax.tree.map(jnp.shape, t)) for t in (params, params_low))
    if wanted != found:
        raise ValueError(f"params_low holds {found[1]}, but params {wanted[1]}; pass solution.params_low, or None")
    return varying(jax.tree.map(jnp.asarray, params_low), varying_axes(params))


def integer(name: str, value: Any, least: int, wanted: str) -> int:
    """``value`` as an integer of Python that is at least so large."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {described(value)}; pass an integer") from None
    if count < least:
        raise ValueError(f"{name} is {count}; pass {wanted}")
    return count


def number_or_traced(name: str, value: Any, valid: Callable[[float], bool], wanted: str) -> float | Array:
    """As :func:`number`, but a number that is traced, which cannot be looked at, stays as it is."""
    if isinstance(value, jax.core.Tracer) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return number(name, value, valid, wanted)


def number(name: str, value: Any, valid: Callable[[float], bool], wanted: str) -> float:
    """``value`` as a float of Python, which takes part in arithmetic of any precision."""
    value = scalar(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating)):
        raise TypeError(f"{name} is {described(value)}; pass {wanted}")
    if not valid(float(value)):
        raise ValueError(f"{name} is {value!r}; pass {wanted}")
    return float(value)


def scalar(value: Any) -> Any:
    """Of an array of known content without axes its number of Python: comparisons of it would be traced."""
    known = isinstance(value, (np.generic, np.ndarray, Array)) and is_known(value) and value.ndim == 0
    return value.item() if known else value


def _array(label: str, leaf: Any) -> Array:
    try:
        return as_array(leaf)
    except (TypeError, ValueError):
        if hasattr(leaf, "dtype"):
            what = f"has dtype {leaf.dtype!s}, which JAX does not have; pass {label}.astype(np.float32)"
            raise TypeError(f"{label} {what}") from None
        # Of a class that a user wrote, which may hold arrays, the name alone.
        plain = isinstance(leaf, (str, bytes, int, float, complex, type(None)))
        raise TypeError(
            f"{label} is {f'{described(leaf)}, ' if plain else ''}of type {type(leaf).__name__}; params and data are "
            "trees of arrays: give other settings to the network by its closure, such as the second part of "
            "eqx.partition(module, eqx.is_inexact_array), and register a class of your own that holds arrays with "
            "jax.tree_util.register_dataclass"
        ) from None


def _require_kind(label: str, array: Array) -> None:
    """Raise ``TypeError`` unless the array has floating-point numbers, or in data integers, masks or random keys."""
    is_parameter = label.startswith("params")
    others = () if is_parameter else (jnp.integer, jnp.bool_, jax.dtypes.prng_key)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, *others)):
        hint = ", and what is not trained as data, such as the rest of nnx.split(module, nnx.Param, ...)"
        raise TypeError(
            f"{label} has dtype {array.dtype}; projections move values continuously, so pass floating-point arrays"
            f"{hint if is_parameter else ''}"
        )


def _require_finite(labels: list[str], leaves: list[Any], arrays: list[Array]) -> None:
    """Raise ``ValueError`` unless all numbers of known content are finite; the device is waited for once at most."""
    flags: dict[int, Any] = {}
    with jax.ensure_compile_time_eval():  # inside jit, what is computed of known arrays is known
        for place, (leaf, array) in enumerate(zip(leaves, arrays, strict=True)):
            awaited = (leaf,) in _of_solve and not leaf.is_ready()
            is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
            if is_known(leaf) and not is_key and not awaited and (leaf,) not in _finite:
                flags[place] = _all_finite(leaf) if isinstance(leaf, Array) else _finite_entries(leaf, array)
        for place, flag in jax.device_get(flags).items():
            if not np.all(flag):
                count = int(np.sum(~_finite_entries(leaves[place], arrays[place])))
                raise ValueError(
                    f"{labels[place]} of shape {arrays[place].shape} has {count} entries that are NaN or infinite; "
                    "a projection would spread them over the whole network, so remove them first"
                )
            _finite.add((leaves[place],))


@jax.jit
def _all_finite(array: Array) -> Array:
    return jnp.all(jnp.isfinite(array))


def _finite_entries(leaf: Any, like: Array) -> np.ndarray:
    """Which entries are finite in the dtype that JAX gives them."""
    with np.errstate(over="ignore"):
        return np.isfinite(np.asarray(leaf).astype(like.dtype, copy=False))
