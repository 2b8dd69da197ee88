"""Operations that JAX has names for, under the names they had here: for one release."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels.compose import padding_pairs

__all__ = [
    "add",
    "broadcast_to",
    "concatenate",
    "conv2d",
    "dot",
    "einsum",
    "embedding",
    "expand_dims",
    "index",
    "matmul",
    "max",
    "max_pool",
    "maximum",
    "moveaxis",
    "pad",
    "relu",
    "repeat",
    "reshape",
    "split",
    "squeeze",
    "stack",
    "sum",
    "sum_relu",
    "swapaxes",
    "transpose",
    "vmap",
]


def _deprecated(name: str, instead: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with a warning that says what JAX calls it."""

    def warned(*arguments: Any, **settings: Any) -> Any:
        warnings.warn(
            f"pj.{name} is deprecated; networks are ordinary JAX now: use {instead}", DeprecationWarning, stacklevel=2
        )
        return function(*arguments, **settings)

    warned.__name__ = warned.__qualname__ = name
    warned.__doc__ = f"Deprecated: use ``{instead}``."
    return warned


def _add(*operands: ArrayLike) -> Array:
    return functools.reduce(operator.add, [jnp.asarray(operand) for operand in operands])


def _conv2d(x: Any, w: ArrayLike, *, strides: Any = 1, padding: Any = "VALID") -> Array:
    dtype = jnp.result_type(x, w)  # a convolution takes one alone
    images = jnp.reshape(jnp.asarray(x, dtype), (-1, *jnp.shape(x)[-3:]))
    output = lax.conv_general_dilated(
        images, jnp.asarray(w, dtype), _both(strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return output if jnp.ndim(x) == 4 else output.reshape(*jnp.shape(x)[:-3], *output.shape[1:])


def _max_pool(x: Any, window: Any, *, strides: Any = None, padding: Any = "VALID") -> Array:
    extent = _both(window)
    steps = extent if strides is None else _both(strides)
    images = jnp.reshape(x, (-1, *jnp.shape(x)[-3:]))
    around = padding_pairs("max_pool", padding, images.shape[1:3], extent, steps)
    pads = ((0, 0), *around, (0, 0))
    output = lax.reduce_window(images, -jnp.inf, lax.max, (1, *extent, 1), (1, *steps, 1), pads)
    return output if jnp.ndim(x) == 4 else output.reshape(*jnp.shape(x)[:-3], *output.shape[1:])


def _both(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, (int, np.integer)) else tuple(value)


def _index(x: Any, where: Any) -> Array:
    array = jnp.asarray(x)
    if not any(isinstance(part, jax.core.Tracer) for part in (where if isinstance(where, tuple) else (where,))):
        np.broadcast_to(np.empty(()), array.shape)[where]  # raises IndexError: JAX would take the nearest element
        return array[where]
    return array.at[where].get(mode="clip")


def _repeat(x: ArrayLike, repeats: Any, axis: int | None = None) -> Array:
    return jnp.repeat(jnp.asarray(x), np.asarray(repeats), axis)


def _embedding(table: ArrayLike, indices: ArrayLike) -> Array:
    if not jnp.issubdtype(jnp.result_type(indices), jnp.integer):
        raise TypeError(f"embedding: indices have dtype {jnp.result_type(indices)}; pass integers")
    return _index(table, indices)


add = _deprecated("add", "a + b", _add)
broadcast_to = _deprecated("broadcast_to", "jnp.broadcast_to", jnp.broadcast_to)
concatenate = _deprecated("concatenate", "jnp.concatenate", jnp.concatenate)
conv2d = _deprecated("conv2d", "jax.lax.conv_general_dilated", _conv2d)
dot = _deprecated("dot", "jnp.dot", jnp.dot)
einsum = _deprecated("einsum", "jnp.einsum", jnp.einsum)
embedding = _deprecated("embedding", "table[indices]", _embedding)
expand_dims = _deprecated("expand_dims", "jnp.expand_dims", jnp.expand_dims)
index = _deprecated("index", "x[...]", _index)
matmul = _deprecated("matmul", "x @ w", jnp.matmul)
max = _deprecated("max", "jnp.max", jnp.max)
max_pool = _deprecated("max_pool", "jax.lax.reduce_window", _max_pool)
maximum = _deprecated("maximum", "jnp.maximum", jnp.maximum)
moveaxis = _deprecated("moveaxis", "jnp.moveaxis", jnp.moveaxis)
pad = _deprecated("pad", "jnp.pad", jnp.pad)
relu = _deprecated("relu", "jax.nn.relu", jax.nn.relu)
repeat = _deprecated("repeat", "jnp.repeat", _repeat)
reshape = _deprecated("reshape", "jnp.reshape", jnp.reshape)
split = _deprecated("split", "jnp.split", jnp.split)
squeeze = _deprecated("squeeze", "jnp.squeeze", jnp.squeeze)
stack = _deprecated("stack", "jnp.stack", jnp.stack)
sum = _deprecated("sum", "jnp.sum", jnp.sum)
sum_relu = _deprecated("sum_relu", "jax.nn.relu(a + b)", lambda *operands: jax.nn.relu(_add(*operands)))
swapaxes = _deprecated("swapaxes", "jnp.swapaxes", jnp.swapaxes)
transpose = _deprecated("transpose", "jnp.transpose", jnp.transpose)
vmap = _deprecated("vmap", "jax.vmap", jax.vmap)
