"""Operations that JAX has no name for."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pjax_core.arrays import arguments
from pjax_core.arrays.messages import described
from pjax_core.operations import primitives
from pjax_core.operations.call import call


def identity(x: ArrayLike) -> Array:
    """``x`` itself by way of a constraint ``z = x``, which lets its consumers disagree on it for a step.

    Args:
        x: any shape.

    Returns:
        The shape of ``x``.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum`.
    """
    return call(primitives.identity, x)


def quantize(x: ArrayLike, levels: int, *, scale: float = 1.0, relaxed: bool = False) -> Array:
    """The nearest of ``levels`` equally spaced numbers from ``-scale`` to ``scale``: not differentiable.

    Args:
        x: any shape.
        levels: how many, at least 2.
        scale: the largest level, positive.
        relaxed: whether projections hand changes down where ``|x| <= scale``, as if the rounding had slope 1 there.
            With the exact set, small changes end here, and what lies below hardly learns.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: ``levels`` or ``scale`` is out of range.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_quantize`.
    """
    if isinstance(levels, bool) or not isinstance(levels, (int, np.integer)) or levels < 2:
        raise ValueError(f"quantize: levels is {described(levels)}; pass an integer of at least 2")
    scale = arguments.scalar(scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"quantize: scale is {described(scale)}; pass a positive number")
    return call(primitives.quantize, x, levels=int(levels), scale=float(scale), relaxed=bool(relaxed))


def threshold(x: ArrayLike, w: ArrayLike, *, margin: float) -> Array:
    """Boolean threshold functions ``sgn(x w)``, 1 or -1, with ``|x w| >= margin`` wanted: not differentiable.

    Args:
        x: ``(..., N)``.
        w: ``(N, M)``.
        margin: how far from 0 the products are to be, positive: ``sqrt(N/3)`` for weights of norm ``sqrt(N)`` (hold
            them there by ``within(w, Sphere(sqrt(N), axis=0))``) and inputs of 1 and -1 makes gates of two inputs.

    Returns:
        ``(..., M)``; the sign of 0 is 1.

    Raises:
        TypeError: ``margin`` is not a number.
        ValueError: the shapes do not fit, or ``margin`` is not positive.

    Source: Elser, Lal, arXiv 2602.17493, section III; the projection is :func:`pjax_kernels.project_threshold_dense`.
    """
    margin = arguments.number("threshold: margin", margin, lambda m: 0 < m < math.inf, "a positive number")
    x, w = jnp.asarray(x), jnp.asarray(w)
    if not x.ndim or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"threshold: x has shape {x.shape} and w {w.shape}; they must be (..., N) and (N, M)")
    z = call(primitives.threshold, x.reshape(-1, x.shape[-1]), w, margin=margin)
    return z.reshape(*x.shape[:-1], w.shape[1])
