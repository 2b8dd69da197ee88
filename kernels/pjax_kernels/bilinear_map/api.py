"""The public projection onto the dot products of any bilinear map, in consensus form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.bilinear_map import reference, xla
from pjax_kernels.derivatives import consensus_formula
from pjax_kernels.kernel import of_increments


def _formula(changes: tuple[Any, Any, Array], x: Any, w: Any, z: Array, **settings: Any) -> tuple[Any, Any, Array]:
    return consensus_formula(xla.dot_products(x=x, w=w, z=z, **settings), changes[-1], x, w, z)


_KERNEL = of_increments(
    "project_bilinear_map",
    {"reference": reference.bilinear_map_increments, "xla": xla.bilinear_map_increments},
    formula=_formula,
)


def project_bilinear_map(
    bilinear: Callable[[Any, Any], Array],
    x: Any,
    w: Any,
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    increments: bool = False,
    precision: str | None = "highest",
    implementation: str | None = None,
) -> tuple[Any, Any, Array]:
    """Project onto the dot products ``z = bilinear(x, w)`` and average the copies.

    Every output of ``bilinear`` must be a dot product of entries selected from ``x`` and ``w``: an einsum, a
    convolution, all time steps of a recurrence, and whatever else picks entries, multiplies them in pairs and adds
    up.  Each dot product holds its own copies of its entries.  They all start from the given values, are projected
    as by :func:`project_bilinear`, and the means of the copies are returned; entries that no output uses stay.

    No copy is stored, and nothing but ``bilinear`` need be written: the sums over the copies are its linear
    transposes.  The cost is that of seven evaluations of ``bilinear`` or of its transposes: the three of the gradients,
    and four on operands of ones, which kernels for one map, such as :func:`project_dense`, do without.  How many copies
    each entry has is counted while tracing, by evaluating ``bilinear`` and its transposes on ones.

    Args:
        bilinear: a function of ``x`` and ``w`` that is linear in each, transposable by :func:`jax.linear_transpose`,
            and returns one array.
        x: an array, or a pytree of arrays, floating-point.
        w: likewise.
        z: the estimates of the outputs.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        precision: of the products in ``bilinear`` that name none, as :func:`jax.default_matmul_precision` takes it.
        implementation: "reference" (stores all copies, and finds them from ``bilinear`` on all pairs of unit vectors:
            for small shapes), "xla", or None for the best that runs here.

    Returns:
        ``(x, w, z)``: the means of the projected copies, and the projected outputs, in the structures, shapes and
        dtypes given.

    Raises:
        TypeError: an array is not floating-point.
        ValueError: ``z`` is not of the shape of ``bilinear(x, w)``, or
            an output is not a dot product of selected entries: the reference looks at every pair of entries, "xla" at
            the number of copies and at those of one entry in two outputs.

    Source: paper, section 3.2, with all copies of a value equal, so that they need not be stored.
    """
    operands, _ = arguments.operands_of_map(_KERNEL.name, bilinear, x, w, z)
    found: tuple[Any, Any, Array] = _KERNEL.run(
        implementation,
        operands,
        increments=increments,
        known=arguments.known_residual(_KERNEL.name, residual, operands[2]),
        bilinear=bilinear,
        precision=precision,
    )
    return found
