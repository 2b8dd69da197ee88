"""What the types of arrays say beyond shape and dtype: how they are sharded, and over which manual axes they vary."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim
from jax.sharding import NamedSharding

Shape = jax.ShapeDtypeStruct


def shape_of_type(array: Any, dtype: Any = None) -> Shape:
    """The shape, in another dtype if one is given, with all that the type of the array says."""
    return jax.eval_shape(lambda a: a if dtype is None else a.astype(dtype), array)


def shape_of_aval(aval: Any) -> Shape:
    """The same of the type of a variable in a jaxpr."""
    if not aval.sharding.mesh.explicit_axes and not aval.manual_axis_type.varying:
        return Shape(aval.shape, aval.dtype)
    sharding = aval.sharding if aval.sharding.mesh.explicit_axes else None
    return Shape(aval.shape, aval.dtype, sharding=sharding, manual_axis_type=aval.manual_axis_type)


def without_manual_axes(shape: Shape) -> Shape:
    """The shape as one of an array that varies over no manual axis."""
    return Shape(shape.shape, shape.dtype, sharding=shape.sharding)


def says_more_than_shape(shape: Shape) -> bool:
    """Whether an array of this type is sharded over explicit axes, or varies over manual ones."""
    return has_explicit_axes(shape) or (shape.manual_axis_type is not None and bool(varying_axes(shape)))


def has_explicit_axes(shape: Shape) -> bool:
    """Whether the type of an array says how it is sharded."""
    return shape.sharding is not None and bool(_type(shape).sharding.mesh.explicit_axes)


def is_open(*shapes: Shape) -> bool:
    """Whether some size is a variable, as ``jax.export`` has it for batches of any size."""
    return any(is_symbolic_dim(size) for shape in shapes for size in shape.shape)


def full(shape: Shape | Array, value: float) -> Array:
    """An array of one number, sharded and varying as ``shape`` says."""
    return like(jnp.full(shape.shape, value, shape.dtype), shape)


def like(array: Array, shape: Any) -> Array:
    """The array, sharded as ``shape`` and varying where it varies."""
    wanted = _type(shape)
    if wanted.sharding.mesh.explicit_axes and jax.typeof(array).sharding != wanted.sharding:
        array = jax.sharding.reshard(array, NamedSharding(wanted.sharding.mesh, wanted.sharding.spec))
    return varying(array, wanted.manual_axis_type.varying)


def varying(tree: Any, axes: frozenset[str]) -> Any:
    """The arrays as ones that vary over these manual axes, at least."""

    def leaf_varying(leaf: Array) -> Array:
        missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(leaf_varying, tree) if axes else tree


def varying_axes(tree: Any) -> frozenset[str]:
    """The manual axes over which some array of the tree varies."""
    return frozenset().union(*(_type(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(tree)))


def transposed(linear: Any, shapes: tuple[Shape, ...], cotangent: Any) -> tuple[Array, ...]:
    """The linear transpose of ``linear``, of arguments like ``shapes``, with all types made to agree."""
    axes = varying_axes(cotangent) | varying_axes(jax.eval_shape(linear, *shapes))
    shapes = tuple(jax.eval_shape(lambda a: varying(a, axes), shape) for shape in shapes)
    results = jax.eval_shape(linear, *shapes)
    return jax.linear_transpose(linear, *shapes)(jax.tree.map(like, cotangent, results))


def _type(leaf: Any) -> Any:
    """The type of an array, or of what has a shape."""
    if not isinstance(leaf, Shape):
        return jax.typeof(leaf)
    found: list[Any] = []
    jax.eval_shape(lambda a: found.append(jax.typeof(a)), leaf)
    return found[0]
