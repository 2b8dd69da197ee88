"""The public projection onto a sum, and what :mod:`pjax_kernels.sum_relu` shares with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments, tpu
from pjax_kernels.implementation import choose
from pjax_kernels.sum import reference, xla

_KERNEL = "project_sum"
_OVER = "project_sum_over"
_OVER_IMPLEMENTATIONS = {"reference": reference.sum_over_increments, "xla": xla.sum_over_increments}
_IMPLEMENTATIONS = {
    "reference": arguments.from_summand_increments(reference.sum_increments),
    "xla": arguments.from_summand_increments(xla.sum_increments),
}


def project_sum(
    inputs: Sequence[ArrayLike],
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[tuple[Array, ...], Array]:
    """Project each element onto the set ``{z = x_1 + ... + x_n}``; with one input, the identity ``{z = x}``.

    An input that broadcasts to the shape of ``z`` holds one copy for every element of ``z`` that it enters; the
    mean of its projected copies is returned.

    Args:
        inputs: one or more floating-point arrays, each of a shape that broadcasts to that of ``z``.
        z: the estimates of the sums.
        residual: in the shape of ``z``, what it has beyond the output that follows from the inputs, where that is known
            better than by subtraction: changes far below the rounding of ``z`` are lost in that.  No implementation
            for GPUs or TPUs takes it.
        increments: return the changes instead of the new values, in float32 or wider.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        ``(inputs, z)`` after the projection, in the shapes and dtypes given.

    Raises:
        TypeError: an argument is not floating-point, or ``inputs`` an array instead of several.
        ValueError: no input, shapes that do not fit, or an unknown implementation.

    Source: paper, section 3.2.
    """
    return project_summands(_KERNEL, _IMPLEMENTATIONS, inputs, z, residual, increments, implementation)


def project_sum_over(
    x: ArrayLike,
    z: ArrayLike,
    *,
    axis: int | Sequence[int] | None = None,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project onto the sums over some axes of an array, ``{z = x.sum(axis)}``.

    Args:
        x: floating-point, any shape.
        z: the estimates of the sums, in the shape of ``x`` without the axes.
        axis: one axis or several; all by default.
        residual: in the shape of ``z``, what it has beyond the output that follows from the inputs, where that is known
            better than by subtraction: changes far below the rounding of ``z`` are lost in that.  No implementation
            for GPUs or TPUs takes it.
        increments: return the changes instead of the new values, in float32 or wider.
        implementation: "reference", "xla", or None for the best that runs here.

    Returns:
        ``(x, z)`` after the projection, in the shapes and dtypes given.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: there is no such axis, the shapes do not fit, or the implementation is unknown.

    Source: paper, section 3.2.
    """
    arrays = arguments.floating_arrays(_OVER, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    axes = arguments.reduced_axes(_OVER, x, z, axis)
    dtype = arguments.compute_dtype([x, z])
    project = choose(_OVER, implementation, _OVER_IMPLEMENTATIONS)
    known = arguments.known_residual(_OVER, residual, z)
    changes = project(x.astype(dtype), z.astype(dtype), axes, **known)
    new_x, new_z = arguments.apply_increments([x, z], changes, increments)
    return new_x, new_z


def project_summands(
    kernel: str,
    available: Mapping[str, Callable[..., Any]],
    inputs: Sequence[ArrayLike],
    z: ArrayLike,
    residual: ArrayLike | None,
    increments: bool,
    implementation: str | None,
) -> tuple[tuple[Array, ...], Array]:
    """Check the arguments of a kernel that sums its inputs, and run the implementation of them that is named."""
    arrays = summand_arrays(kernel, inputs, z)
    *summands, z = arrays.values()
    known = arguments.known_residual(kernel, residual, z)
    unsupported = {"tpu": arguments.only_for_residuals(known) or tpu.unsupported(arrays)}
    project = choose(kernel, implementation, available, unsupported=unsupported)
    new_inputs, new_z = project(tuple(summands), z, increments=increments, **known)
    return new_inputs, new_z


def summand_arrays(kernel: str, inputs: Sequence[ArrayLike], z: ArrayLike) -> dict[str, Array]:
    """The inputs and, last, ``z`` as arrays, checked."""
    if hasattr(inputs, "shape"):
        raise TypeError(f"{kernel}: inputs is an array of shape {inputs.shape}; pass a tuple of arrays, such as (x,)")
    if not inputs:
        raise ValueError(f"{kernel}: inputs is empty; pass at least one array")
    named = {f"inputs[{i}]": value for i, value in enumerate(inputs)} | {"z": z}
    arrays = arguments.floating_arrays(kernel, **named)
    shape = arrays["z"].shape
    for name, array in arrays.items():
        try:
            fits = jnp.broadcast_shapes(array.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"{kernel}: {name} has shape {array.shape}, which does not broadcast to z of shape {shape}"
            )
    return arrays
