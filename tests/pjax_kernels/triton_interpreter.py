"""Runs Triton kernels without a GPU: in Triton's interpreter, on arrays of NumPy."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from pjax_kernels import gpu

Array = np.ndarray

_alone = threading.Lock()
"""The interpreter takes the place of Triton's language while it runs, and several devices may call it at once."""


def run(launch: gpu.Launch, arrays: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """In place of jax-triton."""

    def on_host(*arrays: jax.typing.ArrayLike) -> tuple[Array, ...]:
        return interpret(launch, [np.array(array) for array in arrays])

    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return tuple(jax.pure_callback(on_host, tuple(launch.outputs), *arrays))
    return tuple(jnp.asarray(output) for output in on_host(*arrays))


def interpret(launch: gpu.Launch, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The outputs, which the kernel finds full of NaN, or of the most negative integer."""
    from triton.runtime import interpreter

    interpreter.InterpreterBuilder.create_fp_trunc = round_to_narrower
    overwritten = arrays[len(arrays) - launch.in_place :]
    outputs = [*overwritten, *map(poisoned, launch.outputs[launch.in_place :])]
    with _alone, np.errstate(all="ignore"), language_replaced_once(interpreter):
        launch.kernel[launch.grid](*map(HostArray, (*arrays, *outputs)), **launch.constants)
    return tuple(outputs)


@contextlib.contextmanager
def language_replaced_once(interpreter: ModuleType) -> Iterator[None]:
    """For each module of functions, instead of at each of their calls, which would take two fifths of the time."""
    replace, replaced = interpreter._patch_lang, {}

    def once(function: Callable[..., Any]) -> Any:
        if function.__module__ not in replaced:
            replaced[function.__module__] = replace(function)
        return replaced[function.__module__]

    with mock.patch.object(interpreter, "_patch_lang", once):
        yield


def poisoned(output: jax.ShapeDtypeStruct) -> Array:
    integer = np.issubdtype(output.dtype, np.integer)
    return np.full(output.shape, np.iinfo(output.dtype).min if integer else np.nan, output.dtype)


def round_to_narrower(_: Any, source: Any, target: Any) -> Any:
    """As a GPU rounds; the interpreter would cut bfloat16 off."""
    from triton.runtime.interpreter import TensorHandle

    dtype = {"fp16": np.float16, "bf16": jnp.bfloat16, "fp32": np.float32}[target.scalar.name]
    data = source.data.astype(dtype)
    return TensorHandle(data.view(np.uint16) if dtype == jnp.bfloat16 else data, target.scalar)


class HostArray:
    """An array of NumPy with what the interpreter asks of a tensor: it is its own storage, and on the host already."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.dtype = array.dtype.name

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> "HostArray":
        return self

    def cpu(self) -> "HostArray":
        return self

    def new_empty(self, *_: Any, **__: Any) -> "HostArray":
        return HostArray(self.array)

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def set_(self, *_: Any) -> None:
        """The array is shared: there is nothing to set."""

    def copy_(self, _: "HostArray") -> None:
        """Nor to copy back."""
