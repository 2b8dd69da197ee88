"""The public projection onto a dense layer in consensus form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels import arguments, tpu
from pjax_kernels.dense import reference, xla
from pjax_kernels.derivatives import consensus_formula
from pjax_kernels.kernel import Kernel, deferred


def _triton(
    x: Array, w: Array, z: Array, *, precision: lax.PrecisionLike, **known: Array
) -> tuple[Array, Array, Array]:
    if x.shape[1] == 0:  # there is nothing to launch for
        return xla.dense_increments(x, w, z, precision=precision)
    from pjax_kernels.dense import triton

    return triton.dense_increments(x, w, z, precision=precision, **known)


def _transposing(project: Callable[..., Any]) -> Callable[..., Any]:
    """Of an implementation for weights (N, M) one that takes them transposed as well."""

    def projected(x: Array, w: Array, z: Array, *, transposed: bool, **settings: Any) -> tuple[Array, Array, Array]:
        new_x, new_w, new_z = project(x, w.T if transposed else w, z, **settings)
        return new_x, new_w.T if transposed else new_w, new_z

    return projected


def _formula(changes: tuple[Array, ...], x: Array, w: Array, z: Array, **settings: Any) -> tuple[Array, Array, Array]:
    return consensus_formula(xla.dot_products(x, w, **settings), changes[-1], x, w, z)


_KERNEL = Kernel(
    "project_dense",
    {
        "reference": _transposing(arguments.from_increments(reference.dense_increments)),
        "xla": arguments.from_increments(xla.dense_increments),
        "triton": _transposing(arguments.from_increments(_triton)),
        "tpu": _transposing(deferred("dense.tpu", "project_dense")),
    },
    formula=_formula,
    limits={"tpu": lambda *_, precision, **__: tpu.unsupported_precision(precision)},
)


def project_dense(
    x: ArrayLike,
    w: ArrayLike,
    z: ArrayLike,
    *,
    transposed: bool = False,
    residual: ArrayLike | None = None,
    increments: bool = False,
    precision: lax.PrecisionLike = "highest",
    implementation: str | None = None,
) -> tuple[Array, Array, Array]:
    """Project onto the dot products of a dense layer, ``z[i, j] = x[i] . w[:, j]``, and average the copies.

    Each of the ``B M`` dot products holds its own copies of a row of ``x`` and a column of ``w``.  They all start
    from the given values, are projected as by :func:`project_bilinear`, and their means are returned: over ``M``
    copies for ``x``, over ``B`` for ``w``.  No copy is stored: three matrix products and memory ``B N + N M + B M``.

    With the batch sharded in equal parts, the mean over shards of each shard's ``w`` is the mean over the batch.

    Args:
        x: ``(B, N)``, floating-point.
        w: ``(N, M)``.
        z: ``(B, M)``, the estimates of the outputs.
        transposed: ``w`` is ``(M, N)``, as Equinox and PyTorch keep weights, and stays so: "xla" transposes nothing.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        precision: of the matrix products, as in :func:`jax.numpy.matmul`.  The default keeps full float32 on
            accelerators too: the projection lives on the small difference between ``z`` and ``x w``.
        implementation: "reference" (stores all ``2 B M N`` copies), "xla", "triton" (GPUs), "tpu", or None for the
            best that runs here.

    Returns:
        ``(x, w, z)``: the means of the projected copies, and the projected outputs, in the shapes and dtypes given.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit.

    Source: paper, section 3.2, with all copies of a value equal, so that they need not be stored.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, w=w, z=z)
    x, w, z = arrays.values()
    arguments.require_rank(_KERNEL.name, {"x": (x, 2), "w": (w, 2), "z": (z, 2)})
    if transposed:
        arguments.require_shape(_KERNEL.name, "w", w, (w.shape[0], x.shape[1]), f"transposed, and x of shape {x.shape}")
    else:
        arguments.require_weights(_KERNEL.name, "w", w, x.shape[1], f"x of shape {x.shape}")
    expected = (x.shape[0], w.shape[0 if transposed else 1])
    arguments.require_shape(_KERNEL.name, "z", z, expected, f"x of shape {x.shape} times w of shape {w.shape}")
    known = arguments.known_residual(_KERNEL.name, residual, z)
    found: tuple[Array, Array, Array] = _KERNEL.run(
        implementation,
        (x, w, z),
        arrays=arrays,
        known=known,
        increments=increments,
        precision=precision,
        transposed=bool(transposed),
    )
    return found
