"""The public projection onto a dense layer whose copies are combinations of a few shared vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels import arguments, combination
from pjax_kernels.combination import Coefficient, Copies, FactoredChanges
from pjax_kernels.dense_factored import reference, xla
from pjax_kernels.kernel import Kernel

_MOST_PAIRS = 16
"""Of operands, whose products the Triton kernel holds in registers: those of a history of three terms."""


def _triton(copies: Copies, z: Array, *, precision: lax.PrecisionLike, **known: Array) -> FactoredChanges:
    if copies.x[0].shape[1] == 0:  # there is nothing to launch for
        return xla.factored_increments(copies, z, precision=precision, **known)
    from pjax_kernels.dense_factored import triton

    return triton.factored_increments(copies, z, precision=precision, **known)


def _too_many(*arrays: Array, layout: combination.Layout, **_: Any) -> str | None:
    copies, _ = layout.together(arrays)
    pairs = len(copies.x) * len(copies.w)
    if pairs > _MOST_PAIRS:
        return f"the products of {pairs} pairs of operands do not fit the registers; the kernel takes {_MOST_PAIRS}"
    return None


_KERNEL = Kernel(
    "project_dense_factored",
    {
        "reference": combination.of_arrays(reference.factored_increments),
        "xla": combination.of_arrays(xla.factored_increments),
        "triton": combination.of_arrays(_triton),
    },
    formula=combination.formula_of_arrays(xla.factored_formula),
    limits={"triton": _too_many},
    takes_increments=False,
)


def project_dense_factored(
    x: Sequence[ArrayLike],
    w: Sequence[ArrayLike],
    u: tuple[Sequence[Coefficient], Sequence[Coefficient]],
    v: tuple[Sequence[Coefficient], Sequence[Coefficient]],
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    precision: lax.PrecisionLike = "highest",
    implementation: str | None = None,
) -> FactoredChanges:
    """Project the copies ``u, v`` of a dense layer onto ``z[i, j] = u[i, j] . v[i, j]``, where they are combinations.

    Dot product ``(i, j)`` holds ``u[i, j] = sum_k u[0][k][i, j] x[k][i, :] + sum_k u[1][k][i, j] w[k][:, j]`` and
    ``v[i, j]`` likewise.  The projection stays in the span of these vectors, so only coefficients change, and no copy
    is stored: a matrix product for each pair of ``x`` and ``w``, one more for each of them, and memory ``B M`` for
    each coefficient.

    Where the projection is set-valued (``u = v`` or ``u = -v``, as when both are zero), its free part is not in the
    span and is left out; ``squared_free`` says how much that is.  Combinations that are not zero but equal or opposite
    are recognised where their inner products come out so to the last digit.

    Args:
        x: arrays ``(B, N)``, floating-point, at least one.
        w: arrays ``(N, M)``, at least one.
        u: the coefficients of ``u``, one for each of ``x`` and one for each of ``w``: arrays ``(B, M)``, or numbers
            for all ``i, j``.  The numbers 0 and 1 cost nothing.
        v: the coefficients of ``v``, likewise.
        z: ``(B, M)``, the estimates of the outputs.
        residual: ``z`` less the dot products of ``x[0]`` and ``w[0]``, where that is known; see :mod:`pjax_kernels`.
            ``u`` and ``v`` are then what is added to these, so that none is rounded with a coefficient of 1.
        precision: of the matrix products, as in :func:`jax.numpy.matmul`.
        implementation: "reference" (stores all copies), "xla", "triton" (GPUs; up to 16 pairs of ``x`` and ``w``), or
            None for the best that runs here.

    Returns:
        The changes, as :class:`FactoredChanges`, in float32 or wider.

    Raises:
        TypeError: an argument is not floating-point, or an array where several are needed.
        ValueError: the shapes do not fit.

    Source: paper, section 3.2, for the projection; that copies stay in this span under Douglas-Rachford and the
    difference map is by induction over their steps.
    """
    combination.require_operands(_KERNEL.name, x, w, u, v)
    named = {f"x[{k}]": array for k, array in enumerate(x)} | {f"w[{k}]": array for k, array in enumerate(w)}
    arrays = arguments.floating_arrays(_KERNEL.name, **named, z=z)
    z = arrays["z"]
    _require_shapes(arrays)
    xs, ws = ([arrays[f"{name}[{k}]"] for k in range(len(several))] for name, several in (("x", x), ("w", w)))
    given, layout = combination.arrays_apart(
        (combination.copies(_KERNEL.name, xs, ws, u, v, z), z), adds=residual is not None
    )
    coefficients = {f"coefficient {k}": array for k, array in enumerate(given[len(named) : -1])}
    changes = _KERNEL.run(
        implementation,
        given,
        arrays=arrays | coefficients,
        like=lambda *operands: combination.changes_like(operands[0], operands[len(x)], operands[-1]),
        layout=layout,
        precision=precision,
        known=arguments.known_residual(_KERNEL.name, residual, z),
    )
    return combination.with_zeros(changes)


def _require_shapes(arrays: dict[str, Array]) -> None:
    """Raise ``ValueError`` unless operands and ``z`` fit each other."""
    arguments.require_rank(_KERNEL.name, {name: (array, 2) for name, array in arrays.items()})
    batch, length = arrays["x[0]"].shape
    arguments.require_weights(_KERNEL.name, "w[0]", arrays["w[0]"], length, f"x[0] of shape {(batch, length)}")
    width = arrays["w[0]"].shape[1]
    for name, array in arrays.items():
        shape = {"x": (batch, length), "w": (length, width), "z": (batch, width)}[name[0]]
        arguments.require_shape(
            _KERNEL.name, name, array, shape, f"x[0] of shape {(batch, length)} times w[0] of width {width}"
        )
