"""The public projection onto a sum, and what :mod:`pjax_kernels.sum_relu` shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.kernel import Kernel, of_increments
from pjax_kernels.sum import reference, xla

_KERNEL = of_increments("project_sum", {"reference": reference.sum_increments, "xla": xla.sum_increments})
_OVER = of_increments("project_sum_over", {"reference": reference.sum_over_increments, "xla": xla.sum_over_increments})


def project_sum(
    inputs: Sequence[ArrayLike],
    z: ArrayLike,
    *,
    coefficients: Sequence[float] | None = None,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[tuple[Array, ...], Array]:
    """Project each element onto the set ``{z = c_1 x_1 + ... + c_n x_n}``; by default all ``c`` are 1.

    With one input that is the identity ``{z = x}``, with coefficients 1 and -1 a difference.

    An input that broadcasts to the shape of ``z`` holds one copy for every element of ``z`` that it enters; the
    mean of its projected copies is returned.

    Args:
        inputs: one or more floating-point arrays, each of a shape that broadcasts to that of ``z``.
        z: the estimates of the sums.
        coefficients: one number for each input; 1 by default.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point, or ``inputs`` an array instead of several.
        ValueError: no input, shapes that do not fit, another number of coefficients than of inputs, or one that is no
            finite number.

    Source: paper, section 3.2.
    """
    numbers = (1.0,) * len(inputs) if coefficients is None else _numbers(inputs, coefficients)
    return project_summands(_KERNEL, inputs, z, residual, increments, implementation, coefficients=numbers)


def _numbers(inputs: Sequence[ArrayLike], coefficients: Sequence[float]) -> tuple[float, ...]:
    """The coefficients as numbers of Python, one for each input."""
    numbers = tuple(arguments.finite_number(_KERNEL.name, f"coefficients[{i}]", c) for i, c in enumerate(coefficients))
    if len(numbers) != len(inputs):
        raise ValueError(f"{_KERNEL.name}: there are {len(inputs)} inputs, but {len(numbers)} coefficients")
    return numbers


def project_sum_over(
    x: ArrayLike,
    z: ArrayLike,
    *,
    axis: int | Sequence[int] | None = None,
    factor: float = 1.0,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project onto the sums over some axes of an array, ``{z = factor x.sum(axis)}``; the mean for 1/n.

    Args:
        x: floating-point, any shape.
        z: the estimates of the sums, in the shape of ``x`` without the axes.
        axis: one axis or several; all by default.
        factor: a finite number.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: there is no such axis, the shapes do not fit, or the factor is no finite number.

    Source: paper, section 3.2.
    """
    arrays = arguments.floating_arrays(_OVER.name, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    axes = arguments.reduced_axes(_OVER.name, x, z, axis)
    found: tuple[Array, Array] = _OVER.run(
        implementation,
        (x, z),
        increments=increments,
        known=arguments.known_residual(_OVER.name, residual, z),
        axes=axes,
        factor=arguments.finite_number(_OVER.name, "factor", factor),
    )
    return found


def project_summands(
    kernel: Kernel,
    inputs: Sequence[ArrayLike],
    z: ArrayLike,
    residual: ArrayLike | None,
    increments: bool,
    implementation: str | None,
    **settings: Any,
) -> tuple[tuple[Array, ...], Array]:
    """Check the arguments of a kernel that sums its inputs, and run the implementation that is named."""
    arrays = summand_arrays(kernel.name, inputs, z)
    *summands, z = arrays.values()
    known = arguments.known_residual(kernel.name, residual, z)
    found: tuple[tuple[Array, ...], Array] = kernel.run(
        implementation,
        (tuple(summands), z),
        arrays=arrays,
        increments=increments,
        known=known,
        **settings,
    )
    return found


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
