"""Triton kernels: where they run, and one way to launch them for every version of jax-triton."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike

DTYPES = ("float16", "bfloat16", "float32", "float64")

Vectorizable = Callable[..., tuple[Array, ...]]


class Launch(NamedTuple):
    """One launch of a Triton kernel.

    The kernel's parameters are the pointers of ``arrays``, those of ``outputs``, and ``constants`` by name.  The first
    ``in_place`` outputs are the last ``in_place`` arrays, overwritten: their pointers come twice, and the kernel must
    use the first.
    """

    kernel: Any
    arrays: Sequence[jax.ShapeDtypeStruct]
    outputs: Sequence[jax.ShapeDtypeStruct]
    grid: tuple[int, ...]
    constants: Mapping[str, Any]
    in_place: int
    num_warps: int
    num_stages: int


COMPILER_OPTIONS = {"enable_fp_fusion": False}
"""The roots take rounding errors of sums, which contraction with products would change."""


def obstacle() -> str | None:
    """Why no Triton kernel can run here, or None."""
    for package in ("triton", "jax_triton"):
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            return f"{name} is not installed; in a checkout of pjax: pip install '.[gpu]'"
    if jax.default_backend() != "gpu":
        return f"the default backend of JAX is {jax.default_backend()!r}, not a GPU"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 makes Triton interpret kernels instead of compiling them"
    return None


def platform() -> str:
    """The GPU's: "rocm" for AMD, otherwise "cuda"."""
    return "rocm" if "rocm" in jax.extend.backend.get_backend().platform_version.lower() else "cuda"


def chip() -> str:
    """What the machine's device calls itself."""
    return jax.devices()[0].device_kind


def unsupported(arrays: Mapping[str, Array], *, length: int = 0, longest: int | None = None) -> str | None:
    """Why a kernel does not take these arrays, of which it needs ``length`` entries at a time; or None."""
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            return f"{name} has dtype {array.dtype}, and the kernel takes only {', '.join(DTYPES)}"
    if longest is not None and (is_symbolic_dim(length) or length > longest):
        return f"{length} entries at a time do not fit the registers; the kernel takes up to {longest}"
    return None


def launch(
    kernel: Any,
    *arrays: Array,
    outputs: Sequence[tuple[tuple[int, ...], DTypeLike]],
    grid: tuple[int, ...],
    in_place: int = 0,
    num_warps: int = 4,
    num_stages: int = 3,
    **constants: Any,
) -> tuple[Array, ...]:
    """Run a kernel and return its outputs, given by shape and dtype; see :class:`Launch`."""
    overwritten = arrays[len(arrays) - in_place :]
    shapes = [
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in overwritten),
        *(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs),
    ]
    if 0 in grid:  # which no GPU takes
        results = (*overwritten, *(jnp.zeros(shape.shape, shape.dtype) for shape in shapes[in_place:]))
    else:
        avals = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
        results = _run(Launch(kernel, avals, shapes, grid, constants, in_place, num_warps, num_stages), arrays)
    return tuple(_vary_like(result, arrays) for result in results)


def over_leading_axis(project: Vectorizable) -> Vectorizable:
    """``project``, whose arrays all have the same leading axis and no relation along it, for use under vmap too."""
    vectorized = jax.custom_batching.custom_vmap(project)

    @vectorized.def_vmap
    def _(size: int, batched: Sequence[bool], *arrays: Array) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
        full = [x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(arrays, batched, strict=True)]
        results = vectorized(*(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for x in full))
        return tuple(x.reshape(size, len(x) // size, *x.shape[1:]) for x in results), (True,) * len(results)

    return vectorized


def one_at_a_time(project: Vectorizable) -> Vectorizable:
    """``project`` for use under vmap too, as a loop."""
    return jax.custom_batching.sequential_vmap(project)


def _run(launch: Launch, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Launch by jax-triton."""
    import jax_triton

    call = functools.partial(
        jax_triton.triton_call,
        kernel=launch.kernel,
        grid=launch.grid,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        **launch.constants,
    )
    first = len(arrays) - launch.in_place
    aliases = {first + i: i for i in range(launch.in_place)}
    if jax_triton.__version_info__ < (0, 4):
        # Every output has a pointer, those in place too.
        return tuple(call(*arrays, out_shape=list(launch.outputs), input_output_aliases=aliases, **COMPILER_OPTIONS))
    with warnings.catch_warnings():
        # References, which are to replace aliases, cannot be made of the arguments of a traced function.
        warnings.filterwarnings("ignore", "input_output_aliases is deprecated", DeprecationWarning)
        # Outputs in place have no pointer: a number takes the place of what version 0.3 passes.
        placeholders = [0] * launch.in_place
        return tuple(
            call(
                *arrays,
                *placeholders,
                out_type=list(launch.outputs),
                input_output_aliases=aliases,
                backend_options=COMPILER_OPTIONS,
            )
        )


def _vary_like(result: Array, arrays: Sequence[Array]) -> Array:
    """``result`` marked, under shard_map, as different in every shard where an array is; calls of kernels are not."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return result
    # A choice that depends on the arrays, between equals: the compiler drops it.
    choice = functools.reduce(jnp.logical_or, (jnp.any(array.ravel()[:1] > 0) for array in arrays))
    return lax.select(choice, result, result)
