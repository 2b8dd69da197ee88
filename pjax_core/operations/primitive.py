"""What an operation is: how it computes, how it projects, and how many copies of its inputs it holds."""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.arrays.meshes import is_open
from pjax_kernels.compose import computed

Sides = tuple[tuple[int, ...], tuple[int, ...]]
"""The places of the inputs on either side of a bilinear map."""

Projected = tuple[tuple[Array, ...], Array]
"""The changes of the inputs, and that of the output."""


def as_they_are(*inputs: Array, **_: Any) -> tuple[Array, ...]:
    """One copy of each element."""
    return inputs


class Batching(enum.Enum):
    """What :func:`pjax_core.vmap` makes of an operation.

    ``EACH``: a projection for each element of the mapped axis, which every operand gets.
    ``BROADCAST``: the operation broadcasts its operands, so the axis becomes the first one of those that have it.
    ``ROWS``: the first axis of the first operand and of the output holds independent rows, to which the mapped axis
    adds more; where another operand has the axis too, ``EACH``.
    """

    EACH = "each"
    BROADCAST = "broadcast"
    ROWS = "rows"


@dataclass(frozen=True)
class Bilinear:
    """What an operation has besides when each of its outputs is a dot product of entries of two sides.

    A side is an array, or a tuple of arrays where several inputs are on it.

    Attributes:
        sides: the places of the inputs on either side.
        project_factored: ``project_factored(x, w, u, v, z, **settings)``, a kernel with the signature of
            :func:`pjax_kernels.project_dense_factored`.
        squared_norms: ``squared_norms(x, w, **settings)``: the squared norms of the entries of each side that enter
            each dot product, with all axes of the output, some of length 1.
        project_copies: a kernel with the signature of :func:`pjax_kernels.project_dense_copies`, where there is one.
    """

    sides: Sides
    project_factored: Callable[..., Any]
    squared_norms: Callable[..., tuple[Array, Array]]
    project_copies: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Primitive:
    """An operation, declared once.

    Attributes:
        name: what graphs and error messages call it.
        forward: ``forward(*inputs, **settings)`` computes the output.
        project: ``project(inputs, output, residual, **settings)`` projects onto the operation's graph, from the
            values that all copies of each input share and the estimate of the output.  ``residual`` is what that
            estimate has beyond the output which follows from the inputs, known beyond the rounding of both, or None.
            It returns the mean changes of the copies, one array for each input, and the change of the output.  For an
            output constraint, output, residual and change are None.
        project_tangent: of smooth functions, whose nearest points are searched for, ``project_tangent(inputs, residual,
            **settings)`` is the same for the tangent of the graph at the inputs, in directions; of functions of whole
            rows each entry as if asked as much more as its row hands on less than the mean.
        common_move: ``common_move(inputs, changes)`` is by how much ``project`` moves every copy of every input, where
            it moves all alike, or None where that is not seen.  The new output then follows from the moved inputs:
            those in place are free before it is written.
        increment: ``increment(starts, changes, **settings)`` is by how much the output grows when the inputs grow
            from ``starts`` by ``changes``, not rounded to the precision of the output; None for the difference of
            two outputs.
        spread: ``spread(*inputs, **settings)`` lays each input out with one element for each copy that the operation
            holds.  None if there is no such layout, so that copies cannot be stored.
        copywise: the same constraint between inputs laid out like that; None if ``project`` takes them as well.
        uneven: whether some elements of an input may have more copies than others, or none.
        bilinear: for operations made of dot products.
        batching: see :class:`Batching`.
        shares: ``shares(*inputs, **settings)`` is for each input about which part of a residual reaches it, times what
            the output grows by with it; None for a half, and for dot products for one over the mean of ``losses``.  Of
            an output constraint how far it pulls in all, over the derivative of its loss: the change of the value that
            it asks is about so many times minus that; None for what both say.
        rows: of whole layers ``rows(*shapes, **settings)``: of how many outputs' part what reaches each input is the
            mean; None for the number of copies.
        losses: of dot products, of quotients, and of functions with slopes of their own, ``losses(inputs, weights,
            **settings)``: ``1 + |a|^2 + |b|^2``, or 1 plus the squared derivatives, by which each divides what it hands
            on, in a shape that broadcasts to the output's; of dot products for a side whose places are all in
            ``weights`` with the mean of all norms.
        units: ``units(costs)``, given the costs of inputs and output, is by what these are multiplied in units
            in which they cost the same, and the operation is the same.
        alike: places of inputs, -1 for the output, that must have one cost for that.
        project_with_costs: where there are no such units, ``project(inputs, costs, output, residual, **settings)``.
        constrains_output: whether the operation is an output constraint.  All inputs but the first are then data.
        moving: how many inputs, from the first on, hold copies that move; those after them are data, of which
            ``project`` returns no change.  None for all of them, or for the first of an output constraint.
    """

    name: str
    forward: Callable[..., Array]
    project: Callable[..., tuple[tuple[Array, ...], Array | None]]
    spread: Callable[..., tuple[Array, ...]] | None = as_they_are
    increment: Callable[..., Array] | None = None
    project_tangent: Callable[..., Projected] | None = None
    common_move: Callable[..., Array | None] | None = None
    copywise: Primitive | None = None
    uneven: bool = False
    bilinear: Bilinear | None = None
    batching: Batching = Batching.EACH
    shares: Callable[..., Any] | None = None
    rows: Callable[..., tuple[Any, ...]] | None = None
    losses: Callable[..., Array] | None = None
    units: Callable[[Sequence[Array]], tuple[Array, ...]] | None = None
    alike: tuple[tuple[int, ...], ...] = ()
    project_with_costs: Callable[..., tuple[tuple[Array, ...], Array | None]] | None = None
    constrains_output: bool = False
    moving: int | None = None

    def moving_inputs(self, count: int) -> int:
        """How many of so many inputs, from the first on, hold copies that move."""
        return self.moving or (1 if self.constrains_output else count)

    @functools.cached_property
    def _counts(self) -> dict[Any, tuple[int | np.ndarray, ...]]:
        return {}

    def copies(self, *shapes: jax.ShapeDtypeStruct, **settings: Any) -> tuple[Any, ...]:
        """How many copies it holds of each element of each input: one number if all agree, traced if sizes are open."""
        if self.uneven:
            key = shapes, tuple(sorted(settings.items()))
            if is_open(*shapes):
                return _count_copies(self, *key)
            if key not in self._counts:
                self._counts[key] = tuple(map(_common, computed(functools.partial(_count_copies, self, *key))))
            return self._counts[key]
        assert self.spread is not None
        laid_out = jax.eval_shape(functools.partial(self.spread, **settings), *shapes)
        return tuple(copies.size // max(shape.size, 1) for copies, shape in zip(laid_out, shapes, strict=True))

    def growth(self, starts: Sequence[Array], changes: Sequence[Array | None], **settings: Any) -> Array | None:
        """By how much the output grows with changes of the inputs; None stands for no change."""
        if all(change is None for change in changes):
            return None
        if self.increment is not None:
            return self.increment(tuple(starts), tuple(changes), **settings)
        new = map(moved, starts, changes)
        return self.forward(*new, **settings) - self.forward(*starts, **settings)

    def parts(self, inputs: Sequence[Array], mean_loss: Any, **settings: Any) -> Sequence[float | Array]:
        """About which part of a residual reaches each input, by ``shares``, of others by the mean of ``losses``."""
        if self.constrains_output:
            return (self._pull(*inputs, **settings),) * len(inputs)
        if self.shares is not None:
            return self.shares(*inputs, **settings)
        return (0.5 if mean_loss is None else 1 / mean_loss,) * len(inputs)

    def _pull(self, value: Array, *data: Array, **settings: Any) -> Array:
        """How far an output constraint pulls in all, for what its loss falls by: as far as the loss falls along it."""
        if self.shares is not None:
            return self.shares(value, *data, **settings)
        change = self.project((value, *data), None, None, **settings)[0][0]
        size = jnp.max(jnp.abs(change), initial=0)
        along = change / jnp.where(size == 0, 1, size)
        _, slope = jax.jvp(
            lambda value: jnp.mean(self.forward(value, *data, **settings)), (value.astype(along.dtype),), (along,)
        )
        return jnp.where(slope < 0, size * jnp.sum(along * along) / jnp.where(slope < 0, -slope, 1), 1)

    def vmapped(self) -> Primitive:
        """The operation on operands that all have one more axis, the first, for each element of it."""
        forward, spread = _over_first_axis(self.forward), self.spread and _over_first_axis(self.spread)
        if self.bilinear is not None:
            norms = _over_first_axis(self.bilinear.squared_norms)
            return bilinear(self.name, forward, sides=self.bilinear.sides, spread=spread, squared_norms=norms)
        return Primitive(
            self.name,
            forward,
            _over_first_axis(self.project),
            spread,
            self.increment and _over_first_axis(self.increment),
            project_tangent=self.project_tangent and _over_first_axis(self.project_tangent),
            copywise=self.copywise and self.copywise.vmapped(),
            uneven=self.uneven,
            shares=self.shares if self.constrains_output else None,
            constrains_output=self.constrains_output,
            moving=self.moving,
        )


def moved(start: Array, change: Array | None) -> Array:
    """The value after a change; None stands for no change."""
    return start if change is None else start + change


def _over_first_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` for each element of the first axis of its arrays; settings stay as they are."""
    return lambda *arrays, **settings: jax.vmap(functools.partial(function, **settings))(*arrays)


def _count_copies(
    primitive: Primitive, shapes: tuple[jax.ShapeDtypeStruct, ...], settings: tuple[tuple[str, Any], ...]
) -> tuple[Array, ...]:
    """The number of copies of each element, by transposing what lays them out, or of dot products what forms them."""
    function = primitive.spread if primitive.bilinear is None else primitive.forward
    assert function is not None
    laid_out = functools.partial(function, **dict(settings))
    array_of_ones = jnp.ones if is_open(*shapes) else np.ones
    ones = [array_of_ones(shape.shape, np.float32) for shape in shapes]
    of_copies = jax.tree.map(lambda copies: array_of_ones(copies.shape, copies.dtype), jax.eval_shape(laid_out, *ones))
    # As one program: by itself every operation would be compiled.
    return jax.jit(lambda ones, of_copies: jax.vjp(laid_out, *ones)[1](of_copies))(ones, of_copies)


def _common(counts: Array) -> int | np.ndarray:
    """The counts, or the number that all of them are."""
    known = np.rint(np.asarray(counts, np.float64))
    if known.size and np.any(known != known.flat[0]):
        return known
    return int(known.flat[0]) if known.size else 1


def bilinear(
    name: str,
    forward: Callable[..., Array],
    *,
    sides: Sides = ((0,), (1,)),
    spread: Callable[..., tuple[Array, ...]] | None = None,
    project: Callable[..., Projected] | None = None,
    squared_norms: Callable[..., tuple[Array, Array]] | None = None,
    batching: Batching = Batching.EACH,
) -> Primitive:
    """The primitive of a bilinear map, each of whose outputs is a dot product of entries of two sides.

    ``spread`` lays the entries of each dot product out along the last axis, those that it does not have as zeros.
    ``project`` and ``squared_norms`` take the place of what follows from ``forward`` where there is something faster.
    """

    def function(x: Any, w: Any, **settings: Any) -> Array:
        return forward(*in_places((x, w), sides), **settings)

    def project_map(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> Projected:
        x, w = (side_of(inputs, side) for side in sides)
        *changes, z_change = pk.project_bilinear_map(
            functools.partial(function, **settings), x, w, output, residual=residual, increments=True
        )
        return in_places(changes, sides), z_change

    def project_factored(
        x: Any, w: Any, u: Any, v: Any, z: Array, *, residual: Array | None = None, **settings: Any
    ) -> Any:
        return pk.project_bilinear_map_factored(
            functools.partial(function, **settings), x, w, u, v, z, residual=residual
        )

    def norms(x: Any, w: Any, **settings: Any) -> tuple[Array, Array]:
        x_squares, w_squares = (jax.tree.map(lambda a: a * a, side) for side in (x, w))
        x_ones, w_ones = (jax.tree.map(jnp.ones_like, side) for side in (x, w))
        # Never negative, which compilers do not know: the one of jax 0.10 on CPUs adds up anything where it makes one
        # kernel of a product with a constant and a sum of that.
        of_x, of_w = function(x_squares, w_ones, **settings), function(x_ones, w_squares, **settings)
        return jnp.where(of_x < 0, 0, of_x), jnp.where(of_w < 0, 0, of_w)

    squared_norms = squared_norms or norms
    return Primitive(
        name,
        forward,
        project or project_map,
        spread,
        increment=bilinear_increment(forward, sides),
        copywise=_laid_out(name, sides),
        uneven=True,
        bilinear=Bilinear(sides, project_factored, squared_norms),
        batching=batching,
        losses=functools.partial(losses_of_products, sides, squared_norms),
        units=functools.partial(units_of_sides, sides),
        alike=sides,
    )


def losses_of_products(
    sides: Sides, squared_norms: Callable[..., Any], inputs: Sequence[Array], weights: Container[int], **settings: Any
) -> Array:
    """``1 + |a|^2 + |b|^2`` of each dot product, with the mean for a side of weights alone."""
    # Behind a barrier they stay what the projection forms too, and are formed once.
    norms = lax.optimization_barrier(squared_norms(*(side_of(inputs, side) for side in sides), **settings))
    means = (all(place in weights for place in side) for side in sides)
    return 1 + jnp.asarray(sum(jnp.mean(norm) if mean else norm for norm, mean in zip(norms, means, strict=True)))


def losses_by_slopes(function: Callable[[Array], Array], x: Array) -> Array:
    """``1 + f'(x)^2`` of a function of each element, 1 where nothing is handed on."""
    _, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
    losses = 1 + slope * slope
    return jnp.where(jnp.isfinite(losses), losses, 1)  # as of a square root at 0


def by_kernel(kernel: Callable[..., Any], **options: Any) -> Callable[..., Projected]:
    """The projection by a kernel that takes the inputs and then the output."""

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> Projected:
        *changes, output_change = kernel(*inputs, output, residual=residual, increments=True, **options, **settings)
        return tuple(changes), output_change

    return project


def units_of_sides(sides: Sides, costs: Sequence[Array]) -> tuple[Array, ...]:
    """The root of the output's cost over that of the other side, of the output the product of both."""
    one, other = (jnp.sqrt(costs[-1] / costs[side[0]]) for side in reversed(sides))
    units = dict.fromkeys(sides[0], one) | dict.fromkeys(sides[1], other)
    return (*(units[place] for place in range(len(units))), one * other)


def _laid_out(name: str, sides: Sides) -> Primitive:
    """The dot product of two sides whose entries lie along the last axis."""

    def forward(*inputs: Array, **_: Any) -> Array:
        return sum(
            (jnp.sum(inputs[i] * inputs[j], axis=-1) for i, j in zip(*sides, strict=True)),
            start=jnp.zeros((), inputs[0].dtype),
        )

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None, **_: Any) -> Projected:
        a, b = (jnp.concatenate([inputs[place] for place in side], axis=-1) for side in sides)
        *changes, z_change = pk.project_bilinear(a, b, output, residual=residual, increments=True)
        ends = (np.cumsum([inputs[place].shape[-1] for place in side])[:-1] for side in sides)
        parts = [tuple(jnp.split(change, at, axis=-1)) for change, at in zip(changes, ends, strict=True)]
        return in_places(parts, sides), z_change

    return Primitive(
        name,
        forward,
        project,
        increment=bilinear_increment(forward, sides),
        units=functools.partial(units_of_sides, sides),
    )


def bilinear_increment(forward: Callable[..., Array], sides: Sides) -> Callable[..., Array]:
    """The increment of a map that is linear in either side: ``F(dx, w) + F(x + dx, dw)``, with no sum of weights."""

    def increment(starts: Sequence[Array], changes: Sequence[Array | None], **settings: Any) -> Array:
        new = list(map(moved, starts, changes))
        terms = []
        for side, others in zip(sides, (starts, new), strict=True):
            if any(changes[place] is not None for place in side):
                moves = {i: jnp.zeros_like(starts[i]) if changes[i] is None else changes[i] for i in side}
                terms.append(forward(*(moves.get(i, other) for i, other in enumerate(others)), **settings))
        return jnp.asarray(sum(terms))

    return increment


def side_of(arrays: Sequence[Any], places: Sequence[int]) -> Any:
    """The arrays at some places: one alone, or a tuple."""
    return arrays[places[0]] if len(places) == 1 else tuple(arrays[place] for place in places)


def in_places(parts: Sequence[Any], sides: Sides) -> tuple[Array, ...]:
    """The arrays of both sides in the order of the inputs."""
    arrays = [array for part in parts for array in (part if isinstance(part, tuple) else (part,))]
    placed = dict(zip(itertools.chain(*sides), arrays, strict=True))
    return tuple(placed[place] for place in range(len(placed)))
