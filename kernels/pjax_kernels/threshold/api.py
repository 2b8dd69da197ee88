"""The public projections onto Boolean threshold functions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_index

from pjax_kernels import arguments
from pjax_kernels.kernel import Kernel, deferred, of_increments
from pjax_kernels.threshold import reference, xla

_KERNEL = of_increments(
    "project_threshold",
    {"reference": reference.threshold_increments, "xla": xla.threshold_increments},
    others={"triton": deferred("threshold.triton", "project_threshold")},
)
_DENSE = of_increments(
    "project_threshold_dense",
    {
        "reference": reference.dense_increments,
        "xla": xla.dense_increments,
        "triton": deferred("threshold.triton", "dense_increments"),
    },
)


def project_threshold(
    a: ArrayLike,
    b: ArrayLike,
    z: ArrayLike,
    *,
    margin: ArrayLike,
    axis: int = -1,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Project each ``(a, b, z)`` onto the set ``{z = sgn(a . b), |a . b| >= margin}``.

    The nearest point in the sum of squared distances of all three.  Where both signs are as near, ``z`` becomes 1;
    where the nearest point is not unique (``a = -z b``), the free part of ``a`` and ``b`` is laid along the vector of
    equal positive entries.  Finite arguments never make NaN, as long as ``(|a|^2 + |b|^2)^2`` is finite in the dtype of
    the computation; the margin is reached to within the rounding of ``|a|^2 + |b|^2``.

    Args:
        a: floating-point, with an axis of entries.
        b: the shape of ``a``.
        z: the shape of ``a`` without that axis, the estimates of the signs.
        margin: a positive number, which may be traced.
        axis: of the entries; the first one lets few entries, of many dot products, fill vector registers.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", "triton" (NVIDIA and AMD GPUs), or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit, there is no such axis or no entry, or the margin is not positive.

    Source: Elser, Lal, arXiv 2602.17493, section III.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, a=a, b=b, z=z)
    a, b, z = arrays.values()
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(
            f"{_KERNEL.name}: a has shape {a.shape}, which has no axis {axis} to take the dot product over"
        )
    axis = normalize_axis_index(axis, a.ndim)
    arguments.require_shape(_KERNEL.name, "b", b, a.shape, f"a of shape {a.shape}")
    kept = a.shape[:axis] + a.shape[axis + 1 :]
    arguments.require_shape(_KERNEL.name, "z", z, kept, f"a of shape {a.shape} without axis {axis}")
    _require_entries(_KERNEL.name, a.shape[axis], f"a has shape {a.shape}")
    return _run(_KERNEL, implementation, arrays, margin, increments, axis=axis)


def project_threshold_dense(
    x: ArrayLike,
    w: ArrayLike,
    z: ArrayLike,
    *,
    margin: ArrayLike,
    increments: bool = False,
    precision: lax.PrecisionLike = "highest",
    implementation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Project onto the threshold functions of a dense layer, ``z[i, j] = sgn(x[i] . w[:, j])``, and average the copies.

    Each of the ``B M`` functions holds its own copies of a row of ``x`` and a column of ``w``, which all start from the
    given values and are projected as by :func:`project_threshold`; their means are returned.  No copy is stored.

    Args:
        x: ``(B, N)``, floating-point.
        w: ``(N, M)``.
        z: ``(B, M)``, the estimates of the signs.
        margin: of every dot product, a positive number, which may be traced.
        increments: return the changes instead of the new values.
        precision: of the matrix products, as in :func:`jax.numpy.matmul`.
        implementation: "reference" (stores all ``2 B M N`` copies), "xla", "triton" (NVIDIA and AMD GPUs), or None for
            the best that runs here.

    Returns:
        ``(x, w, z)``: the means of the projected copies, and the signs, in the shapes and dtypes given.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit, there is no entry, or the margin is not positive.

    Source: Elser, Lal, arXiv 2602.17493, section III, with all copies of a value equal.
    """
    arrays = arguments.floating_arrays(_DENSE.name, x=x, w=w, z=z)
    x, w, z = arrays.values()
    arguments.require_rank(_DENSE.name, {"x": (x, 2), "w": (w, 2), "z": (z, 2)})
    arguments.require_shape(_DENSE.name, "w", w, (x.shape[1], w.shape[1]), f"x of shape {x.shape}")
    expected = (x.shape[0], w.shape[1])
    arguments.require_shape(_DENSE.name, "z", z, expected, f"x of shape {x.shape} times w of shape {w.shape}")
    _require_entries(_DENSE.name, x.shape[1], f"x has shape {x.shape}")
    return _run(_DENSE, implementation, arrays, margin, increments, precision=precision)


def _require_entries(kernel: str, entries: int, found: str) -> None:
    """Raise ``ValueError`` where dot products have no entries, and so no sign."""
    if not entries:
        raise ValueError(f"{kernel}: {found}, so that dot products have no entries and never reach a margin")


def _run(
    kernel: Kernel,
    implementation: str | None,
    arrays: dict[str, Array],
    margin: ArrayLike,
    increments: bool,
    **settings: Any,
) -> tuple[Array, Array, Array]:
    """What the implementation makes of the three arrays and of the margin, which is checked."""
    operands = tuple(arrays.values())
    number = arguments.positive_number(kernel.name, "margin", margin, arguments.compute_dtype(operands))
    found: tuple[Array, Array, Array] = kernel.run(
        implementation, (*operands, jnp.asarray(number)), arrays=arrays, increments=increments, **settings
    )
    return found
