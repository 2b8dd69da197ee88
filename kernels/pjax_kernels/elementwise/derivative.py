"""The derivative of the projection onto the graph of a scalar function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pjax_kernels.elementwise.curves import Curve
from pjax_kernels.elementwise.functions import elementwise_function
from pjax_kernels.elementwise.pieces import Pieces, piecewise_increments


def elementwise_formula(
    changes: tuple[Array, Array],
    x: Array,
    z: Array,
    residual: Array | None,
    constants: Sequence[Array],
    limits: dict[str, Array],
    *,
    f: str | Callable[..., Array],
    fixed: tuple[tuple[str, Any], ...],
) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``; a residual that is given stands for ``z``, but where ``f(x)`` is undefined."""
    function = elementwise_function(f, constants, {**dict(fixed), **limits})
    if isinstance(function, Pieces):
        return piecewise_increments(x, z, z - function.value(x) if residual is None else residual, function)
    if residual is not None:
        anchor = lax.stop_gradient(function.anchors[0](x, z))
        inside = anchor == x
        z = jnp.where(inside, function.value(jnp.where(inside, x, anchor)) + residual, z)

    def curve_of(constants: Sequence[Array]) -> Curve | Pieces:
        return elementwise_function(f, constants, dict(fixed))

    new = x + changes[0], z + changes[1]
    new_x, new_z = _nearest(curve_of, new, changes[0] == 0, x, z, constants)
    return new_x - x, new_z - z


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _nearest(
    curve_of: Callable[..., Any], new: tuple[Array, Array], above: Array, x: Array, z: Array, constants: Sequence[Array]
) -> tuple[Array, Array]:
    """The known point of the curve, as a function of ``x``, ``z`` and the constants alone, of x ``x`` if ``above``."""
    del curve_of, above, x, z, constants
    return new


@_nearest.defjvp
def _(curve_of: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """Along the curve from the known point, the derivative of the squared distance stays 0.

    At the end of a curve the point stays.  Where several points are about to become equally near, at a centre of
    curvature, the derivative grows without limit.  Where no point nearer than ``(x, f(x))`` was found, it is this one
    that moves with ``x``, whatever its distance.
    """
    new = _nearest(curve_of, *primals)
    above, *primals_of_distance = primals[1:]
    anchor = curve_of(primals[-1]).anchors[0](*new)
    here, ones = jnp.zeros_like(anchor), jnp.ones_like(anchor)

    def half_slope(t: Array, x: Array, z: Array, constants: Sequence[Array]) -> Array:
        point, slope = jax.jvp(partial(curve_of(constants).point, anchor), (t,), (ones,))
        return (point[0] - x) * slope[0] + (point[1] - z) * slope[1]

    slope, bend = jax.jvp(lambda t: half_slope(t, *primals_of_distance), (here,), (ones,))
    moved = -jax.jvp(partial(half_slope, here), tuple(primals_of_distance), tuple(tangents[2:]))[1] / bend
    lowest = curve_of(primals[-1]).lowest
    if lowest is not None:
        moved = jnp.where(lowest(anchor) < 0, moved, 0)

    def point(t: Array, constants: Sequence[Array]) -> tuple[Array, Array]:
        found: tuple[Array, Array] = curve_of(constants).point(anchor, t)
        return found

    x_slope = jax.jvp(lambda t: point(t, primals[-1])[0], (here,), (ones,))[1]
    moved = jnp.where(above & (slope != 0), tangents[2] / jnp.where(x_slope == 0, 1, x_slope), moved)
    return new, jax.jvp(point, (here, primals[-1]), (moved, tangents[-1]))[1]
