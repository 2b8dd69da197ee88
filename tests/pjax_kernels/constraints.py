"""Every public kernel on rows that stand apart, and by how much a row misses its set: for extreme inputs and fuzzing.

What is missed is relative to the row's own scale: the largest of the terms that must agree, before and after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

import pjax_kernels as pk

Array = np.ndarray
Arrays = tuple[Array, ...]
Shapes = tuple[tuple[int, ...], ...]

LEVELS = (-1.0, 0.0, 0.3, 2.0)
MARGIN = 1.5
STRENGTH = 5.0
EPSILON = 1e-5
NORM = 1.5
LOW, HIGH = -0.5, 2.0
SCALE, COUNT = 1.5, 4
"""Of quantize: the highest level, and how many there are."""
NEGLIGIBLE = 2e5 * float(np.finfo(np.float32).tiny)
"""XLA takes subnormal numbers for 0."""


class Constraint(NamedTuple):
    """One kernel.

    Attributes:
        call: ``call(*arrays, **options)``, whose results are those for the first arrays, in their order.
        shapes: of the rows of each array.
        missed: ``missed(old, new)``, of arrays in float64: for each row; not negative, 1 for one that is no use at all.
        largest: numbers of each array for which float32 is right, as documented; no limit by default.
        largest_in_reference: the same for "reference".
        gives_values: whether new values are feasible to the rounding of themselves, else the changes to their own.
        kind: "set", whose projection stays where it is, and is the nearest point; "curve", of which a point may
            be the nearest of its valley alone; "other" for proximal operators, and what is linearised or left out.
        unresolved: ``unresolved(old, new)``, how much of what is missed the rounding explains, in units of that of 1.
    """

    call: Callable[..., Any]
    shapes: Shapes
    missed: Callable[[Arrays, Arrays], Array]
    largest: tuple[float, ...] = ()
    largest_in_reference: tuple[float, ...] = ()
    gives_values: bool = False
    kind: str = "set"
    unresolved: Callable[[Arrays, Arrays], Array] | None = None


class RowByRow:
    """A layer of one dot product for each row."""

    def __init__(self, of_row: Callable[..., Any]) -> None:
        self.of_row = of_row

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        return lax.map(lambda row: self.of_row(*row, **options), arrays)


def size(*arrays: Array) -> Array:
    """The largest entry of each row, of all arrays."""
    return np.max([np.abs(array.reshape(len(array), -1)).max(axis=1) for array in arrays], axis=0)


def norm(array: Array) -> Array:
    return np.linalg.norm(array.reshape(len(array), -1), axis=1)


def relative(difference: Array, scale: Array) -> Array:
    """The largest difference of each row, in units of its scale, next to which what is subnormal counts as 0."""
    return size(difference) / np.maximum(scale, NEGLIGIBLE)


# Dot products: of one row of inputs and one column of weights, so that copies need no means.


def dense(kernel: Callable[..., Any], x: Any, w: Any, z: Any, **options: Any) -> Any:
    dx, dw, dz = kernel(x[None], w[:, None], z[None, None], **options)
    return dx[0], dw[:, 0], dz[0, 0]


def convolution(x: Any, w: Any, z: Any, **options: Any) -> Any:
    images, filters = x.reshape(1, 2, 2, 1), w.reshape(2, 2, 1, 1)
    dx, dw, dz = pk.project_conv2d(images, filters, z.reshape(1, 1, 1, 1), strides=(3, 1), **options)
    return dx.reshape(x.shape), dw.reshape(w.shape), dz.reshape(())


def recurrence(x: Any, w: Any, z: Any, **options: Any) -> Any:
    steps, columns = [x[None, None, :1], x[None, None, 1:]], [w[:1, None], w[1:, None]]
    *changes, dz = pk.project_recurrence(*steps, *columns, z.reshape(1, 1, 1), **options)
    dx, dh, dw_x, dw_h = (change.ravel() for change in changes)
    return jnp.concatenate([dx, dh]), jnp.concatenate([dw_x, dw_h]), dz.reshape(())


def copies(x: Any, w: Any, z: Any, u: Any, v: Any, *, increments: bool, **options: Any) -> Any:
    assert increments
    new = pk.project_dense_copies(
        x[None], w[:, None], u[None, None], v[None, None], z[None, None], scale=(-1, -1), gain=(1, 1), **options
    )
    return new.x_mean[0], new.w_mean[:, 0], new.z_change[0, 0]


def factored(kernel: Callable[..., Any], x: Any, w: Any, z: Any, c: Any, d: Any, **options: Any) -> Any:
    """Copies ``x + c w`` and ``w + d x``."""
    assert options.pop("increments")
    c, d = c[None, None], d[None, None]
    new = kernel([x[None]], [w[:, None]], ((1.0,), (c,)), ((d,), (1.0,)), z[None, None], **options)
    return new.x_mean[0], new.w_mean[:, 0], new.z_change[0, 0]


def product_missed(old: Arrays, new: Arrays) -> Array:
    (a, b, z), scale = new, norm(old[0]) * norm(old[1])
    scale = size(z, old[2], scale, norm(a) * norm(b), unresolved(norm(old[0]), norm(old[1])))
    return relative(z - (a * b).sum(axis=1), scale)


def unresolved(of_a: Array, of_b: Array) -> Array:
    """A residual of so little that the root is subnormal, and counts as 0."""
    return NEGLIGIBLE * (of_a**2 + of_b**2)


def copies_missed(old: Arrays, new: Arrays) -> Array:
    (x, w, z), (_, _, old_z, u, v) = new[:3], old
    of_x, of_w = norm(old[0]) + norm(x) + norm(u), norm(old[1]) + norm(w) + norm(v)
    scale = size(z, old_z, of_x * of_w, unresolved(of_x, of_w))
    return relative(z - ((x - u) * (w - v)).sum(axis=1), scale)


def factored_missed(old: Arrays, new: Arrays) -> Array:
    (x, w, z), (old_x, old_w, _, c, d) = new[:3], old
    a, b = x + c[:, None] * old_w, w + d[:, None] * old_x
    return relative(z - (a * b).sum(axis=1), factored_scale(old, new))


def factored_scale(old: Arrays, new: Arrays) -> Array:
    (x, w, z), (old_x, old_w, old_z, *_), (of_a, of_b) = new[:3], old, sizes_of_terms(old)
    return size(z, old_z, (of_a + norm(x - old_x)) * (of_b + norm(w - old_w)))


def sizes_of_terms(old: Arrays) -> tuple[Array, Array]:
    x, w, _, c, d = old
    return norm(x) + abs(c) * norm(w), norm(w) + abs(d) * norm(x)


def unresolved_by_inner_products(old: Arrays, new: Arrays) -> Array:
    """What a kernel misses that knows nothing but inner products of the operands, in units of their rounding.

    Their errors are those of the terms, however much these cancel.  The squares of ``u - v`` and ``u + v`` miss so
    much, and become ``1/(1 + t)^2`` and ``1/(1 - t)^2`` as large.  That has no limit where ``u = v`` or ``u = -v``, and
    the projection may be set-valued: what is free is not in the span of the operands, and left out.
    """
    x, w, z, c, d = old
    u, v = x + c[:, None] * w, w + d[:, None] * x
    free = np.minimum(norm(u + v), norm(u - v)) <= 1e-6 * (norm(u) + norm(v)) + 1e-12
    t, terms = z - new[2], sum(sizes_of_terms(old)) ** 2
    with np.errstate(divide="ignore"):
        grown = (1 - t) ** -2 + (1 + t) ** -2
    return np.where(free, np.inf, 4 * terms * grown / np.maximum(factored_scale(old, new), NEGLIGIBLE))


def threshold_missed(old: Arrays, new: Arrays) -> Array:
    """To the rounding of the squared norms, as documented."""
    (a, b, z), product = new, (new[0] * new[1]).sum(axis=1)
    scale = MARGIN + norm(a) ** 2 + norm(b) ** 2 + norm(old[0]) ** 2 + norm(old[1]) ** 2
    sign = np.where(size(old[2]) < 1e5, np.sign(z), np.sign(product))  # of a large z the rest is lost in the change
    short = np.maximum(MARGIN - sign * product, 0)
    return np.maximum(relative(short, scale), relative(np.abs(z) - 1, 1 + size(old[2])))


def layer_missed(old: Arrays, new: Arrays) -> Array:
    """Linearised, it is no set: nothing but finite."""
    del old
    return np.zeros(len(new[0]))


# Sums.


def affine_missed(old: Arrays, new: Arrays) -> Array:
    return relative(new[1] - (2 * new[0] - 0.5), size(*old, *new) + 0.5)


def sum_missed(coefficients: Sequence[float], old: Arrays, new: Arrays) -> Array:
    *inputs, z = new
    return relative(z - sum(c * x for c, x in zip(coefficients, inputs, strict=True)), size(*old, *new))


def sum_over_missed(old: Arrays, new: Arrays) -> Array:
    return relative(new[1] - new[0].sum(axis=1), size(*old, *new))


def sum_relu_missed(old: Arrays, new: Arrays) -> Array:
    x, y, z = new
    return relative(z - np.maximum(x + y, 0), size(*old, *new))


def average_pool_missed(old: Arrays, new: Arrays) -> Array:
    x, z = new
    return relative(z - (x[:, 0::3][:, :3] + x[:, 1::3][:, :3]) / 2, size(*old, *new))


# Choices and steps.


def max_missed(old: Arrays, new: Arrays) -> Array:
    return relative(new[1] - new[0].max(axis=1), size(*old, *new))


def min_missed(old: Arrays, new: Arrays) -> Array:
    return relative(new[1] - new[0].min(axis=1), size(*old, *new))


def max_pool_missed(old: Arrays, new: Arrays) -> Array:
    x, z = new
    maxima = np.max([x[:, i::3, j::2][:, :2, :2] for i in range(2) for j in range(2)], axis=0)
    return relative(z - maxima, size(*old, *new))


def quantize_missed(old: Arrays, new: Arrays) -> Array:
    x, z = new
    levels = np.linspace(-SCALE, SCALE, COUNT)
    nearest = np.abs(np.clip(x, -SCALE, SCALE)[..., None] - levels).min(axis=-1)  # of x to any level
    beyond = np.abs(np.clip(x, -SCALE, SCALE) - z) - nearest
    off_level = np.abs(z[..., None] - levels).min(axis=-1)
    return relative(np.maximum(beyond, off_level), SCALE + size(*old))


def relaxed_missed(old: Arrays, new: Arrays) -> Array:
    """The line through the old ``x`` and its level."""
    levels = np.linspace(-SCALE, SCALE, COUNT)
    distances = np.abs(np.clip(old[0], -SCALE, SCALE)[..., None] - levels)
    nearest = distances <= distances.min(axis=-1, keepdims=True) + 1e-6  # up to rounding
    rise = (np.abs(old[0]) <= SCALE) * (new[0] - old[0])
    missed = np.abs((new[1] - rise)[..., None] - levels)
    return relative(np.where(nearest, missed, np.inf).min(axis=-1), SCALE + size(*old))


# Scalar functions and normalisation.

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "exp": np.exp,
    "log": lambda x: np.log(np.maximum(x, 0)),
    "abs": np.abs,
    "square": np.square,
    "sqrt": lambda x: np.sqrt(np.maximum(x, 0)),
}


def elementwise_missed(f: Callable[[Array], Array], old: Arrays, new: Arrays) -> Array:
    """How far along ``x`` or ``z`` the graph is, which may be steep."""
    (x, z), (width, height) = new, (np.abs(a) + np.abs(b) + NEGLIGIBLE for a, b in zip(old, new, strict=True))
    missed = np.full(x.shape, np.inf)
    for step in (0, 1e-15, 1e-13, 1e-10, 1e-7, 1e-6, 3e-6, 1e-5, 1e-3, 1):
        ends = f(x - step * width), f(x), f(x + step * width)
        above, below = z - np.maximum.reduce(ends), np.minimum.reduce(ends) - z
        missed = np.minimum(missed, np.maximum(step, np.maximum(above, below) / height))
    return size(missed)


def normalize_missed(old: Arrays, new: Arrays) -> Array:
    x, z = new
    below = x - x.mean(axis=1, keepdims=True)
    root = np.sqrt((below**2).mean(axis=1, keepdims=True) + EPSILON)
    # Entries whose squares are subnormal count as 0.
    return relative(z - below / root, 1e-12 + size(old[1]) + size(old[0], x) / root[:, 0])


# Output constraints.


def labels_like(logits: Any) -> Any:
    """One class of each row."""
    rows, classes = logits.shape
    return jnp.eye(classes, dtype=logits.dtype)[jnp.arange(rows) % classes]


def margin(logits: Any, **options: Any) -> Any:
    return (pk.project_margin(logits, labels_like(logits), **options),)


def margin_missed(old: Arrays, new: Arrays) -> Array:
    labels = np.asarray(labels_like(new[0]))
    return relative(np.where(labels > 0, np.maximum(labels - new[0], 0), np.maximum(new[0], 0)), 1 + size(*old))


def cross_entropy(logits: Any, **options: Any) -> Any:
    return (pk.prox_cross_entropy(logits, labels_like(logits), strength=STRENGTH, **options),)


def cross_entropy_missed(old: Arrays, new: Arrays) -> Array:
    (x,) = new
    weights = np.exp(x - x.max(axis=1, keepdims=True))
    pull = STRENGTH * (np.asarray(labels_like(x)) - weights / weights.sum(axis=1, keepdims=True))
    return relative(x - old[0] - pull, STRENGTH + size(old[0]))


def squared_error_missed(old: Arrays, new: Arrays) -> Array:
    x, target = old
    return relative((new[0] - x) - (target - x) * (10 / 11), size(*old))


def absolute_error_missed(old: Arrays, new: Arrays) -> Array:
    x, target = old
    return relative((new[0] - x) - np.clip(target - x, -STRENGTH, STRENGTH), size(*old))


# Sets.


def box_missed(old: Arrays, new: Arrays) -> Array:
    return relative(new[0] - np.clip(new[0], LOW, HIGH), 1 + size(*old))


def sphere_missed(_: Arrays, new: Arrays) -> Array:
    return np.abs(norm(new[0]) - NORM)


def levels_missed(_: Arrays, new: Arrays) -> Array:
    return size(np.abs(new[0][..., None] - np.array(LEVELS)).min(axis=-1))


def sparse_missed(_: Arrays, new: Arrays) -> Array:
    return (np.sum(new[0] != 0, axis=1) > 2).astype(np.float64)


def one_hot_missed(_: Arrays, new: Arrays) -> Array:
    return size(np.sort(new[0], axis=1) - [-1, -1, -1, -1, 1])


def simplex_missed(_: Arrays, new: Arrays) -> Array:
    return np.maximum(np.abs(new[0].sum(axis=1) - 1), np.maximum(-new[0].min(axis=1), 0))


def orthonormal_missed(_: Arrays, new: Arrays) -> Array:
    return size(np.swapaxes(new[0], 1, 2) @ new[0] - np.eye(3))


DOT: Shapes = ((4,), (4,), ())
FACTORED: Shapes = (*DOT, (), ())
ROW: Shapes = ((5,),)
PAIR: Shapes = ((5,), (5,))
TRIPLE: Shapes = ((5,), (5,), (5,))
REDUCED: Shapes = ((5,), ())
LAYER: Shapes = ((2, 3), (3, 2), (2, 2))

SQUARES = (1e18, 1e18)
"""Sums of squares of numbers that large are finite."""


def inputs_first(kernel: Callable[..., Any], x: Any, y: Any, z: Any, **options: Any) -> Any:
    (dx, dy), dz = kernel((x, y), z, **options)
    return dx, dy, dz


def alone(kernel: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """Of kernels that return one array."""
    return (kernel(*arrays, **options),)


def of_dots(call: Callable[..., Any], *, rows: bool = False) -> Constraint:
    """``z = a . b``; the reference in float32 is a number short of the largest ``z``."""
    call = call if rows else RowByRow(partial(dense, call))
    return Constraint(call, DOT, product_missed, (*SQUARES, math.inf), (*SQUARES, 1e20))


def of_factored(kernel: Callable[..., Any]) -> Constraint:
    """Coefficients multiply what is squared; without what is free a projection is not the nearest point."""
    limits, in_reference = ((1e9, 1e9, of_z, 1e9, 1e9) for of_z in (math.inf, 1e20))
    call, unresolved = RowByRow(partial(factored, kernel)), unresolved_by_inner_products
    return Constraint(call, FACTORED, factored_missed, limits, in_reference, kind="other", unresolved=unresolved)


def of_threshold(call: Callable[..., Any]) -> Constraint:
    """Squares of squares are finite."""
    return Constraint(call, DOT, threshold_missed, (1e9, 1e9, math.inf))


def of_layer(rule: str) -> Constraint:
    """Products of three numbers are finite."""
    call = RowByRow(partial(pk.project_layer, jnp.matmul, rule=rule))
    return Constraint(call, LAYER, layer_missed, (1e12,) * 3, kind="other")


def of_function(name: str, f: Callable[[Array], Array]) -> Constraint:
    """The reference, which searches a grid, is an oracle for numbers of usual sizes."""
    largest = SQUARES if name == "square" else ()
    call = partial(pk.project_elementwise, name)
    return Constraint(call, PAIR, partial(elementwise_missed, f), largest, (1e4, 1e4), kind="curve")


def of_error(kernel: Callable[..., Any], missed: Any) -> Constraint:
    return Constraint(partial(alone, partial(kernel, strength=STRENGTH)), PAIR, missed, kind="other")


def of_set(kernel: Callable[..., Any], missed: Any, *shape: int) -> Constraint:
    return Constraint(partial(alone, kernel), (shape or (5,),), missed, gives_values=True)


CONSTRAINTS: dict[str, Constraint] = {
    "project_bilinear": of_dots(pk.project_bilinear, rows=True),
    "project_dense": of_dots(pk.project_dense),
    "project_dense_copies": Constraint(
        RowByRow(copies), (*DOT, (4,), (4,)), copies_missed, (*SQUARES, math.inf, *SQUARES), (*SQUARES, 1e20, *SQUARES)
    ),
    "project_dense_factored": of_factored(pk.project_dense_factored),
    "project_conv2d": of_dots(RowByRow(convolution), rows=True),
    "project_recurrence": of_dots(RowByRow(recurrence), rows=True),
    "project_bilinear_map": of_dots(partial(pk.project_bilinear_map, jnp.matmul)),
    "project_bilinear_map_factored": of_factored(partial(pk.project_bilinear_map_factored, jnp.matmul)),
    "project_layer": of_layer("rank one"),
    "project_layer, apart": of_layer("apart"),
    "project_layer, coupled": of_layer("coupled"),
    "project_affine": Constraint(partial(pk.project_affine, scale=2.0, offset=-0.5), PAIR, affine_missed),
    "project_sum": Constraint(partial(inputs_first, pk.project_sum), TRIPLE, partial(sum_missed, (1, 1))),
    "project_sum, difference": Constraint(
        partial(inputs_first, partial(pk.project_sum, coefficients=(1.5, -1.0))),
        TRIPLE,
        partial(sum_missed, (1.5, -1.0)),
    ),
    "project_sum_over": Constraint(partial(pk.project_sum_over, axis=1), REDUCED, sum_over_missed),
    "project_sum_relu": Constraint(partial(inputs_first, pk.project_sum_relu), TRIPLE, sum_relu_missed),
    "project_max": Constraint(pk.project_max, REDUCED, max_missed),
    "project_min": Constraint(pk.project_min, REDUCED, min_missed),
    "project_max_pool": Constraint(
        partial(pk.project_max_pool, window=(2, 2), strides=(3, 2)), ((5, 4, 1), (2, 2, 1)), max_pool_missed
    ),
    "project_average_pool": Constraint(
        partial(pk.project_average_pool, window=(1, 2), strides=(1, 3)), ((8,), (3,)), average_pool_missed
    ),
    **{f"project_elementwise, {name}": of_function(name, f) for name, f in FUNCTIONS.items()},
    "project_normalize": Constraint(
        partial(pk.project_normalize, epsilon=EPSILON), PAIR, normalize_missed, SQUARES, kind="curve"
    ),
    "project_quantize": Constraint(partial(pk.project_quantize, levels=COUNT, scale=SCALE), PAIR, quantize_missed),
    "project_quantize, relaxed": Constraint(
        partial(pk.project_quantize, levels=COUNT, scale=SCALE, relaxed=True), PAIR, relaxed_missed, kind="other"
    ),
    "project_threshold": of_threshold(partial(pk.project_threshold, margin=MARGIN)),
    "project_threshold_dense": of_threshold(
        RowByRow(partial(dense, partial(pk.project_threshold_dense, margin=MARGIN)))
    ),
    "project_margin": Constraint(margin, ROW, margin_missed),
    "prox_cross_entropy": Constraint(cross_entropy, ROW, cross_entropy_missed, kind="other"),
    "prox_squared_error": of_error(pk.prox_squared_error, squared_error_missed),
    "prox_absolute_error": of_error(pk.prox_absolute_error, absolute_error_missed),
    "project_box": Constraint(partial(alone, partial(pk.project_box, low=LOW, high=HIGH)), ROW, box_missed),
    "project_sphere": of_set(partial(pk.project_sphere, norm=NORM), sphere_missed),
    "project_levels": of_set(partial(pk.project_levels, levels=LEVELS), levels_missed),
    "project_sparse": of_set(partial(pk.project_sparse, count=2), sparse_missed),
    "project_one_hot": of_set(partial(pk.project_one_hot, low=-1.0), one_hot_missed),
    "project_simplex": of_set(pk.project_simplex, simplex_missed),
    "project_orthonormal": of_set(pk.project_orthonormal, orthonormal_missed, 4, 3),
}
