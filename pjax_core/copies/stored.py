"""Copies that are stored, one deviation for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from pjax_core.arrays import meshes
from pjax_core.copies.count import Deviations, Factor, Move, Projected, laid_out, moved, spread, times, wide_slots
from pjax_core.graph.nodes import Operation
from pjax_kernels import compose


@dataclass(frozen=True)
class Dense:
    """A deviation for each copy; exact."""

    def start(self, node: Operation) -> Deviations:
        """No deviation, in the layout of the operation's copies."""
        return tuple(meshes.full(_sharded_as_output(node, shape), 0) for shape in laid_out(node))

    def scaled(self, deviations: Deviations, factors: Sequence[Factor]) -> Deviations:
        """The deviations of each slot times its factor."""
        return tuple(times(factor, deviation) for factor, deviation in zip(factors, deviations, strict=True))

    def project(
        self,
        node: Operation,
        shared: Sequence[Array],
        deviations: Deviations,
        output: Array | None,
        residual: Array | None,
        moves: Sequence[Move],
        unread: Array | None,
        weights: Array | None = None,
    ) -> Projected:
        """Project the copies; the output is free where it is ``unread``.

        ``residual`` is what the estimate of the output has beyond that which follows from what the copies share.  With
        ``weights``, one for each element of the output, each copy's change counts that much in the mean changes.
        """
        bilinear = node.primitive.bilinear
        if bilinear is not None and bilinear.project_copies is not None and unread is None and weights is None:
            scale, keep, gain = zip(*moves, strict=True)
            found = bilinear.project_copies(
                *shared, *deviations, output, scale=scale, keep=keep, gain=gain, residual=residual, **node.settings
            )
            return Projected((found.x_mean, found.w_mean), found.z_change, (found.u, found.v), None)
        primitive = node.primitive.copywise or node.primitive
        of_all = spread(node)(*shared)
        own: list[Array | None] = [times(move.scale, u) for u, move in zip(deviations, moves, strict=True)]
        own += [None] * (len(of_all) - len(own))
        copies = tuple(shared if u is None else shared + u for shared, u in zip(of_all, own, strict=True))
        adopted: Any = 0  # the change of an output that is free, to the one that follows from the inputs
        if output is not None and residual is not None:
            residual = residual - jnp.asarray(primitive.growth(of_all, own, **node.settings))
            if unread is not None:
                adopted = jnp.where(unread, -residual, 0)
                output, residual = output + adopted, residual + adopted
        changes, output_change = primitive.project(copies, output, residual, **node.settings)
        return Projected(
            means_over_copies(node, changes, weights),
            None if output_change is None else output_change + adopted,
            tuple(map(moved, moves, deviations, changes)),
            None,
        )

    def __str__(self) -> str:
        return "dense"


def _sharded_as_output(node: Operation, copies: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape of copies, sharded as the output along the axes that they have in common with it."""
    common, extra = node.shape.shape, len(copies.shape) - len(node.shape.shape)
    if not common or copies.shape[: len(common)] != common:
        return copies
    return jax.eval_shape(
        lambda output: jnp.broadcast_to(output.reshape(*common, *(1,) * extra), copies.shape).astype(copies.dtype),
        node.shape,
    )


def means_over_copies(node: Operation, changes: Sequence[Array], weights: Array | None = None) -> tuple[Array, ...]:
    """The means of changes, each times its weight, over the copies of each element of a slot."""
    if weights is not None:
        changes = [jnp.expand_dims(weights, tuple(range(weights.ndim, c.ndim))) * c for c in changes]
    slots = wide_slots(node)
    held = jax.eval_shape(spread(node), *slots)
    if all(copies.shape == slot.shape for copies, slot in zip(held, slots, strict=True)):
        return tuple(changes)
    cotangents = tuple(change.astype(copies.dtype) for change, copies in zip(changes, held, strict=False))
    # What does not move, such as costs.
    cotangents += tuple(meshes.full(copies, 0) for copies in held[len(cotangents) :])
    # On automatic axes: what is laid out of an array that all devices hold is not sharded by its type.
    plain = tuple(jax.ShapeDtypeStruct(slot.shape, slot.dtype) for slot in slots)
    transpose = compose.on_automatic_axes(
        lambda *cotangents: meshes.transposed(spread(node), plain, cotangents), like=lambda *_: tuple(slots)
    )
    sums = transpose(*cotangents)
    counts = node.primitive.copies(*slots, **node.settings)
    means = tuple(
        total * (1 / jnp.maximum(jnp.asarray(count, total.dtype), 1)) for total, count in zip(sums, counts, strict=True)
    )
    return means[: len(changes)]
