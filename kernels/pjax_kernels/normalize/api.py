"""The public projection onto a normalisation."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_index

from pjax_kernels import arguments
from pjax_kernels.kernel import of_increments
from pjax_kernels.normalize import derivative, reference, xla

_KERNEL = of_increments(
    "project_normalize",
    {"reference": reference.normalize_increments, "xla": xla.normalize_increments},
    formula=derivative.normalize_formula,
)


def project_normalize(
    x: ArrayLike,
    z: ArrayLike,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    centred: bool = True,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project rows onto the set ``{z = (x - mean(x)) / sqrt(var(x) + epsilon)}``, or of their root mean square.

    That is layer normalisation, and with ``centred=False``, ``{z = x / sqrt(mean(x^2) + epsilon)}``, RMS normalisation,
    both without scale and bias.  All but the length of a row follows from its length, which is sought from many starts:
    the point found is never farther than ``x`` with its own normalisation, and is the nearest wherever the residual
    is small.  Of 1000 standard normal rows with standard normal ``z``, 99 % were nearest to within 1e-8 at lengths of
    3, 16 and 64, and 94 % at length 2 where centred.

    Args:
        x: floating-point, at least one axis, of at least two entries where it is centred.  The sum of squares of a row
            must be finite; rows of entries below 1e-18 in float32, whose squares are subnormal, count as 0.
        z: the shape of ``x``, the estimates of the normalised rows.
        axis: along which rows lie.
        epsilon: positive.
        centred: subtract the mean.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes differ, there is no such axis, or epsilon is not positive.

    Source: reduction to one dimension, as for the projection onto a cone of revolution.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    arguments.require_shape(_KERNEL.name, "z", z, x.shape, f"x of shape {x.shape}")
    if not -x.ndim <= axis < x.ndim or x.shape[axis] < 1 + centred:
        raise ValueError(
            f"{_KERNEL.name}: axis is {axis!r} for x of shape {x.shape}; "
            f"pass an axis of x of at least {1 + centred} entries"
        )
    if not arguments.finite_number(_KERNEL.name, "epsilon", epsilon) > 0:
        raise ValueError(f"{_KERNEL.name}: epsilon is {epsilon!r}; pass a positive number")
    axis = normalize_axis_index(axis, x.ndim)
    new_x, new_z = _KERNEL.run(
        implementation,
        tuple(jnp.moveaxis(array, axis, -1) for array in (x, z)),
        increments=increments,
        epsilon=float(epsilon),
        centred=bool(centred),
    )
    return jnp.moveaxis(new_x, -1, axis), jnp.moveaxis(new_z, -1, axis)
