"""The public projection onto the dot products of any bilinear map whose copies are combinations of operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments, combination
from pjax_kernels.bilinear_map_factored import reference, xla
from pjax_kernels.combination import Coefficient, FactoredChanges
from pjax_kernels.kernel import Kernel

_KERNEL = Kernel(
    "project_bilinear_map_factored",
    {
        "reference": combination.of_arrays(reference.factored_increments),
        "xla": combination.of_arrays(xla.factored_increments),
    },
    formula=combination.formula_of_arrays(xla.factored_formula),
    takes_increments=False,
)


def project_bilinear_map_factored(
    bilinear: Callable[[Any, Any], Array],
    x: Sequence[Any],
    w: Sequence[Any],
    u: tuple[Sequence[Coefficient], Sequence[Coefficient]],
    v: tuple[Sequence[Coefficient], Sequence[Coefficient]],
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    precision: str | None = "highest",
    implementation: str | None = None,
) -> FactoredChanges:
    """Project the copies of a bilinear map onto ``z = u . v``, where they are combinations of a few operands.

    As :func:`project_dense_factored`, for every map of :func:`project_bilinear_map`.  Let dot product ``i`` select the
    entries ``x_i`` of ``x`` and ``w_i`` of ``w``.  It holds the copies ``u[i] = sum_k u[0][k][i] x[k]_i + sum_k
    u[1][k][i] w[k]_i`` and ``v[i]`` likewise; their projection changes only the coefficients, and no copy is stored.

    Where the projection is set-valued (``u = v`` or ``u = -v``, as when both are zero), its free part is not in the
    span and is left out; ``squared_free`` says how much that is.

    Args:
        bilinear: as in :func:`project_bilinear_map`.
        x: operands, at least one: each an array or a pytree of arrays, floating-point, all of the same structure and
            shapes.
        w: likewise.
        u: the coefficients of ``u``, one for each of ``x`` and one for each of ``w``: arrays of the shape of ``z``,
            or numbers for all dot products.  The numbers 0 and 1 cost nothing.
        v: the coefficients of ``v``, likewise.
        z: the estimates of the outputs.
        residual: ``z`` less the dot products of ``x[0]`` and ``w[0]``, where that is known; see :mod:`pjax_kernels`.
            ``u`` and ``v`` are then what is added to these, so that none is rounded with a coefficient of 1.
        precision: as in :func:`project_bilinear_map`.
        implementation: "reference" (stores all copies; for small shapes), "xla", or None for the best that runs here.

    Returns:
        The changes, as :class:`FactoredChanges`, in float32 or wider.

    Raises:
        TypeError: an argument is not floating-point, or an array where several operands are needed.
        ValueError: the structures or shapes do not fit; from the reference also, an output is not a dot product of
            selected entries.

    Source: as for :func:`project_dense_factored`.
    """
    combination.require_operands(_KERNEL.name, x, w, u, v)
    arrays, structure = arguments.floating_trees(_KERNEL.name, x=tuple(x), w=tuple(w), z=jnp.asarray(z))
    given = jax.tree.unflatten(structure, arrays)
    for name, operands in zip("xw", given, strict=False):
        _require_alike(name, operands)
    operands, layout = combination.arrays_apart(
        (combination.copies(_KERNEL.name, given[0], given[1], u, v, given[2]), given[2]), adds=residual is not None
    )
    dtype = arguments.compute_dtype(operands)
    first_x, first_w, wide_z = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), (given[0][0], given[1][0], given[2])
    )
    arguments.require_output(_KERNEL.name, bilinear, first_x, first_w, wide_z)
    changes = _KERNEL.run(
        implementation,
        operands,
        bilinear=bilinear,
        precision=precision,
        known=arguments.known_residual(_KERNEL.name, residual, given[2]),
        like=lambda *_: combination.changes_like(given[0][0], given[1][0], given[2]),
        layout=layout,
    )
    return combination.with_zeros(changes)


def _require_alike(name: str, operands: Sequence[Any]) -> None:
    """Raise ``ValueError`` unless all operands have the structure and the shapes of the first."""
    shapes = [jax.tree.map(jnp.shape, operand) for operand in operands]
    for k, of_operand in enumerate(shapes):
        if of_operand != shapes[0]:
            raise ValueError(f"{_KERNEL.name}: {name}[{k}] has shape {of_operand}, but {name}[0] has {shapes[0]}")
