"""The public projection onto an affine function with constant coefficients."""

from __future__ import annotations

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.affine import reference, xla
from pjax_kernels.kernel import of_increments

_KERNEL = of_increments("project_affine", {"reference": reference.affine_increments, "xla": xla.affine_increments})


def project_affine(
    x: ArrayLike,
    z: ArrayLike,
    *,
    scale: ArrayLike = 1.0,
    offset: ArrayLike = 0.0,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array]:
    """Project each element onto the line ``{z = scale x + offset}``, whose coefficients are constants.

    Args:
        x: floating-point, any shape.
        z: the shape of ``x``, the estimates of the output.
        scale: real numbers, of a shape that broadcasts to that of ``x``.
        offset: likewise.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: ``x`` or ``z`` is not floating-point.
        ValueError: the shapes do not fit.

    Source: the projection onto a line in the plane; Bauschke and Combettes, Convex Analysis and Monotone Operator
    Theory in Hilbert Spaces, section 29.2.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, z=z)
    x, z = arrays["x"], arrays["z"]
    arguments.require_shape(_KERNEL.name, "z", z, x.shape, f"x of shape {x.shape}")
    dtype = arguments.compute_dtype([x, z])
    constants = [
        arguments.broadcast_constant(_KERNEL.name, name, value, x.shape, dtype)
        for name, value in (("scale", scale), ("offset", offset))
    ]
    found: tuple[Array, Array] = _KERNEL.run(implementation, (x, z, *constants), increments=increments)
    return found
