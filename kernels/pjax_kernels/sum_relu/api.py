"""The public projection onto a rectified sum."""

from __future__ import annotations

from collections.abc import Sequence

from jax import Array
from jax.typing import ArrayLike

from pjax_kernels.kernel import deferred, of_increments
from pjax_kernels.sum.api import project_summands
from pjax_kernels.sum_relu import reference, xla

_KERNEL = of_increments(
    "project_sum_relu",
    {"reference": reference.sum_relu_increments, "xla": xla.sum_relu_increments},
    others={"tpu": deferred("sum_relu.tpu", "project_sum_relu")},
)


def project_sum_relu(
    inputs: Sequence[ArrayLike],
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> tuple[tuple[Array, ...], Array]:
    """Project each element onto the set ``{z = max(x_1 + ... + x_n, 0)}``.

    The set has two branches, the sum positive and equal to ``z``, or not positive and ``z = 0``; the nearest point
    of the nearer branch is taken, of the second one where they are equally near.  An input that broadcasts to the
    shape of ``z``, such as a bias, holds one copy for every element of ``z`` that it enters; the mean of its
    projected copies is returned.

    Args:
        inputs: one or more floating-point arrays, each of a shape that broadcasts to that of ``z``.
        z: the estimates of the outputs.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        implementation: "reference", "xla", "tpu", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point, or ``inputs`` an array instead of several.
        ValueError: no input, or shapes that do not fit.

    Source: paper, section 3.2.
    """
    return project_summands(_KERNEL, inputs, z, residual, increments, implementation)
