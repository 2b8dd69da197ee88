"""The public projection onto a dense layer with a stored deviation for every copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from pjax_kernels import arguments, gpu
from pjax_kernels.dense_copies import reference, xla
from pjax_kernels.dense_copies.reference import Moves
from pjax_kernels.derivatives import bilinear_formula
from pjax_kernels.kernel import Kernel, deferred

_LONGEST_ON_GPU = 4096
"""Entries of a dot product that still fit the registers; half as many in float64."""


def _of_operands(dense_copies: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """The same as a function of operands of any dtypes."""

    def project(x: Array, w: Array, u: Array, v: Array, z: Array, moves: Moves, **known: Array) -> tuple[Array, ...]:
        x, w, z, *residual = (array.astype(moves.scale[0].dtype) for array in (x, w, z, *known.values()))
        return dense_copies(x, w, u, v, z, moves, *residual)

    return project


def _formula(
    new: tuple[Array, ...], x: Array, w: Array, u: Array, v: Array, z: Array, moves: Moves
) -> tuple[Array, ...]:
    scale, keep, gain = moves
    x_copies, w_copies = x[:, None, :] + scale[0] * u, w.T + scale[1] * v
    u_change, v_change, z_change = bilinear_formula(new[-1:], x_copies, w_copies, z)
    batch, width = z.shape
    return (
        (keep[0] * u + gain[0] * u_change).astype(new[0].dtype),
        (keep[1] * v + gain[1] * v_change).astype(new[1].dtype),
        jnp.sum(u_change, axis=1) / max(width, 1),
        jnp.sum(v_change, axis=0).T / max(batch, 1),
        z_change,
    )


def _too_long(x: Array, w: Array, u: Array, v: Array, z: Array, moves: Moves) -> str | None:
    del w, u, v, z
    longest = _LONGEST_ON_GPU * 4 // moves.scale[0].dtype.itemsize
    return gpu.unsupported({}, length=x.shape[1], longest=longest)


_KERNEL = Kernel(
    "project_dense_copies",
    {
        "reference": _of_operands(reference.dense_copies),
        "xla": _of_operands(xla.dense_copies),
        "triton": _of_operands(deferred("dense_copies.triton", "dense_copies")),
    },
    formula=_formula,
    limits={"triton": _too_long},
    takes_increments=False,
)


class DenseCopies(NamedTuple):
    """What :func:`project_dense_copies` returns.

    Attributes:
        u: ``(B, M, N)``, the new deviations of the copies of ``x``, in the dtype given.
        v: ``(B, M, N)``, the new deviations of the copies of ``w``, in the dtype given.
        x_mean: ``(B, N)``, the mean over ``j`` of the changes of the copies of ``x[i]``, in float32 or wider.
        w_mean: ``(N, M)``, the mean over ``i`` of the changes of the copies of ``w[:, j]``, in float32 or wider.
        z_change: ``(B, M)``, the change of ``z``, in float32 or wider.
    """

    u: Array
    v: Array
    x_mean: Array
    w_mean: Array
    z_change: Array


def project_dense_copies(
    x: ArrayLike,
    w: ArrayLike,
    u: ArrayLike,
    v: ArrayLike,
    z: ArrayLike,
    *,
    scale: Sequence[ArrayLike] = (1.0, 1.0),
    keep: Sequence[ArrayLike] = (0.0, 0.0),
    gain: Sequence[ArrayLike] = (1.0, 1.0),
    residual: ArrayLike | None = None,
    implementation: str | None = None,
) -> DenseCopies:
    """Project every dot product of a dense layer with its own copies, and update their stored deviations.

    Dot product ``(i, j)`` holds the copies ``a = x[i] + scale[0] u[i, j]`` and ``b = w[:, j] + scale[1] v[i, j]``.
    Each ``(a, b, z[i, j])`` is projected onto the set ``{z = a . b}`` as by :func:`project_bilinear`.  With the
    changes of ``a`` and ``b`` the new deviations are ``keep[0] u + gain[0] (change of a)`` and
    ``keep[1] v + gain[1] (change of b)``; the means of the changes are returned beside them.

    A step of Douglas-Rachford with relaxation ``r`` is ``scale=(-1, -1)``, ``keep=(1 - 2 r, 1 - 2 r)``,
    ``gain=(2 r, 2 r)``, with ``x`` and ``w`` the reflected means of the copies; one of the difference map is
    ``gain=(-1, -1)``.  Donate ``u`` and ``v`` under :func:`jax.jit` to have them updated in place.

    Args:
        x: ``(B, N)``, floating-point: what the copies of ``x`` have in common.
        w: ``(N, M)``, likewise.
        u: ``(B, M, N)``, the deviations of the copies of ``x``; may be of a narrower dtype than is computed in.
        v: ``(B, M, N)``, the deviations of the copies of ``w``, likewise.
        z: ``(B, M)``, the estimates of the outputs.
        scale: two numbers, which may be traced: what ``u`` and ``v`` are multiplied by.
        keep: two numbers, likewise: the parts of ``u`` and ``v`` that remain.
        gain: two numbers, likewise: the parts of the changes that are added to these.
        residual: ``z`` less ``x w``, where that is known; see :mod:`pjax_kernels`.  What deviations add is added up.
        implementation: "reference", "xla", "triton" (GPUs; ``N`` up to 4096), or None for the best that runs here.

    Returns:
        The new deviations and the changes, as :class:`DenseCopies`, computed in float32 or wider.  ``|a|^2 + |b|^2``
        must be finite in that dtype.

    Raises:
        TypeError: an array is not floating-point.
        ValueError: the shapes do not fit, or ``scale``, ``keep`` or ``gain`` is not a pair of finite numbers.

    Source: paper, section 3.2 for the projection and section 4 for the algorithms.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, w=w, u=u, v=v, z=z)
    x, w, u, v, z = arrays.values()
    _require_shapes(x, w, u, v, z)
    dtype = arguments.compute_dtype(list(arrays.values()))
    numbers = (("scale", scale), ("keep", keep), ("gain", gain))
    moves = Moves(*(_pair(name, value, dtype) for name, value in numbers))
    new = _KERNEL.run(
        implementation,
        (x, w, u, v, z, moves),
        arrays=arrays,
        known=arguments.known_residual(_KERNEL.name, residual, z),
        like=lambda x, w, u, v, z, *_: (u, v, x, w, z),
    )
    return DenseCopies(*new)


def _require_shapes(x: Array, w: Array, u: Array, v: Array, z: Array) -> None:
    """Raise ``ValueError`` unless the arrays fit each other."""
    arguments.require_rank(_KERNEL.name, {"x": (x, 2), "w": (w, 2)})
    (batch, length), width = x.shape, w.shape[1]
    arguments.require_weights(_KERNEL.name, "w", w, length, f"x of shape {x.shape}")
    product = f"x of shape {x.shape} times w of shape {w.shape}"
    for name, array, shape in (
        ("u", u, (batch, width, length)),
        ("v", v, (batch, width, length)),
        ("z", z, (batch, width)),
    ):
        arguments.require_shape(_KERNEL.name, name, array, shape, product)


def _pair(name: str, value: Any, dtype: DTypeLike) -> tuple[Any, Any]:
    """The two numbers; a ``ValueError`` says what came instead."""
    advice = "two finite numbers, such as (1.0, 1.0)"
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{_KERNEL.name}: {name} is {arguments.shown(value)}; pass {advice}")
    first, second = (
        arguments.scalar(_KERNEL.name, f"{name}[{k}]", number, dtype, math.isfinite, f"{advice} for {name}")
        for k, number in enumerate(value)
    )
    return first, second
