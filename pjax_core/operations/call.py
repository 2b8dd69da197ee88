"""Calls of operations that JAX has no name for: ordinary JAX, which a traced function shows as one equation each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from pjax_core.operations.primitive import Batching, Primitive


@dataclass(frozen=True)
class Composite:
    """A function that becomes several operations: ``build(*slots, **settings)`` returns the output of the last one.

    ``mapped`` is the function that stands for it under ``jax.vmap``.
    """

    name: str
    forward: Callable[..., Array]
    build: Callable[..., Any]
    mapped: Callable[..., Array]


Called: TypeAlias = Primitive | Composite

call_p = jax.extend.core.Primitive("pjax")
"""The equation of a call; its parameters are the operation and its settings, as pairs."""


def call(operation: Called, *inputs: ArrayLike, **settings: Any) -> Array:
    """The output of an operation, under any transformation of JAX."""
    arrays = [jnp.asarray(array) for array in inputs]
    if isinstance(operation, Primitive):
        moving = operation.moving_inputs(len(arrays))
        arrays = [*_promoted(arrays[:moving]), *arrays[moving:]]
    return call_p.bind(*arrays, operation=operation, settings=tuple(sorted(settings.items())))


def _promoted(arrays: list[Array]) -> list[Array]:
    """Integers beside floating-point arrays as those; nothing else."""
    floats = [array.dtype for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    if not floats:
        return arrays
    return [a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(jnp.result_type(*floats)) for a in arrays]


def _forward(*inputs: Array, operation: Called, settings: tuple[tuple[str, Any], ...]) -> Array:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # see pjax_core.problem.compiled
        return operation.forward(*inputs, **dict(settings))


def _output(*inputs: Any, **params: Any) -> jax.core.ShapedArray:
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs]
    output = jax.eval_shape(functools.partial(_forward, **params), *shapes)
    return jax.core.ShapedArray(output.shape, output.dtype)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    tangents = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
    return jax.jvp(functools.partial(_forward, **params), tuple(primals), tangents)


def _batched(inputs: Sequence[Any], dims: Sequence[Any], *, operation: Called, settings: Any) -> tuple[Any, int]:
    """The call over an axis of some inputs, which becomes the first one of the output."""
    given = dict(settings)
    has_axis = [isinstance(dim, int) for dim in dims]
    inputs = [jnp.moveaxis(x, dim, 0) if has else x for x, dim, has in zip(inputs, dims, has_axis, strict=True)]
    length = next(x.shape[0] for x, has in zip(inputs, has_axis, strict=True) if has)
    if isinstance(operation, Composite):
        axes = [0 if has else None for has in has_axis]
        return jax.vmap(functools.partial(operation.mapped, **given), axes)(*inputs), 0
    if operation.batching is Batching.BROADCAST:
        rank = max(x.ndim - has for x, has in zip(inputs, has_axis, strict=True))
        inputs = [
            x.reshape(length, *(1,) * (rank + 1 - x.ndim), *x.shape[1:]) if has else x
            for x, has in zip(inputs, has_axis, strict=True)
        ]
        return call(operation, *inputs, **given), 0
    if operation.batching is Batching.ROWS and has_axis == [True] + [False] * (len(inputs) - 1):
        output = call(operation, inputs[0].reshape(-1, *inputs[0].shape[2:]), *inputs[1:], **given)
        return output.reshape(length, -1, *output.shape[1:]), 0
    inputs = [x if has else jnp.broadcast_to(x, (length, *x.shape)) for x, has in zip(inputs, has_axis, strict=True)]
    return call(operation.vmapped(), *inputs, **given), 0


call_p.def_impl(_forward)
call_p.def_abstract_eval(_output)
ad.primitive_jvps[call_p] = _jvp
batching.primitive_batchers[call_p] = _batched
mlir.register_lowering(call_p, mlir.lower_fun(_forward, multiple_results=False))
