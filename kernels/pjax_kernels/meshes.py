"""Arrays with shardings in their types, as on the default meshes of JAX: kernels compute there as on automatic axes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.export import is_symbolic_dim
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec


def on_automatic_axes(project: Callable[..., Any], like: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """``project``, with automatic axes where those of a mesh are explicit.

    ``like(*arguments)`` gives arrays, or a prefix of the tree of what ``project`` returns, with the shardings that
    these get, and None for what is not sharded.  By default they are the first arguments, one for each result.
    """

    @functools.wraps(project)
    def on_any_mesh(*arguments: Any, **settings: Any) -> Any:
        mesh = _explicit_mesh((arguments, settings))
        if mesh is None:
            return project(*arguments, **settings)
        shardings = jax.tree.map(_sharding, arguments if like is None else like(*arguments, **settings))
        whole = PartitionSpec()
        automatic = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, jax.sharding.AxisType.Auto))
        with jax.sharding.use_abstract_mesh(automatic):
            arguments, settings = jax.tree.map(
                lambda leaf: jax.sharding.reshard(leaf, whole) if isinstance(leaf, Array) else leaf,
                (arguments, settings),
            )
            results = project(*arguments, **settings)

        if like is None:
            shardings = shardings[: len(results)] if isinstance(results, tuple) else shardings[0]

        def placed(leaf: Any, sharding: NamedSharding | None) -> Any:
            spec = whole if sharding is None else sharding.spec
            return jax.sharding.reshard(leaf, NamedSharding(mesh, spec)) if isinstance(leaf, Array) else leaf

        return jax.tree.map(placed, results, jax.tree.broadcast(shardings, results, is_leaf=lambda s: s is None))

    return on_any_mesh


def shards(batch: int) -> int:
    """Into how many equal parts devices may have split a batch.

    A loop over the rows of a batch that takes some rows of each part in turn moves nothing between devices.
    """
    count = jax.device_count()
    return count if not is_symbolic_dim(batch) and batch and batch % count == 0 else 1


def in_shards(array: Array, count: int) -> Array:
    """The array with its first axis, of rows, cut into so many parts, one for each index of a new first axis."""
    return array.reshape(count, array.shape[0] // count, *array.shape[1:])


def _sharding(leaf: Any) -> NamedSharding | None:
    return jax.typeof(leaf).sharding if isinstance(leaf, Array) else getattr(leaf, "sharding", None)


def _explicit_mesh(tree: Any) -> AbstractMesh | None:
    """The mesh with explicit axes on which an array of the tree is, if there is one."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if isinstance(leaf, Array))
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)
