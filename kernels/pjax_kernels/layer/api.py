"""The public projection onto a whole layer, with one copy of its inputs, weights and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.kernel import of_increments
from pjax_kernels.layer import reference, xla

_KERNEL = of_increments("project_layer", {"reference": reference.layer_increments, "xla": xla.layer_increments})
RULES = ("rank one", "apart", "coupled")


def project_layer(
    bilinear: Callable[[Any, Any], Array],
    x: Any,
    w: Any,
    z: ArrayLike,
    *,
    rule: str = "rank one",
    b: float = 10.0,
    c: float = 10.0,
    steps: int = 3,
    moves_x: bool = True,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[Any, Any, Array]:
    """Project onto the set ``{z = bilinear(x, w)}`` with one copy of each array, where it is linearised, in a metric.

    All dot products of a layer are one constraint, where :func:`project_bilinear_map` gives each copies of its own.
    With ``R = z - F(x, w)``, ``X^T`` and ``W^T`` for the transposes of ``F`` in ``w`` and ``x``, ``|X|^2`` the number
    of dot products with a column of ``w`` times their length times the mean square of the inputs, ``m = b/|X|^2``, and
    s the mean squared norm of a column of ``w``:

    - "coupled" moves inputs, weights and outputs: ``dx = L W^T``, ``dw = m X^T L``, ``dz = -k L`` with
      ``L W^T W + m X X^T L + k L = R``, the projection in a metric in which outputs cost 1/k, where ``k`` is ``c`` mean
      eigenvalues of the other two terms, ``c (s + b/rows)``.
    - "apart" hands ``R W^T/(1 + s)`` to the inputs, as back-propagation does, and projects weights and outputs with the
      inputs held: ``dw = m X^T (1 + m X X^T)^-1 R``.
    - "rank one" is the same in a metric that is stiff along one direction, ``u``, the mean of the inputs:
      ``dw = (G - q/(1 + q) u (u^T G))/|X|^2`` with ``G = X^T R``, ``q = b |X u|^2/|X|^2``.  No system is solved.

    Args:
        bilinear: linear in each of ``x`` and ``w``, transposable by :func:`jax.linear_transpose`; the last axis of
            what it returns is that of each array in ``w``, and each output holds a column of all of them, as in a
            dense layer, a convolution, or all time steps of a recurrence.
        x: an array, or a tuple of arrays, floating-point.  Sums of products of three numbers must be finite, such as
            of numbers up to 1e12 in float32.
        w: likewise, as many.
        z: the estimates of the outputs.
        rule: "rank one", "apart" or "coupled".
        b: how easily weights move; positive.
        c: how easily outputs do, of "coupled"; positive.
        steps: of conjugate gradients, from 0, for the systems of "apart" and "coupled"; positive.  Each takes two
            products, or four.
        moves_x: whether inputs move; if not, their change is zero, and "coupled" is the projection with them held.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference" (a dense solve, for small shapes), "xla", or None for the best that runs here.

    Raises:
        TypeError: an array is not floating-point.
        ValueError: the shapes do not fit, or a setting is none of the above.

    Source: the tangent step of Gauss-Newton in minimum norm; Pierra (1984) for one copy of each array.
    """
    _require_settings(rule, b, c, steps)
    operands, (wide_x, wide_w, wide_z) = arguments.operands_of_map(_KERNEL.name, bilinear, x, w, z)
    if not is_layer(bilinear, wide_x, wide_w):
        shapes = [array.shape for array in jax.tree.leaves(wide_w)]
        raise ValueError(
            f"{_KERNEL.name}: the last axis of w, of shape {shapes}, is not that of z, of shape {wide_z.shape}"
        )
    found: tuple[Any, Any, Array] = _KERNEL.run(
        implementation,
        operands,
        increments=increments,
        known=arguments.known_residual(_KERNEL.name, residual, wide_z),
        bilinear=bilinear,
        rule=reference.Rule(rule, b, c, steps, bool(moves_x)),
    )
    return found


def is_layer(bilinear: Callable[[Any, Any], Array], x: Any, w: Any) -> bool:
    """Whether there is an array of weights for each of inputs, and each output holds a column of all of them."""
    if len(jax.tree.leaves(w)) != len(jax.tree.leaves(x)) or any(array.ndim == 0 for array in jax.tree.leaves(w)):
        return False
    output = jax.eval_shape(bilinear, x, w)
    column = jax.tree.map(lambda array: jax.ShapeDtypeStruct((*array.shape[:-1], 1), array.dtype), w)
    try:
        of_column = jax.eval_shape(bilinear, x, column)
    except (TypeError, ValueError):  # as JAX finds shapes that do not fit
        return False
    widths = {array.shape[-1:] for array in jax.tree.leaves(w)}
    return widths == {output.shape[-1:]} and of_column.shape == (*output.shape[:-1], 1)


def _require_settings(rule: str, b: float, c: float, steps: int) -> None:
    if rule not in RULES:
        raise ValueError(f"{_KERNEL.name}: rule is {rule!r}; pass one of {', '.join(map(repr, RULES))}")
    for name, value in (("b", b), ("c", c)):
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{_KERNEL.name}: {name} is {value!r}; pass a positive number")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{_KERNEL.name}: steps is {steps!r}; pass an integer of at least 1")
