"""Arrays that are known while JAX traces, computed by NumPy.

However small, a program takes XLA tens of milliseconds to compile, and a network asks for many: how many copies there
are of each element, what is left of its constants, which functions it has.  A bilinear map asks what it selects.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pjax_kernels.arguments import as_array

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Calls of a jaxpr, and the parameter that holds it."""

_MOST = 1 << 22
"""Numbers of an array up to which NumPy, in one thread, is not slower than compilation."""


def computed(function: Callable[..., Any], *arrays: Any) -> Any:
    """``function`` of known arrays, up to the rounding of functions such as ``exp``.

    None where it has captured an array that is not known.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arrays)
    if any(isinstance(array, jax.core.Tracer) for array in closed.consts):
        return None
    with jax.ensure_compile_time_eval():  # for equations that JAX computes
        found = _evaluated(closed, jax.tree.leaves(arrays))
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def exact_outputs(equation: Any, arrays: Sequence[np.ndarray | Array]) -> list[np.ndarray] | None:
    """The outputs of an equation, as JAX computes them to the last digit, or below the normal numbers better.

    None where NumPy may not.
    """
    if not all(map(_is_at_hand, arrays)):
        return None
    return _by_numpy(_EXACT, equation, list(map(np.asarray, arrays)))


def _is_at_hand(array: np.ndarray | Array) -> bool:
    """Whether NumPy may read it: no random key, nothing that lies on several devices or is long in copying."""
    if isinstance(array, np.ndarray):
        return True
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.extended)
    return not is_key and isinstance(array.sharding, jax.sharding.SingleDeviceSharding) and array.size <= _MOST


def _evaluated(closed: Any, arrays: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of a jaxpr of these arrays."""
    given = zip((*closed.jaxpr.constvars, *closed.jaxpr.invars), (*closed.consts, *arrays), strict=True)
    # Of 64 bits, where JAX has them.
    values = {variable: np.asarray(array, variable.aval.dtype) for variable, array in given}

    def value_of(variable: Any) -> np.ndarray:
        return np.asarray(variable.val, variable.aval.dtype) if hasattr(variable, "val") else values[variable]

    for equation in closed.jaxpr.eqns:
        inputs = list(map(value_of, equation.invars))
        outputs = _of_call(equation, inputs) or _by_numpy(_RULES, equation, inputs) or _by_jax(equation, inputs)
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return list(map(value_of, closed.jaxpr.outvars))


def _of_call(equation: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    called = _CALLS.get(equation.primitive.name)
    return None if called is None else _evaluated(equation.params[called], inputs)


def _by_numpy(
    rules: Mapping[str, Callable[..., Any]], equation: Any, inputs: Sequence[np.ndarray]
) -> list[np.ndarray] | None:
    """The outputs by one of these rules; None without one, where arrays are large, or where the rule does not say."""
    rule = rules.get(equation.primitive.name)
    if rule is None or any(math.prod(v.aval.shape) > _MOST for v in (*equation.invars, *equation.outvars)):
        return None
    with np.errstate(all="ignore"):
        found = rule(*inputs, **equation.params)
    if found is None:
        return None
    return list(map(np.asarray, found if equation.primitive.multiple_results else [found]))


def _by_jax(equation: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    primitive = equation.primitive
    found = primitive.bind(*map(as_array, inputs), **primitive.get_bind_params(equation.params))
    return list(map(np.asarray, found if primitive.multiple_results else [found]))


def _without_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays, **_: function(*arrays)


def _of_each(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.vectorize(function, otypes=[array.dtype])(array)


def _broadcast_in_dim(array: np.ndarray, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> np.ndarray:
    sizes = dict(zip(broadcast_dimensions, array.shape, strict=True))
    return np.broadcast_to(array.reshape([sizes.get(axis, 1) for axis in range(len(shape))]), shape)


def _pad(array: np.ndarray, value: np.ndarray, *, padding_config: Any, **_: Any) -> np.ndarray:
    """Padding of less than none leaves entries out."""
    sizes = [max(n + (n - 1) * apart, 0) for n, (_, _, apart) in zip(array.shape, padding_config, strict=True)]
    spread = np.full(sizes, value, array.dtype)
    spread[tuple(slice(None, None, 1 + apart) for _, _, apart in padding_config)] = array
    wider = np.pad(spread, [(max(low, 0), max(high, 0)) for low, high, _ in padding_config], constant_values=value)
    ends = [size - max(-high, 0) for size, (_, high, _) in zip(wider.shape, padding_config, strict=True)]
    return wider[tuple(slice(max(-low, 0), end) for end, (low, _, _) in zip(ends, padding_config, strict=True))]


def _reshape(array: np.ndarray, *, new_sizes: Any, dimensions: Any, **_: Any) -> np.ndarray | None:
    return array.reshape(new_sizes) if dimensions is None else None  # else of axes in another order


def _select_n(which: np.ndarray, *cases: np.ndarray) -> np.ndarray | None:
    return np.where(which != 0, cases[1], cases[0]) if len(cases) == 2 else None


def _iota(*, dtype: Any, shape: Sequence[int], dimension: int, **_: Any) -> np.ndarray | None:
    """Half precision does not hold all whole numbers, and other ways of counting round otherwise."""
    if jnp.issubdtype(dtype, np.floating) and jnp.finfo(dtype).bits < 32:
        return None
    along = np.arange(shape[dimension]).astype(dtype)
    return np.broadcast_to(along.reshape([-1 if axis == dimension else 1 for axis in range(len(shape))]), shape)


def _convert_element_type(array: np.ndarray, *, new_dtype: Any, **_: Any) -> np.ndarray | None:
    """Of numbers beyond the largest integer JAX and NumPy make different ones."""
    to_integers = jnp.issubdtype(new_dtype, np.integer) and jnp.issubdtype(array.dtype, np.floating)
    return None if to_integers else array.astype(new_dtype)


def _dot_general(a: np.ndarray, b: np.ndarray, *, dimension_numbers: Any, **_: Any) -> np.ndarray:
    (summed_a, summed_b), (batch_a, batch_b) = dimension_numbers
    free_a, free_b = (
        [axis for axis in range(array.ndim) if axis not in (*summed, *batch)]
        for array, summed, batch in ((a, summed_a, batch_a), (b, summed_b, batch_b))
    )
    batch, rows, columns = ([x.shape[i] for i in axes] for x, axes in ((a, batch_a), (a, free_a), (b, free_b)))
    length = math.prod(a.shape[axis] for axis in summed_a)
    left = a.transpose(*batch_a, *free_a, *summed_a).reshape(*batch, math.prod(rows), length)
    right = b.transpose(*batch_b, *summed_b, *free_b).reshape(*batch, length, math.prod(columns))
    return np.reshape(left @ right, (*batch, *rows, *columns))


def _split(array: np.ndarray, *, sizes: Any, axis: int, **_: Any) -> list[np.ndarray]:
    return np.split(array, list(itertools.accumulate(sizes))[:-1], axis)


def _called(names: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Rules of functions of arrays alone, whatever the parameters of their equations."""
    return {name: _without_settings(function) for name, function in names.items()}


_EXACT: dict[str, Callable[..., Any]] = {
    **_called(
        {
            "abs": np.abs, "add": np.add, "add_any": np.add, "and": np.bitwise_and, "copy": np.asarray,
            "copy_p": np.asarray, "eq": np.equal, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal,
            "lt": np.less, "max": np.maximum, "min": np.minimum, "mul": np.multiply, "ne": np.not_equal,
            "neg": np.negative, "not": np.invert, "or": np.bitwise_or,
            "select_n": _select_n, "sub": np.subtract,
        }
    ),
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": lambda *arrays, dimension, **_: np.concatenate(arrays, dimension),
    "convert_element_type": _convert_element_type,
    "expand_dims": lambda array, *, dimensions, **_: np.expand_dims(array, tuple(dimensions)),
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": lambda array, *, dimensions, **_: np.flip(array, dimensions),
    "slice": lambda array, *, start_indices, limit_indices, strides, **_: array[
        tuple(map(slice, start_indices, limit_indices, strides or [1] * array.ndim))
    ],
    "split": _split,
    "squeeze": lambda array, *, dimensions, **_: array.squeeze(tuple(dimensions)),
    "stack": lambda *arrays, axis, **_: np.stack(arrays, axis),
    "tile": lambda array, *, reps, **_: np.tile(array, reps),
    "transpose": lambda array, *, permutation, **_: array.transpose(permutation),
    "unstack": lambda array, *, axis, **_: list(np.moveaxis(array, axis, 0)),
}  # fmt: skip
"""By the name of an equation what it computes, where no order of sums and no approximation has a part in it."""

_RULES = _EXACT | {
    **_called(
        {
            "cos": np.cos, "div": lambda x, y: x / y if x.dtype.kind == "f" else None, "erf": _of_each(math.erf),
            "erfc": _of_each(math.erfc), "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p,
            "logistic": lambda x: 1 / (1 + np.exp(-x)), "rsqrt": lambda x: 1 / np.sqrt(x), "sign": np.sign,
            "sin": np.sin, "sqrt": np.sqrt, "square": np.square, "tanh": np.tanh,
        }
    ),
    "dot_general": _dot_general,
    "integer_pow": lambda x, *, y, **_: np.power(x, np.asarray(y, x.dtype)),
    "reduce_sum": lambda array, *, axes, **_: array.sum(tuple(axes), array.dtype),
}  # fmt: skip
