"""Checks and conversions that the public kernels share."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike
from numpy.lib.array_utils import normalize_axis_tuple


def floating_arrays(kernel: str, **arguments: ArrayLike) -> dict[str, Array]:
    """The arguments as arrays; a ``TypeError`` names the first that is not floating-point."""
    arrays = {}
    for name, value in arguments.items():
        try:
            array = arrays[name] = as_array(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{kernel}: {name} is a {type(value).__name__}; pass a floating-point array") from error
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{kernel}: {name} has dtype {array.dtype}; projections move values continuously, "
                f"so pass a floating-point array, such as {name}.astype(jnp.float32)"
            )
    return arrays


def as_array(value: ArrayLike) -> Array:
    """``jnp.asarray``, which compiles a program for each shape of a NumPy array whose dtype it is not told."""
    if not isinstance(value, np.ndarray):
        return jnp.asarray(value)
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    with np.errstate(over="ignore"):  # as in JAX, what float32 does not hold is infinite
        return jnp.asarray(value.astype(dtype, copy=False), dtype)


def floating_trees(kernel: str, **arguments: Any) -> tuple[list[Array], Any]:
    """The leaves of the arguments as arrays, and the structure of the tuple of arguments; errors as above."""
    named = {
        name + jax.tree_util.keystr(path): leaf
        for name, tree in arguments.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return list(floating_arrays(kernel, **named).values()), jax.tree.structure(tuple(arguments.values()))


def compute_dtype(arrays: Sequence[Array]) -> DTypeLike:
    """The common dtype, at least float32: increments are too small for half precision."""
    with jax.numpy_dtype_promotion("standard"):  # what is strict is left to the user's own program
        return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def scalar(
    kernel: str, name: str, value: Any, dtype: DTypeLike, allowed: Callable[[float], bool], advice: str
) -> ArrayLike:
    """``value`` as an array without axes; a ``ValueError`` gives advice where it is known to be no such number."""
    if isinstance(value, bool) or np.ndim(value) > 0 or not _is_real(value):
        raise ValueError(f"{kernel}: {name} is {shown(value)}; pass {advice}")
    if isinstance(value, jax.core.Tracer):
        return jnp.asarray(value, dtype)
    if not allowed(float(value)):
        raise ValueError(f"{kernel}: {name} is {shown(value)}; pass {advice}")
    return np.asarray(value, dtype)


def positive_number(kernel: str, name: str, value: Any, dtype: DTypeLike) -> ArrayLike:
    """``value`` as such an array; a ``ValueError`` where it is known not to be positive and finite."""
    return scalar(kernel, name, value, dtype, lambda number: 0 < number < math.inf, "a positive number")


def _is_real(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, (int, float))
    return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def shown(value: Any) -> str:
    """Numbers and texts as they are, of arrays no content."""
    if getattr(value, "shape", ()):
        return f"an array of shape {value.shape}"
    return str(value) if hasattr(value, "dtype") else repr(value)


def require_shape(kernel: str, name: str, array: Array, expected: tuple[int, ...], because: str) -> None:
    """Raise ``ValueError`` with both shapes unless ``array`` has the ``expected`` one."""
    if array.shape != expected:
        raise ValueError(f"{kernel}: {name} has shape {array.shape}, but {because} needs {expected}")


def require_weights(kernel: str, name: str, w: Array, inputs: int, because: str) -> None:
    """Raise ``ValueError`` unless ``w`` is ``(inputs, M)``, for any ``M``."""
    if w.ndim != 2 or w.shape[0] != inputs:
        hint = f"; pass {name}.T" if w.ndim == 2 and w.shape[1] == inputs else ""
        raise ValueError(f"{kernel}: {name} has shape {w.shape}, but {because} needs ({inputs}, M){hint}")


def require_several(kernel: str, **arguments: Any) -> None:
    """Raise ``TypeError`` for an array where a list or tuple of them is needed."""
    for name, value in arguments.items():
        if not isinstance(value, (tuple, list)):
            came = f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"
            raise TypeError(f"{kernel}: {name} is {came}; pass a list or tuple of them, such as [{name}]")


def broadcast_constant(kernel: str, name: str, value: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A constant, of any real dtype, stretched to the ``shape`` of the argument that it belongs to."""
    array = jnp.asarray(value).astype(dtype)
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{kernel}: {name} has shape {array.shape}, which does not broadcast to {shape}") from None


def require_box(kernel: str, low: ArrayLike, high: ArrayLike) -> None:
    """Raise ``ValueError`` where limits that Python or NumPy holds leave nothing between them."""
    known = not isinstance(low, Array) and not isinstance(high, Array)
    if known and not np.all(np.asarray(low) <= np.asarray(high)):
        raise ValueError(f"{kernel}: low is {shown(low)} and high is {shown(high)}; pass a low that is at most high")


def finite_number(kernel: str, name: str, value: Any) -> float:
    """``value`` as a float of Python; a ``ValueError`` says what came instead."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating, np.integer)):
        raise ValueError(f"{kernel}: {name} is {value!r}; pass a number")
    if not math.isfinite(value):
        raise ValueError(f"{kernel}: {name} is {value!r}; pass a finite number")
    return float(value)


def require_rank(kernel: str, ranks: Mapping[str, tuple[Array, int]]) -> None:
    """Raise ``ValueError`` unless each array has its number of axes."""
    for name, (array, rank) in ranks.items():
        if array.ndim != rank:
            raise ValueError(f"{kernel}: {name} has shape {array.shape}, but needs {rank} axes")


def operands_of_map(
    kernel: str, bilinear: Callable[[Any, Any], Any], x: Any, w: Any, z: ArrayLike
) -> tuple[tuple[Any, Any, Array], tuple[Any, Any, Any]]:
    """``x``, ``w`` and ``z`` as arrays, and what they are in the dtype that is computed in, where ``bilinear`` fits."""
    old, structure = floating_trees(kernel, x=x, w=w, z=jnp.asarray(z))
    dtype = compute_dtype(old)
    wide = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(array.shape, dtype) for array in old])
    require_output(kernel, bilinear, *wide)
    return jax.tree.unflatten(structure, old), wide


def require_output(kernel: str, bilinear: Callable[[Any, Any], Any], x: Any, w: Any, z: Array) -> None:
    """Raise ``ValueError`` unless ``bilinear(x, w)`` is one array of the shape of ``z``."""
    output = jax.eval_shape(bilinear, x, w)
    if not isinstance(output, jax.ShapeDtypeStruct):
        raise ValueError(f"{kernel}: bilinear(x, w) returns {jax.tree.structure(output)}, but must return one array")
    require_shape(kernel, "z", z, output.shape, "bilinear(x, w)")


def reduced_axes(kernel: str, x: Array, z: Array, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """``axis`` as increasing numbers that are not negative, all axes for None; ``z`` must be ``x`` without them."""
    try:
        axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{kernel}: axis is {axis!r} for x of shape {x.shape}; pass an axis of x, several different ones, or None"
        ) from error
    kept = tuple(size for place, size in enumerate(x.shape) if place not in axes)
    require_shape(kernel, "z", z, kept, f"x of shape {x.shape} without axis {axis}")
    return tuple(sorted(axes))


def positive_pair(kernel: str, name: str, value: Any) -> tuple[int, int]:
    """Two positive integers, for rows and columns, or one for both; a ``ValueError`` says what came instead."""
    value = (value, value) if _is_integer(value) else value
    if _is_pair(value) and all(map(_is_integer, value)) and min(value) > 0:
        return int(value[0]), int(value[1])
    raise ValueError(f"{kernel}: {name} is {value!r}; pass a positive integer, or two positive integers such as (1, 1)")


def padding_pairs(
    kernel: str, padding: Any, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The rows and columns of padding before and after; a ``ValueError`` says what came instead of a name or pairs."""
    pairs = padding
    if isinstance(padding, str) and padding.upper() in ("VALID", "SAME"):
        pairs = lax.padtype_to_pads(sizes, window, strides, padding.upper())
    if _is_pair(pairs) and all(map(_is_pair, pairs)):
        (top, bottom), (left, right) = pairs
        if all(_is_integer(side) and side >= 0 for side in (top, bottom, left, right)):
            return (int(top), int(bottom)), (int(left), int(right))
    raise ValueError(
        f"{kernel}: padding is {padding!r}; "
        f"pass 'VALID', 'SAME', or two pairs of integers >= 0, such as ((1, 1), (1, 1))"
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def apply_increments(arrays: Sequence[Array], changes: Sequence[Array], increments: bool) -> tuple[Any, ...]:
    """The changes themselves, or the new values in the dtypes of the old ones."""
    if increments:
        return tuple(changes)
    return tuple(
        (old.astype(change.dtype) + change).astype(old.dtype) for old, change in zip(arrays, changes, strict=True)
    )


def known_residual(kernel: str, residual: ArrayLike | None, z: Array) -> dict[str, Array]:
    """The keyword ``residual`` if it is given; it must have the shape of ``z``."""
    if residual is None:
        return {}
    array = floating_arrays(kernel, residual=residual)["residual"]
    require_shape(kernel, "residual", array, z.shape, f"z of shape {z.shape}")
    return {"residual": array}


def widened(operands: Any) -> Any:
    """The tree of arrays in their compute dtype."""
    dtype = compute_dtype(jax.tree.leaves(operands))
    return jax.tree.map(lambda array: array.astype(dtype), operands)


def changed(operands: Sequence[Any], changes: Any) -> Any:
    """The first of the operands, as many as there are changes, with these added: of the dtypes of the old ones."""
    leaves, structure = jax.tree.flatten(changes)
    old = jax.tree.leaves(operands)[: len(leaves)]
    return jax.tree.unflatten(structure, apply_increments(old, leaves, increments=False))


def from_increments(increments_of: Callable[..., Any]) -> Callable[..., Any]:
    """A projection of operands of any dtypes, from the increments of operands of the one it computes in."""

    def project(*operands: Any, increments: bool, **settings: Any) -> Any:
        changes = increments_of(*widened(operands), **settings)
        return changes if increments else changed(operands, changes)

    return project
