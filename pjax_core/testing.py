"""A numerical test of any projection: is its result feasible, nearest, and where it stays when projected again?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from pjax_core.arrays.meshes import Shape
from pjax_core.copies.count import spread
from pjax_core.graph.nodes import Node, Operation, Parameter, fixed_value
from pjax_core.graph.rewrite import rewritten
from pjax_core.trace.jaxpr import values_of
from pjax_core.trace.operations import slot_of
from pjax_core.trace.values import Loss

_STEPS = 5_000
_SCALES = (1e-6, 1e-4, 1e-2, 0.1, 1.0, 3.0)
"""Standard deviations of the steps to sampled points, relative to the size of the inputs."""


_SIDES = 16
"""Of a jump, tried besides those where all coordinates are larger, or all smaller: ties break either way."""


def check_projection(
    operation: Callable[..., Any],
    inputs: Sequence[ArrayLike],
    output: ArrayLike | None = None,
    *,
    samples: int = 200,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Raise ``AssertionError`` unless the projection of an operation is one at this point, as far as numbers tell.

    The point is moved to float64 and projected.  Its projection must be feasible, no farther than any of many sampled
    feasible points nor than those that a local search without gradients finds, and not move when projected again.
    Where the operation holds several copies of its inputs, each is a coordinate.

    Args:
        operation: of this package or made by :func:`primitive` or :func:`bilinear`; settings by ``functools.partial``.
        inputs: the arrays that it takes; small ones, since the local search tries all coordinates.
        output: the estimate of the output; by default a random one around ``operation(*inputs)``.
        samples: the number of feasible points to sample at each of several distances.
        tolerance: the largest error that counts as rounding, relative to the size of the point.
        seed: of the samples.

    Raises:
        AssertionError: it is not a projection; the message says what fails, by how much and where.
        TypeError: ``inputs`` is an array.
        ValueError: the operation makes no constraint or more than one, or cannot lay out its copies.
    """
    if hasattr(inputs, "shape"):
        raise TypeError(f"check_projection: inputs is an array of shape {inputs.shape}; pass a list of arrays")
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x, jnp.float64) for x in inputs]
        constraint = _constraint(_operation(operation, arrays), arrays)
        generator = np.random.default_rng(seed)
        (estimate,) = constraint.forward(constraint.start[None])
        if output is not None:
            estimate = np.broadcast_to(np.asarray(output, np.float64), estimate.shape)
        else:
            estimate = estimate + generator.normal(size=estimate.shape) * (1 + np.abs(estimate).max(initial=0))
        _check(constraint, estimate, samples, tolerance, generator)


class _Constraint(NamedTuple):
    """The operation as functions of one vector that holds all copies of its inputs."""

    name: str
    start: np.ndarray
    places: list[str]  # which element of which input each coordinate is
    forward: Callable[[np.ndarray], np.ndarray]  # of a stack of vectors
    project: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _operation(operation: Callable[..., Any], inputs: list[jax.Array]) -> Operation:
    """The only constraint that an operation makes of these inputs."""
    shapes = [Shape(x.shape, x.dtype) for x in inputs]
    leaves = [Parameter(f"inputs[{i}]", shape, i) for i, shape in enumerate(shapes)]
    values = values_of(operation, shapes, leaves)
    slots = [slot_of(value) for value in values if not isinstance(value, Loss)]
    node = slots[0].sources[0] if len(values) == len(slots) == 1 and len(slots[0].sources) == 1 else None
    if not isinstance(node, Operation) or node.feedback is not None:
        raise ValueError(
            f"check_projection: the operation returned {values!r}; pass one that makes one constraint with an output, "
            "such as jax.nn.relu"
        )
    (node,) = rewritten([node])
    if any(isinstance(source, Operation) for slot in node.slots for source in slot.sources):
        raise ValueError("check_projection: the operation makes several constraints; check each by itself")
    if node.primitive.spread is None:
        raise ValueError(f"check_projection: {node.name} has no layout of its copies; give pj.bilinear a spread")
    return node


def _constraint(node: Operation, inputs: list[jax.Array]) -> _Constraint:
    """The operation's constraint on the copies of these inputs, with those that do not move as they are."""

    def value(source: Node) -> jax.Array:
        return inputs[source.index] if isinstance(source, Parameter) else fixed_value(source)

    primitive = node.primitive.copywise or node.primitive
    laid_out = spread(node)(*(slot.read(value) for slot in node.slots))
    moving = node.primitive.moving_inputs(len(laid_out))
    start, parts = jax.flatten_util.ravel_pytree(laid_out[:moving])
    fixed = laid_out[moving:]

    def forward(vector: jax.Array) -> jax.Array:
        return primitive.forward(*parts(vector), *fixed, **node.settings)

    def project(vector: jax.Array, output: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = (*parts(vector), *fixed)
        changes, output_change = primitive.project(inputs, output, None, **node.settings)
        assert output_change is not None
        move = None if primitive.common_move is None else primitive.common_move(inputs, changes)
        new = (
            output + output_change if move is None else primitive.forward(*(x + move for x in inputs), **node.settings)
        )
        return vector + jax.flatten_util.ravel_pytree(changes)[0], new

    inputs_laid_out = enumerate(copies.shape for copies in laid_out[:moving])
    places = [f"inputs[{number}]{list(place)}" for number, shape in inputs_laid_out for place in np.ndindex(shape)]
    return _Constraint(node.name, np.asarray(start), places, _on_numpy(jax.vmap(forward)), _on_numpy(project))


def _on_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = jax.jit(function)
    return lambda *arrays: jax.tree.map(np.asarray, compiled(*arrays))


def _check(
    c: _Constraint, estimate: np.ndarray, samples: int, tolerance: float, generator: np.random.Generator
) -> None:
    """Raise ``AssertionError`` if one of the four properties fails."""
    size = 1 + max(np.abs(c.start).max(initial=0), np.abs(estimate).max(initial=0))
    limit = tolerance * size
    nearest, output = c.project(c.start, estimate)
    for what, array in (("inputs", nearest), ("output", output)):
        if not np.isfinite(array).all():
            raise AssertionError(f"{c.name}: the projection has {what} that are not finite: {array}")
    _check_feasible(c, nearest, output, limit)

    def distance(points: np.ndarray) -> np.ndarray:
        outputs = c.forward(points)
        others = tuple(range(1, outputs.ndim))
        return np.sum((points - c.start) ** 2, axis=1) + np.sum((outputs - estimate) ** 2, axis=others)

    reached = np.sqrt(np.sum((nearest - c.start) ** 2) + np.sum((output - estimate) ** 2))
    candidates = _samples(c.start, nearest, samples, size, generator)
    best = candidates[np.argmin(distance(candidates))]
    searches = (("a local search", _search(distance, start, size)) for start in (nearest, c.start, best))
    for what, point in itertools.chain([("a sampled point", best)], searches):
        found = np.sqrt(distance(point[None])[0])
        if found < reached - limit:  # by more than rounding can tell, since distances are squared
            raise AssertionError(
                f"{c.name}: the projected point is not the nearest: it is at distance {reached:.6g}, and {what} "
                f"found a feasible point at {found:.6g}, {reached - found:.3g} nearer; they differ most at "
                f"{c.places[np.argmax(np.abs(point - nearest))]}, by {np.abs(point - nearest).max():.3g}"
            )

    again, output_again = c.project(nearest, output)
    moved, by_output = np.abs(again - nearest), np.abs(output_again - output).max(initial=0)
    by = max(moved.max(initial=0), by_output)
    if by > limit:
        where = c.places[np.argmax(moved)] if moved.max(initial=0) > limit else "the output"
        raise AssertionError(f"{c.name}: projecting the projected point again moves {where} by {by:.3g}")


def _check_feasible(c: _Constraint, nearest: np.ndarray, output: np.ndarray, limit: float) -> None:
    """At a jump of the operation the values on either side count as feasible."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_SIDES, nearest.size))
    around = nearest + 0.5 * limit * np.concatenate(
        [np.array([0.0, 1.0, -1.0])[:, None] * np.ones(nearest.size), signs]
    )
    outputs = c.forward(around)
    violations = np.min(np.abs(outputs - output), axis=0)
    if violations.max(initial=0) > limit:
        worst = np.unravel_index(np.argmax(violations), violations.shape)
        raise AssertionError(
            f"{c.name}: the projected point is not feasible: output{[int(i) for i in worst]} is "
            f"{output[worst]:.6g}, but the operation of the projected inputs is {outputs[0][worst]:.6g}, "
            f"which is {violations[worst]:.3g} away"
        )


def _samples(
    start: np.ndarray, nearest: np.ndarray, count: int, size: float, generator: np.random.Generator
) -> np.ndarray:
    """Points around the start and the projection, on the way from one to the other, and with one coordinate moved."""
    steps = (
        generator.normal(size=(len(_SCALES), 2, count, start.size)) * (size * np.array(_SCALES))[:, None, None, None]
    )
    sparse = steps * (generator.integers(start.size, size=(len(_SCALES), 2, count, 1)) == np.arange(start.size))
    centres = np.stack([start, nearest])[None, :, None]
    between = start + generator.uniform(-0.5, 1.5, (count, 1)) * (nearest - start)
    return np.concatenate(
        [(centres + steps).reshape(-1, start.size), (centres + sparse).reshape(-1, start.size), between]
    )


def _search(distance: Callable[[np.ndarray], np.ndarray], start: np.ndarray, size: float) -> np.ndarray:
    """Compass search: the best of steps in all directions of all coordinates, ever smaller; no gradient.

    It ends after so many steps too: along a ridge, as of ties, it would take a million small ones.
    """
    directions = np.concatenate([np.eye(start.size), -np.eye(start.size)])
    point, best, step = start, float(distance(start[None])[0]), size
    for _ in range(_STEPS):
        if step <= 1e-9 * size:
            break
        candidates = point + step * directions
        distances = distance(candidates)
        if distances.min() < best * (1 - 1e-12):
            point, best = candidates[np.argmin(distances)], float(distances.min())
        else:
            step /= 2
    return point
