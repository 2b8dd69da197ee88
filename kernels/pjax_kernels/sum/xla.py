"""Projection onto a sum in jax.numpy: any platform."""

from __future__ import annotations

from jax import Array

from pjax_kernels.sum.reference import mean_of_copies


def sum_increments(inputs: tuple[Array, ...], z: Array) -> tuple[tuple[Array, ...], Array]:
    """The mean changes of the inputs and the change of ``z``."""
    share = (z - sum(inputs)) * (1 / (len(inputs) + 1))
    return tuple(mean_of_copies(x, share) for x in inputs), -share
