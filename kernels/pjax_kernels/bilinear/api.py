"""The public projection onto a dot product with stored copies."""

from __future__ import annotations

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.bilinear import reference, xla
from pjax_kernels.derivatives import bilinear_formula
from pjax_kernels.kernel import deferred, of_increments


def _triton(a: Array, b: Array, z: Array, *, increments: bool, **known: Array) -> tuple[Array, Array, Array]:
    if a.shape[-1] == 0:  # there is nothing to launch for
        return arguments.from_increments(xla.bilinear_increments)(a, b, z, increments=increments)
    from pjax_kernels.bilinear import triton

    return triton.project_bilinear(a, b, z, increments=increments, **known)


_KERNEL = of_increments(
    "project_bilinear",
    {"reference": reference.bilinear_increments, "xla": xla.bilinear_increments},
    formula=bilinear_formula,
    others={"triton": _triton, "tpu": deferred("bilinear.tpu", "project_bilinear")},
)


def project_bilinear(
    a: ArrayLike,
    b: ArrayLike,
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Project every row of ``(a, b, z)`` onto the set ``{z = a . b}``.

    The nearest point in the sum of squared distances of all three.  Where it is not unique (``a = -b`` and ``z``
    large, ``a = b`` and ``-z`` large, ``a = b = 0`` and ``|z| > 1``), the free part of ``a`` and ``b`` is laid along
    the vector of equal positive entries.

    Args:
        a: ``(..., N)``, floating-point.
        b: ``(..., N)``.  ``|a|^2 + |b|^2`` must be finite in the dtype of the computation.
        z: ``(...)``, the estimates of the dot products.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", "triton" (NVIDIA and AMD GPUs), "tpu", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit.

    Source: paper, section 3.2; Bauschke, Lal, Wang, arXiv 2206.04878.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, a=a, b=b, z=z)
    a, b, z = arrays.values()
    if a.ndim == 0:
        raise ValueError(f"{_KERNEL.name}: a has shape (), but needs a last axis to take the dot product over")
    arguments.require_shape(_KERNEL.name, "b", b, a.shape, f"a of shape {a.shape}")
    arguments.require_shape(_KERNEL.name, "z", z, a.shape[:-1], f"a of shape {a.shape}")
    known = arguments.known_residual(_KERNEL.name, residual, z)
    found: tuple[Array, Array, Array] = _KERNEL.run(
        implementation, (a, b, z), arrays=arrays, known=known, increments=increments
    )
    return found
