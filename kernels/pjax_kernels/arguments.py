"""Checks and conversions that the public kernels share."""

from __future__ import annotations

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
    arrays = {name: jnp.asarray(value) for name, value in arguments.items()}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{kernel}: {name} has dtype {array.dtype}; projections move values continuously, "
                f"so pass a floating-point array, such as {name}.astype(jnp.float32)"
            )
    return arrays


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
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def require_shape(kernel: str, name: str, array: Array, expected: tuple[int, ...], because: str) -> None:
    """Raise ``ValueError`` with both shapes unless ``array`` has the ``expected`` one."""
    if array.shape != expected:
        raise ValueError(f"{kernel}: {name} has shape {array.shape}, but {because} needs {expected}")


def require_rank(kernel: str, ranks: Mapping[str, tuple[Array, int]]) -> None:
    """Raise ``ValueError`` unless each array has its number of axes."""
    for name, (array, rank) in ranks.items():
        if array.ndim != rank:
            raise ValueError(f"{kernel}: {name} has shape {array.shape}, but needs {rank} axes")


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
    """Two positive integers, for rows and columns; a ``ValueError`` says what came instead."""
    if _is_pair(value) and all(map(_is_integer, value)) and min(value) > 0:
        return int(value[0]), int(value[1])
    raise ValueError(f"{kernel}: {name} is {value!r}; pass two positive integers, such as (1, 1)")


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
    return tuple((old + change).astype(old.dtype) for old, change in zip(arrays, changes, strict=True))


def known_residual(kernel: str, residual: ArrayLike | None, z: Array) -> dict[str, Array]:
    """The keyword ``residual``, in the dtype that is computed in, if it is given; it must have the shape of ``z``."""
    if residual is None:
        return {}
    array = floating_arrays(kernel, residual=residual)["residual"]
    require_shape(kernel, "residual", array, z.shape, f"z of shape {z.shape}")
    return {"residual": array.astype(compute_dtype([z, array]))}


def only_for_residuals(known: Mapping[str, Array]) -> str | None:
    """Why kernels for GPUs and TPUs, which subtract by themselves, do not take the arguments, or None."""
    return "a residual is given, which it does not take" if known else None


def from_increments(increments_of: Callable[..., Sequence[Array]]) -> Callable[..., Any]:
    """A projection of arrays of any dtypes, from the increments of arrays of the one it computes in."""

    def project(*arrays: Array, increments: bool, **settings: Any) -> tuple[Array, ...]:
        dtype = compute_dtype(arrays)
        return apply_increments(arrays, increments_of(*(x.astype(dtype) for x in arrays), **settings), increments)

    return project


def from_summand_increments(increments_of: Callable[..., tuple[Sequence[Array], Array]]) -> Callable[..., Any]:
    """The same for arrays given as a tuple of summands and a sum."""

    def project(
        inputs: Sequence[Array], z: Array, *, increments: bool, **settings: Any
    ) -> tuple[tuple[Array, ...], Array]:
        dtype = compute_dtype([*inputs, z])
        changes, z_change = increments_of(tuple(x.astype(dtype) for x in inputs), z.astype(dtype), **settings)
        *new_inputs, new_z = apply_increments([*inputs, z], (*changes, z_change), increments)
        return tuple(new_inputs), new_z

    return project
