"""The operations of this package, each declared in one place."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

import pjax_kernels as pk
from pjax_core.arrays.meshes import like
from pjax_core.operations import costs
from pjax_core.operations.convolutions import spread_convolution, squared_norms_of_convolution
from pjax_core.operations.order import at_rank as case_at_rank
from pjax_core.operations.order import largest_of, project_at_rank, project_largest
from pjax_core.operations.primitive import (
    Batching,
    Bilinear,
    Primitive,
    bilinear,
    bilinear_increment,
    losses_by_slopes,
    losses_of_products,
    moved,
    units_of_sides,
)
from pjax_core.operations.smooth import widened
from pjax_kernels import compose

# Dot products.


_Projected = tuple[tuple[Array, ...], Array]


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def _by_kernel(kernel: Callable[..., Any], **options: Any) -> Callable[..., _Projected]:
    """The projection by a kernel that takes the inputs and then the output."""

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
        *changes, output_change = kernel(*inputs, output, residual=residual, increments=True, **options, **settings)
        return tuple(changes), output_change

    return project


_ONE_EACH = ((0,), (1,))
_UNITS = functools.partial(units_of_sides, _ONE_EACH)
dot = Primitive(
    "dot",
    forward=_dot,
    project=_by_kernel(pk.project_bilinear),
    increment=bilinear_increment(_dot, _ONE_EACH),
    units=_UNITS,
)


def _dot_products(x: Array, w: Array) -> tuple[Array, Array]:
    """Each dot product with its own row of ``x`` and column of ``w``."""
    copies = (x.shape[0], w.shape[1], x.shape[1])
    return jnp.broadcast_to(x[:, None, :], copies), jnp.broadcast_to(w.T[None, :, :], copies)


def _squared_norms(x: Array, w: Array) -> tuple[Array, Array]:
    """Of the rows of ``x`` and the columns of ``w``."""
    return jnp.sum(x * x, axis=1, keepdims=True), jnp.sum(w * w, axis=0, keepdims=True)


matmul = Primitive(
    "matmul",
    forward=jnp.matmul,
    project=jax.jit(_by_kernel(pk.project_dense)),  # traced once for all layers of one shape
    spread=_dot_products,
    increment=bilinear_increment(functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST), _ONE_EACH),
    copywise=dot,
    bilinear=Bilinear(_ONE_EACH, pk.project_dense_factored, _squared_norms, pk.project_dense_copies),
    batching=Batching.ROWS,
    losses=functools.partial(losses_of_products, _ONE_EACH, _squared_norms),
    units=_UNITS,
)


def _transposed_factored(x: Any, w: Any, u: Any, v: Any, z: Array, **known: Any) -> pk.FactoredChanges:
    found = pk.project_dense_factored(x, [array.T for array in w], u, v, z, **known)
    return found._replace(w_mean=found.w_mean.T)


def _transposed_copies(x: Array, w: Array, *copies: Array, **moves: Any) -> pk.DenseCopies:
    found = pk.project_dense_copies(x, w.T, *copies, **moves)
    return found._replace(w_mean=found.w_mean.T)


def _matmul_transposed(x: Array, w: Array, *, precision: Any = None) -> Array:
    return jnp.matmul(x, w.T, precision=precision)


def _squared_norms_of_transposed(x: Array, w: Array) -> tuple[Array, Array]:
    return _squared_norms(x, w.T)


matmul_transposed = replace(
    matmul,
    forward=_matmul_transposed,
    project=jax.jit(_by_kernel(pk.project_dense, transposed=True)),
    spread=lambda x, w: _dot_products(x, w.T),
    increment=bilinear_increment(functools.partial(_matmul_transposed, precision=lax.Precision.HIGHEST), _ONE_EACH),
    bilinear=Bilinear(_ONE_EACH, _transposed_factored, _squared_norms_of_transposed, _transposed_copies),
    losses=functools.partial(losses_of_products, _ONE_EACH, _squared_norms_of_transposed),
)
"""``x w^T``: products with weights (out, in), as Equinox keeps them, which stay so."""


def _aligned(a: Array, b: Array, equation: str) -> tuple[Array, Array]:
    """Both operands of an einsum with all its axes, those of the output first, of length 1 where one has none."""
    left, output = equation.split("->")
    labels = left.split(",")
    axes = output + "".join(label for label in dict.fromkeys("".join(labels)) if label not in output)

    def aligned(array: Array, own: str) -> Array:
        array = jnp.einsum(f"{own}->{''.join(label for label in axes if label in own)}", array)  # diagonals
        return jnp.expand_dims(array, [place for place, label in enumerate(axes) if label not in own])

    return aligned(a, labels[0]), aligned(b, labels[1])


def _spread_einsum(a: Array, b: Array, *, equation: str) -> tuple[Array, Array]:
    """Each dot product of an einsum along the last axis."""
    n_axes = len(equation.split("->")[1])
    a, b = jnp.broadcast_arrays(*_aligned(a, b, equation))
    return a.reshape(*a.shape[:n_axes], -1), b.reshape(*b.shape[:n_axes], -1)


def _squared_norms_of_einsum(a: Array, b: Array, *, equation: str) -> tuple[Array, Array]:
    """Of the entries of each operand in each dot product."""
    a, b = _aligned(a, b, equation)
    contracted = tuple(range(len(equation.split("->")[1]), a.ndim))

    def squared_norm(array: Array, other: Array) -> Array:
        times_each = math.prod(other.shape[axis] for axis in contracted if array.shape[axis] == 1)
        return times_each * jnp.sum(array * array, axis=contracted)

    return squared_norm(a, b), squared_norm(b, a)


einsum = bilinear(
    "einsum",
    lambda a, b, *, equation: jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST),
    spread=_spread_einsum,
    squared_norms=_squared_norms_of_einsum,
)


def _spread_multiply(a: Array, b: Array) -> tuple[Array, ...]:
    """Each product along a last axis of length 1."""
    return tuple(array[..., None] for array in jnp.broadcast_arrays(a, b))


multiply = bilinear("multiply", jnp.multiply, spread=_spread_multiply, batching=Batching.BROADCAST)


def _project_divide(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    """The same set as that of ``output * divisor = dividend``."""
    dividend, divisor = (jnp.broadcast_to(x, output.shape) for x in inputs)
    z_change, divisor_change, dividend_change = pk.project_bilinear(
        output[..., None],
        divisor[..., None],
        dividend,
        residual=None if residual is None else -divisor * residual,
        increments=True,
    )
    changes = (dividend_change, divisor_change[..., 0])
    return tuple(map(_mean_of_copies, inputs, changes)), z_change[..., 0]


def _slopes_of_quotient(dividend: Array, divisor: Array) -> tuple[Array, Array]:
    """The derivatives by dividend and divisor, 0 where they are no numbers."""
    inverse = jnp.where(divisor == 0, 0, 1 / divisor)
    return inverse, -dividend * inverse * inverse


def _losses_of_quotients(inputs: Sequence[Array], weights: Container[int]) -> Array:
    del weights
    by_dividend, by_divisor = _slopes_of_quotient(*inputs)
    return 1 + by_dividend**2 + by_divisor**2


def _onto_tangent_of_quotients(inputs: tuple[Array, ...], residual: Array) -> _Projected:
    multiplier = residual / _losses_of_quotients(inputs, ())
    changes = (multiplier * slope for slope in _slopes_of_quotient(*inputs))
    return tuple(map(_mean_of_copies, inputs, changes)), -multiplier


def _mean_of_copies(x: Array, change: Array) -> Array:
    """The mean over the copies of each element of what broadcasts."""
    if x.shape == change.shape:
        return change
    (total,) = jax.linear_transpose(lambda a: jnp.broadcast_to(a, change.shape), jnp.zeros(x.shape, change.dtype))(
        change
    )
    return total * (x.size / change.size)


divide = Primitive(
    "divide",
    forward=jnp.divide,
    project=_project_divide,
    project_tangent=_onto_tangent_of_quotients,
    spread=lambda *inputs, **_: tuple(jnp.broadcast_arrays(*inputs)),
    losses=_losses_of_quotients,
    batching=Batching.BROADCAST,
)


def _windows(x: Array, window: tuple[int, int], strides: tuple[int, int], padding: Any) -> Array:
    """The windows of padded images: ``(B, H', W', window size, C)``, zero where there is padding."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    lengths = [
        (size - extent) // stride + 1 for size, extent, stride in zip(padded.shape[1:3], window, strides, strict=True)
    ]
    entries = []
    for offset in itertools.product(*map(range, window)):
        places = [
            slice(start, start + (length - 1) * stride + 1, stride)
            for start, length, stride in zip(offset, lengths, strides, strict=True)
        ]
        entries.append(padded[:, places[0], places[1]])
    return jnp.stack(entries, axis=3)


def _spread_convolution(x: Array, w: Array, *, strides: tuple[int, int], padding: Any) -> tuple[Array, Array]:
    """Each dot product of a convolution along the last axis, zero where a window has padding."""
    window, filters = (w.shape[0], w.shape[1]), w.shape[3]
    entries = _windows(x, window, strides, padding)
    inside = _windows(jnp.ones((1, *x.shape[1:3], 1), w.dtype), window, strides, padding)
    rows = entries.reshape(*entries.shape[:3], 1, -1)
    columns = inside[..., None] * w.reshape(-1, *w.shape[2:])  # (1, H', W', window size, C, K)
    columns = jnp.moveaxis(columns, -1, 3).reshape(1, *entries.shape[1:3], filters, -1)
    shape = (*entries.shape[:3], filters, rows.shape[-1])
    return jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape)


def _squared_norms_of_windows(x: Array, w: Array, **settings: Any) -> tuple[Array, Array]:
    """Of the windows, with any filter, and of the filters, for any sample."""
    of_pixels, one_filter = jnp.sum(x * x, axis=3, keepdims=True), jnp.ones((*w.shape[:2], 1, 1), x.dtype)
    of_windows = compose.conv2d(of_pixels, one_filter, **settings)
    of_filters = compose.conv2d(jnp.ones((1, *x.shape[1:]), w.dtype), w * w, **settings)
    return jnp.maximum(of_windows, 0), jnp.maximum(of_filters, 0)


conv2d = bilinear(
    "conv2d",
    compose.conv2d,
    spread=_spread_convolution,
    project=_by_kernel(pk.project_conv2d),
    squared_norms=_squared_norms_of_windows,
    batching=Batching.ROWS,
)


def _convolution_of_any_kind(x: Array, w: Array, *, settings: tuple[tuple[str, Any], ...]) -> Array:
    x, w = (array.astype(jnp.result_type(x, w)) for array in (x, w))
    return lax.conv_general_dilated(x, w, precision=lax.Precision.HIGHEST, **dict(settings))


convolution_of_any_kind = bilinear(
    "convolution",
    _convolution_of_any_kind,
    spread=spread_convolution,
    squared_norms=functools.partial(squared_norms_of_convolution, _convolution_of_any_kind),
)


def _recurrence_products(x: Array, h: Array, w_x: Array, w_h: Array) -> Array:
    """``x w_x + h w_h``."""
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return product(x, w_x) + product(h, w_h)


def _spread_recurrence(x: Array, h: Array, w_x: Array, w_h: Array) -> tuple[Array, ...]:
    """Each dot product of a recurrence along the last axis."""

    def rows(array: Array) -> Array:
        return jnp.broadcast_to(array[..., None, :], (*array.shape[:-1], w_x.shape[1], array.shape[-1]))

    def columns(array: Array) -> Array:
        return jnp.broadcast_to(array.T, (*x.shape[:-1], *array.T.shape))

    return rows(x), rows(h), columns(w_x), columns(w_h)


def _squared_norms_of_recurrence(x: Sequence[Array], w: Sequence[Array]) -> tuple[Array, Array]:
    """Of the rows of inputs and states, and of the columns of both weights."""
    of_x, of_h = (jnp.sum(array * array, axis=-1, keepdims=True) for array in x)
    of_w_x, of_w_h = (jnp.sum(array * array, axis=0) for array in w)
    return of_x + of_h, (of_w_x + of_w_h)[None, None]


recurrence = bilinear(
    "recurrence",
    _recurrence_products,
    sides=((0, 1), (2, 3)),
    spread=_spread_recurrence,
    project=_by_kernel(pk.project_recurrence),
    squared_norms=_squared_norms_of_recurrence,
    batching=Batching.EACH,
)

# Sums.


def _broadcast(*inputs: Array, **_: Any) -> tuple[Array, ...]:
    """Each element of an input enters every element of the output that it broadcasts to."""
    return tuple(jnp.broadcast_arrays(*inputs))


def _total(*inputs: Array) -> Array:
    return jnp.asarray(sum(inputs))


def _sum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    total = jax.eval_shape(_total, *starts)
    return like(jnp.broadcast_to(sum(change for change in changes if change is not None), total.shape), total)


def _project_sum(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    return pk.project_sum(inputs, output, residual=residual, increments=True)


def _equal_shares(*inputs: Array, **_: Any) -> tuple[float, ...]:
    """A residual is shared by all inputs and the output."""
    return (1 / (len(inputs) + 1),) * len(inputs)


add = Primitive(
    "sum",
    _total,
    _project_sum,
    spread=_broadcast,
    increment=_sum_increment,
    batching=Batching.BROADCAST,
    shares=_equal_shares,
    project_with_costs=costs.project_sum,
)
identity = replace(add, name="identity")


def _signed_total(*inputs: Array, coefficients: tuple[float, ...]) -> Array:
    return _total(*(c * x for x, c in zip(inputs, coefficients, strict=True)))


def _project_signed_sum(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, coefficients: tuple[float, ...]
) -> _Projected:
    return pk.project_sum(inputs, output, coefficients=coefficients, residual=residual, increments=True)


def _signed_sum_increment(
    starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, coefficients: tuple[float, ...]
) -> Array:
    scaled = (None if d is None else c * d for d, c in zip(changes, coefficients, strict=True))
    return _sum_increment(starts, tuple(scaled))


def _shares_of_signed_sum(*inputs: Array, coefficients: tuple[float, ...]) -> tuple[float, ...]:
    return (1 / (sum(c * c for c in coefficients) + 1),) * len(inputs)


signed_sum = Primitive(
    "signed_sum",
    _signed_total,
    _project_signed_sum,
    spread=_broadcast,
    increment=_signed_sum_increment,
    shares=_shares_of_signed_sum,
    batching=Batching.BROADCAST,
    project_with_costs=costs.project_sum,
)
"""``z = c_1 x_1 + ... + c_n x_n``; setting ``coefficients``, one number for each input: differences, negations."""


def _sum_over(x: Array, *, axis: tuple[int, ...], factor: float = 1.0) -> Array:
    total = jnp.sum(x, axis)
    return total if factor == 1 else factor * total


sum_over = Primitive(
    "sum over axes",
    forward=_sum_over,
    project=_by_kernel(pk.project_sum_over),
    increment=lambda _, changes, **settings: _sum_over(jnp.asarray(changes[0]), **settings),
    shares=lambda x, *, axis, factor=1.0: (1 / (factor**2 * x.size / max(jnp.sum(x, axis).size, 1) + 1),),
)
"""``z = factor sum(x)`` over ``axis``; the mean for a ``factor`` of 1/n."""

_SMALL = 3e-4
"""Changes below this part of what they change are to first order those of a smooth function."""


def _smooth_increment(function: Callable[[Array], Array], x: Array, change: Array) -> Array:
    """``function(x + change) - function(x)``, element by element."""
    _, first_order = jax.jvp(function, (x.astype(change.dtype),), (change,))
    small = jnp.abs(change) <= _SMALL * (1 + jnp.abs(x))
    return jnp.where(small, first_order, function(x + change) - function(x))


def _with_small_residuals(
    function: Callable[[Array], Array], x: Array, output: Array, residual: Array | None, found: tuple[Array, Array]
) -> _Projected:
    """The changes that a kernel has ``found`` from values, to first order where the residual is small beside these."""
    change, output_change = found
    if residual is None:
        return (change,), output_change
    step, output_step = _first_order(function, x, residual)
    small = _is_small(residual, output)
    return (jnp.where(small, step, change),), jnp.where(small, output_step, output_change)


def _first_order(function: Callable[[Array], Array], x: Array, residual: Array) -> tuple[Array, Array]:
    """The changes of input and output for a small residual."""
    x = x.astype(residual.dtype)
    _, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
    return residual / (slope + 1 / slope), -residual / (1 + slope * slope)  # numbers where the slope is 0 or infinite


def _onto_tangent_of(forward: Callable[..., Array]) -> Callable[..., _Projected]:
    """The projection onto the tangents of a function of each element of its first input."""

    def project_tangent(inputs: tuple[Array, ...], residual: Array, **settings: Any) -> _Projected:
        x, *constants = inputs
        change, output_change = _first_order(lambda x: forward(x, *constants, **settings), x, residual)
        return (change,), output_change

    return project_tangent


def _is_small(residual: Array, output: Array) -> Array:
    return jnp.abs(residual) <= _SMALL * (1 + jnp.abs(output))


def _affine(x: Array, scale: Array, offset: Array) -> Array:
    return scale * x + offset


def _project_affine(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    x, scale, offset = inputs
    found = pk.project_affine(x, output, scale=scale, offset=offset, increments=True)
    return _with_small_residuals(lambda x: _affine(x, scale, offset), x, output, residual, found)


affine = Primitive(
    "affine",
    _affine,
    _project_affine,
    project_tangent=_onto_tangent_of(_affine),
    increment=lambda starts, changes: jnp.broadcast_to(starts[1] * changes[0], starts[0].shape),
    moving=1,
)
"""``z = scale x + offset``; ``scale`` and ``offset`` are data, of shapes that broadcast to that of ``x``."""


def _average_pool(x: Array, **settings: Any) -> Array:
    placed = _windows_of(**settings)
    zero = np.zeros((), x.dtype)  # known, or JAX would not see that this is a sum, which has a transpose
    sums = lax.reduce_window(x, zero, lax.add, placed.size, placed.strides, placed.padding)
    return sums * jnp.asarray(placed.factors, x.dtype)


def _windows_of(
    *, size: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], padding: Any, factor: float | None
) -> compose.WindowsOfArray:
    return compose.place_windows(size, window, strides, padding, factor)


def _project_average_pool(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, size: Any, **settings: Any
) -> _Projected:
    del size
    if residual is not None:  # the projection is linear in it: that of windows of zeros
        inputs, output = (jnp.zeros_like(inputs[0], residual.dtype),), residual
    change, output_change = pk.project_average_pool(inputs[0], output, increments=True, **settings)
    return (change,), output_change


def _normal_of_windows(dtype: Any, **settings: Any) -> Array:
    """What each entry of windows laid out counts, 0 where there is padding."""
    placed = _windows_of(**settings)
    return placed.spread(jnp.ones(settings["size"], dtype)) * jnp.asarray(placed.factors, dtype)[..., None]


def _project_windows_average(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any
) -> _Projected:
    (windows,) = inputs
    normal = _normal_of_windows(windows.dtype, **settings)
    residual = output - jnp.sum(normal * windows, -1) if residual is None else residual
    share = residual / (1 + jnp.sum(normal**2, -1))
    return (normal * share[..., None],), -share


def _windows_average(windows: Array, **settings: Any) -> Array:
    return jnp.sum(_normal_of_windows(windows.dtype, **settings) * windows, -1)


average_pool = Primitive(
    "average_pool",
    _average_pool,
    _project_average_pool,
    spread=lambda x, **settings: (_windows_of(**settings).spread(x),),
    copywise=Primitive(
        "windows",
        _windows_average,
        _project_windows_average,
        increment=lambda _, changes, **settings: _windows_average(jnp.asarray(changes[0]), **settings),
    ),
    increment=lambda _, changes, **settings: _average_pool(jnp.asarray(changes[0]), **settings),
    uneven=True,
)
"""``z = factor (sum of a window)``, the mean for None; settings those of :func:`pjax_kernels.project_average_pool`,
``padding`` as pairs, and ``size``, the shape of ``x``."""


def _scatter_sum(updates: Array, indices: Array, *, size: tuple[int, ...], settings: tuple[Any, Any]) -> Array:
    numbers, mode = settings
    return lax.scatter_add(jnp.zeros(size, updates.dtype), indices, updates, numbers, mode=mode)


def _project_scatter_sum(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any
) -> _Projected:
    """Each update enters one sum at most, so that a residual is shared by its updates and its output."""
    updates, indices = map(widened, inputs)
    if residual is None:
        residual = output - _scatter_sum(updates, indices, **settings)

    def sums(updates: Array) -> Array:
        return _scatter_sum(updates, indices, **settings)

    count = sums(jnp.ones(updates.shape, residual.dtype))
    share = residual / (1 + count)
    (change,) = jax.linear_transpose(sums, jax.ShapeDtypeStruct(updates.shape, residual.dtype))(share)
    return (change,), -share


scatter_sum = Primitive(
    "scatter_sum",
    _scatter_sum,
    _project_scatter_sum,
    increment=lambda starts, changes, **settings: _scatter_sum(jnp.asarray(changes[0]), starts[1], **settings),
    shares=lambda updates, indices, *, size, settings: (1 / (1 + updates.size / max(math.prod(size), 1)),) * 2,
    moving=1,
)
"""Sums of the updates that integers, which are data, send to each place of an array of a ``size``, 0 for none; the
``settings`` are the dimension numbers and the mode of :func:`jax.lax.scatter_add`."""


def _project_sum_relu(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    return pk.project_sum_relu(inputs, output, residual=residual, increments=True)


def _common_move(inputs: tuple[Array, ...], changes: tuple[Array, ...]) -> Array | None:
    """All inputs move by the same amount, which is seen where one has the shape of the output."""
    shape = jnp.broadcast_shapes(*(x.shape for x in inputs))
    return next((change for x, change in zip(inputs, changes, strict=True) if x.shape == shape), None)


def _sum_relu_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    before, growth = _total(*starts), _sum_increment(starts, changes)
    after = _total(*map(moved, starts, changes))
    return jnp.where((before > 0) & (after > 0), growth, jnp.maximum(after, 0) - jnp.maximum(before, 0))


sum_relu = Primitive(
    "sum_relu",
    forward=lambda *inputs: jnp.maximum(_total(*inputs), 0),
    project=_project_sum_relu,
    spread=_broadcast,
    increment=_sum_relu_increment,
    common_move=_common_move,
    shares=_equal_shares,
    batching=Batching.BROADCAST,
    project_with_costs=costs.project_sum_relu,
)

# Selections and steps.


def _maximum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, axis: Any) -> Array:
    (x,), (change,) = starts, changes
    assert change is not None
    return jnp.max((x - jnp.max(x, axis, keepdims=True)) + change, axis)


maximum = Primitive(
    "max",
    forward=lambda x, *, axis: jnp.max(x, axis),
    project=_by_kernel(pk.project_max),
    increment=_maximum_increment,
)


def _minimum_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, axis: Any) -> Array:
    return -_maximum_increment((-starts[0],), (-jnp.asarray(changes[0]),), axis=axis)


minimum = Primitive(
    "min",
    forward=lambda x, *, axis: jnp.min(x, axis),
    project=_by_kernel(pk.project_min),
    increment=_minimum_increment,
)


def _project_largest(inputs: tuple[Array, ...], output: Array, residual: Array | None, *, count: int) -> _Projected:
    change, output_change = project_largest(widened(inputs[0]), output, residual, count)
    return (change,), output_change


def _largest_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, count: int) -> Array:
    (x,), (change,) = starts, changes
    assert change is not None
    before, after = (jnp.argsort(-array, axis=-1)[..., :count] for array in (x, x + change))
    taken = jnp.take_along_axis
    return (taken(x, after, -1) - taken(x, before, -1)) + taken(change, after, -1)


largest = Primitive(
    "largest",
    forward=lambda x, *, count: largest_of(x, count),
    project=_project_largest,
    increment=_largest_increment,
)
"""The ``count`` largest entries along the last axis, from the largest to the smallest: of all of them, sorting."""


def _project_at_rank(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    scores, cases, ranks = map(widened, inputs)
    return project_at_rank(scores, cases, ranks, output, residual)


def _at_rank_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...]) -> Array:
    scores, cases, ranks = starts
    moves, growth = (jnp.zeros_like(x) if d is None else d for x, d in zip(starts[:2], changes[:2], strict=True))
    new = scores + moves
    return (case_at_rank(new, cases, ranks) - case_at_rank(scores, cases, ranks)) + case_at_rank(new, growth, ranks)


def _at_rank_along_tangent(inputs: tuple[Array, ...], residual: Array) -> _Projected:
    """Of a residual so small that the same case stays chosen: it takes half of it."""
    scores, cases, ranks = inputs
    places = jnp.arange(scores.shape[-1], dtype=residual.dtype)
    number = case_at_rank(scores, jnp.broadcast_to(places[:, None], (*scores.shape, 1)), ranks)
    half = residual / 2
    of_cases = jnp.where((places == number)[..., None], half[..., None, :], 0)
    return (jnp.zeros(scores.shape, half.dtype), of_cases), -half


at_rank = Primitive(
    "at_rank",
    case_at_rank,
    _project_at_rank,
    increment=_at_rank_increment,
    project_tangent=_at_rank_along_tangent,
    moving=2,
)
"""Of the cases ``(..., N, D)`` that whose score among ``(..., N)`` has the rank, 0 for the largest; data ``(...)``."""


def _chosen(score: Array, a: Array, b: Array, *, sign: int) -> Array:
    return jnp.where(sign * score > 0, a, b)


def _project_choice(inputs: tuple[Array, ...], output: Array, residual: Array | None, *, sign: int) -> _Projected:
    """The nearer of two pieces: that of the branch that is taken, and the other, with the score at 0, between both."""
    score, a, b = map(widened, inputs)
    takes_a = sign * score > 0
    taken, other = jnp.where(takes_a, a, b), jnp.where(takes_a, b, a)
    beyond = output - taken if residual is None else residual
    beyond_other = (taken - other) + beyond
    switches = score**2 + beyond_other**2 / 2 < beyond**2 / 2
    half = jnp.where(switches, beyond_other, beyond) / 2
    to_a = takes_a != switches
    changes = jnp.where(switches, -score, 0), jnp.where(to_a, half, 0), jnp.where(to_a, 0, half)
    return changes, -half


def _choice_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], *, sign: int) -> Array:
    score, a, b = starts
    score_change, *of_branches = (jnp.zeros_like(x) if d is None else d for x, d in zip(starts, changes, strict=True))
    new = score + score_change
    return (_chosen(new, a, b, sign=sign) - _chosen(score, a, b, sign=sign)) + _chosen(new, *of_branches, sign=sign)


choice = Primitive("choice", _chosen, _project_choice, increment=_choice_increment)
"""``z = a`` where ``sign score > 0``, else ``b``: a union of two pieces, with their common border 0 in both."""


def _max_pool(x: Array, *, window: tuple[int, int], strides: tuple[int, int], padding: Any, size: Any) -> Array:
    del size
    return compose.max_pool(x, window=window, strides=strides, padding=padding)


def _project_max_pool(
    inputs: tuple[Array, ...], output: Array, residual: Array | None, *, size: Any, **settings: Any
) -> _Projected:
    del size
    change, output_change = pk.project_max_pool(inputs[0], output, residual=residual, increments=True, **settings)
    return (change,), output_change


def _max_pool_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], **settings: Any) -> Array:
    assert changes[0] is not None
    (change,) = _spread_windows(changes[0], **settings)
    return _windows_increment(_spread_windows(*starts, **settings), (change,), **settings)


def _spread_windows(x: Array, *, window: Any, strides: Any, padding: Any, size: Any) -> tuple[Array]:
    """The elements of each window along the last axis."""
    del size
    return (jnp.moveaxis(_windows(x, window, strides, padding), 3, -1),)


def _without_padding(windows: Array, *, size: tuple[int, int], **settings: Any) -> Array:
    """Windows laid out, of images of a ``size``, with -inf where there is padding: never the largest."""
    (inside,) = _spread_windows(jnp.ones((1, *size, 1), windows.dtype), size=size, **settings)
    return jnp.where(inside == 0, -jnp.inf, windows)


def _project_windows(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
    windows = _without_padding(inputs[0], **settings)
    change, output_change = pk.project_max(windows, output, axis=-1, residual=residual, increments=True)
    return (jnp.where(windows == -jnp.inf, 0, change),), output_change


def _windows_increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], **settings: Any) -> Array:
    return _maximum_increment((_without_padding(*starts, **settings),), changes, axis=-1)


max_pool = Primitive(
    "max_pool",
    forward=_max_pool,
    project=_project_max_pool,
    spread=_spread_windows,
    increment=_max_pool_increment,
    copywise=Primitive(
        "windows",
        lambda x, **settings: jnp.max(_without_padding(x, **settings), -1),
        _project_windows,
        increment=_windows_increment,
    ),
    uneven=True,
    batching=Batching.ROWS,
)


def _quantize(x: Array, *, levels: int, scale: float, relaxed: bool = False) -> Array:
    """The nearest of the levels."""
    del relaxed
    place = jnp.clip(jnp.round((x / scale + 1) * ((levels - 1) / 2)), 0, levels - 1)
    return (scale * (2 * place - (levels - 1)) / (levels - 1)).astype(x.dtype)


quantize = Primitive(
    "quantize", forward=_quantize, project=_by_kernel(pk.project_quantize), batching=Batching.BROADCAST
)


def _signs(products: Array) -> Array:
    return jnp.where(products >= 0, 1, -1).astype(products.dtype)


def _project_threshold(
    inputs: tuple[Array, ...], output: Array, residual: None, *, margin: float
) -> tuple[tuple[Array, ...], Array]:
    a, b = inputs
    *changes, z_change = pk.project_threshold(a, b, output, margin=margin, increments=True)
    return tuple(changes), z_change


def _project_threshold_layer(
    inputs: tuple[Array, ...], output: Array, residual: None, *, margin: float
) -> tuple[tuple[Array, ...], Array]:
    x, w = inputs
    *changes, z_change = pk.project_threshold_dense(x, w, output, margin=margin, increments=True)
    return tuple(changes), z_change


threshold = Primitive(
    "threshold",
    forward=lambda x, w, *, margin: _signs(jnp.matmul(x, w, precision=lax.Precision.HIGHEST)),
    project=_project_threshold_layer,
    spread=lambda x, w, *, margin: _dot_products(x, w),
    copywise=Primitive("threshold", lambda a, b, *, margin: _signs(jnp.sum(a * b, axis=-1)), _project_threshold),
    batching=Batching.ROWS,
)
"""``z = sgn(x w)`` with ``|x w| >= margin``, for the rows of ``x`` and the columns of ``w``."""

# Scalar functions.


def elementwise(function: str | Callable[..., Array], name: str | None = None) -> Primitive:
    """The operation of a scalar function, by a name of :data:`pjax_kernels.ELEMENTWISE` or as it is.

    A named one takes the function's settings by keyword.  A function may have further arguments, which are data, of
    shapes that broadcast to that of the first one.
    """
    if isinstance(function, str):
        return _NAMED[function]
    return _elementwise(function, name or str(getattr(function, "__name__", "elementwise")))


def straight_through(function: Callable[[Array], Array], free: Callable[[Array], Array]) -> Primitive:
    """The operation of the scalar function ``free``, in directions with the slopes of another one of its values."""
    return replace(
        _elementwise(free, "straight-through"),
        project_tangent=_onto_tangent_of(function),
        losses=lambda inputs, weights: losses_by_slopes(function, inputs[0]),
    )


def _elementwise(function: str | Callable[..., Array], name: str) -> Primitive:
    def forward(x: Array, *constants: Array, **settings: Any) -> Array:
        if callable(function):
            return function(x, *constants)
        return compose.elementwise_function(function, (), settings).value(x)

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> _Projected:
        x, *constants = inputs

        def value(x: Array) -> Array:
            return forward(x, *constants, **settings)

        def nearest() -> tuple[Array, Array]:
            found = pk.project_elementwise(function, x, output, constants=constants, increments=True, **settings)
            (change,), output_change = _with_small_residuals(value, x, output, residual, found)
            assert output_change is not None
            return change, output_change

        if residual is None:
            change, output_change = nearest()
        else:  # below the first layers all are small, and the search for the nearest points takes most of the time
            small = jnp.all(_is_small(residual, output))
            change, output_change = lax.cond(small, lambda: _first_order(value, x, residual), nearest)
        return (change,), output_change

    def increment(starts: tuple[Array, ...], changes: tuple[Array | None, ...], **settings: Any) -> Array:
        x, *constants = starts
        return _smooth_increment(lambda x: forward(x, *constants, **settings), x, jnp.asarray(changes[0]))

    def project_with_costs(
        inputs: tuple[Array, ...], of: Sequence[Array], output: Array, residual: Array | None, **settings: Any
    ) -> _Projected:
        x, *constants = inputs
        scaled, unit = _scaled_output(forward, tuple(settings.items())), jnp.sqrt(of[1] / of[0]).astype(x.dtype)
        wide = jnp.broadcast_to(unit, x.shape)
        beyond = None if residual is None else unit * residual
        found = pk.project_elementwise(scaled, x, unit * output, constants=(*constants, wide), increments=True)
        (change,), output_change = _with_small_residuals(
            lambda x: wide * forward(x, *constants, **settings), x, unit * output, beyond, found
        )
        assert output_change is not None
        return (change,), output_change / unit

    return Primitive(
        name,
        forward,
        project,
        increment=increment,
        project_tangent=_onto_tangent_of(forward) if callable(function) or function in _SMOOTH else None,
        batching=Batching.BROADCAST if isinstance(function, str) else Batching.EACH,
        project_with_costs=project_with_costs if callable(function) or function in _SMOOTH else None,
        moving=1,
    )


_SMOOTH = frozenset({"gelu", "sigmoid", "silu", "softplus", "tanh"})
"""Functions that are smooth on the whole line, so that multiples of them are found by what is known of any function."""


@functools.lru_cache(maxsize=256)
def _scaled_output(forward: Callable[..., Array], settings: tuple[tuple[str, Any], ...]) -> Callable[..., Array]:
    """A multiple of a function, by its last argument."""
    return lambda x, *constants: constants[-1] * forward(x, *constants[:-1], **dict(settings))


_NAMED = {name: _elementwise(name, name) for name in pk.ELEMENTWISE}


def _project_clip(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> _Projected:
    x, low, high = inputs
    found = pk.project_elementwise("clip", x, output, low=low, high=high, increments=True)
    return _with_small_residuals(lambda x: jnp.clip(x, low, high), x, output, residual, found)


clip = Primitive(
    "clip",
    lambda x, low, high: jnp.clip(x, low, high),
    _project_clip,
    increment=lambda starts, changes: _smooth_increment(
        lambda x: jnp.clip(x, *starts[1:]), starts[0], jnp.asarray(changes[0])
    ),
    moving=1,
)
"""``z = min(max(x, low), high)``; the limits are data, of shapes that broadcast to that of ``x``, infinite for none."""

# Output constraints.


def _weighted_mean(losses: Array, weights: Array | None) -> Array:
    """The mean, or the mean by weights, which are 0 where a loss does not count."""
    if weights is None:
        return jnp.mean(losses)
    weights = jnp.broadcast_to(weights, losses.shape).astype(losses.dtype)
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(losses.dtype).tiny)
    return jnp.sum(jnp.where(weights == 0, 0, weights * losses)) / total


def pull_of_losses(
    shape: tuple[int, ...],
    weights: Array | None,
    strength: float | Array,
    of_weighted: Callable[[Any], Any] = lambda w: w,
) -> Array:
    """How far losses of this shape pull in all, for what their mean by the weights falls by.

    Where all weights are 0, it does not matter.  ``of_weighted`` is the pull of one by its strength times its weight.
    """
    if weights is None:
        return jnp.asarray(math.prod(shape), float) * of_weighted(strength)
    wide = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    total = jnp.sum(of_weighted(strength * jnp.broadcast_to(wide, shape)))
    return jnp.where(total == 0, 1, total)


def _margin_violation(logits: Array, labels: Array, weights: Array | None = None) -> Array:
    change = pk.project_margin(logits, labels, increments=True)
    return _weighted_mean(jnp.sum(change * change, axis=-1), weights)


def _project_margin(inputs: tuple[Array, ...], output: None, residual: None) -> tuple[tuple[Array, ...], None]:
    logits, labels, *weights = inputs
    change = pk.project_margin(logits, labels, increments=True)
    return (weights[0][..., None].astype(change.dtype) * change if weights else change,), None


margin_loss = Primitive(
    "margin_loss",
    _margin_violation,
    _project_margin,
    constrains_output=True,
    project_with_costs=costs.of_set(_project_margin),
    shares=lambda logits, _, weights=None: pull_of_losses(logits.shape[:-1], weights, 0.5),
)
"""Of logits, labels, and perhaps the fraction of the way that each row goes."""


def cross_entropy_rows(
    logits: Array, labels: Array, weights: Array | None, class_weights: ArrayLike | tuple[float, ...] | None
) -> tuple[Array, Array | None]:
    """The probabilities of each row, and its weight; None where each has weight 1."""
    indices = jnp.issubdtype(labels.dtype, jnp.integer)
    if not indices and weights is None and class_weights is None:
        return labels, None
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    # A class that is not there, such as -1, has no label, and hence its row no weight.
    labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=dtype) if indices else labels.astype(dtype)
    if class_weights is not None:
        labels = labels * jnp.asarray(class_weights, dtype)
    own = jnp.sum(labels, axis=-1)
    labels = labels / jnp.where(own == 0, 1, own)[..., None]
    return labels, own if weights is None else own * weights.astype(dtype)


def _mean_cross_entropy(
    logits: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    strength: float,
    class_weights: tuple[float, ...] | None = None,
) -> Array:
    del strength  # it weighs the loss against the movement of the logits, and there is no movement here
    labels, weights = cross_entropy_rows(logits, labels, weights, class_weights)
    # Masked classes, at -inf, have no label: nothing is lost there.
    losses = labels * jnp.where(labels == 0, 0, jax.nn.log_softmax(logits, axis=-1))
    return _weighted_mean(-jnp.sum(losses, axis=-1), weights)


def _project_cross_entropy(
    inputs: tuple[Array, ...],
    output: None,
    residual: None,
    *,
    strength: float,
    class_weights: tuple[float, ...] | None = None,
) -> tuple[tuple[Array, ...], None]:
    logits, labels, *given = inputs
    labels, weights = cross_entropy_rows(logits, labels, given[0] if given else None, class_weights)
    return (pk.prox_cross_entropy(logits, labels, strength=strength, weights=weights, increments=True),), None


def _pull_of_cross_entropy(
    logits: Array, labels: Array, *given: Array, strength: float, class_weights: tuple[float, ...] | None = None
) -> Array:
    weights = cross_entropy_rows(logits, labels, given[0] if given else None, class_weights)[1]
    return pull_of_losses(logits.shape[:-1], weights, strength)


cross_entropy = Primitive(
    "cross_entropy",
    _mean_cross_entropy,
    _project_cross_entropy,
    constrains_output=True,
    project_with_costs=costs.of_loss(_project_cross_entropy),
    shares=_pull_of_cross_entropy,
)
"""Of logits, labels (probabilities, or class numbers), and perhaps a weight for each row."""


def _error(
    name: str, error: Callable[[Array], Array], prox: Callable[..., Array], pull: Callable[[Any], Any]
) -> Primitive:
    """The output constraint of an error of each element: of a prediction, a target, and perhaps weights."""

    def mean(prediction: Array, target: Array, weights: Array | None = None, *, strength: float) -> Array:
        del strength
        return _weighted_mean(error(prediction - target), weights)

    def project(
        inputs: tuple[Array, ...], output: None, residual: None, *, strength: float
    ) -> tuple[tuple[Array, ...], None]:
        prediction, target, *weights = inputs
        options = {"weights": weights[0]} if weights else {}
        return (prox(prediction, target, strength=strength, increments=True, **options),), None

    def shares(prediction: Array, _: Array, weights: Array | None = None, *, strength: float | Array) -> Array:
        return pull_of_losses(prediction.shape, weights, strength, pull)

    with_costs = costs.of_loss(project)
    return Primitive(name, mean, project, constrains_output=True, project_with_costs=with_costs, shares=shares)


squared_error = _error("squared_error", jnp.square, pk.prox_squared_error, lambda s: s / (1 + 2 * s))
absolute_error = _error("absolute_error", jnp.abs, pk.prox_absolute_error, lambda s: s)


def _multiplied(constraint: Primitive) -> Primitive:
    """The same output constraint times a number, which comes after its other data, as the strength is."""

    def weighed(inputs: Sequence[Array]) -> tuple[Array, ...]:
        value, wanted, *weights, number = inputs
        return value, wanted, weights[0] * number if weights else number

    def value(*inputs: Array, **settings: Any) -> Array:
        return inputs[-1] * constraint.forward(*inputs[:-1], **settings)

    def project(inputs: tuple[Array, ...], *others: Any, **settings: Any) -> tuple[tuple[Array, ...], Array | None]:
        return constraint.project(weighed(inputs), *others, **settings)

    def shares(*inputs: Array, **settings: Any) -> Array:
        assert constraint.shares is not None
        return constraint.shares(*weighed(inputs), **settings) / jnp.where(inputs[-1] == 0, 1, inputs[-1])

    with_costs = costs.of_loss(project)
    return Primitive(
        constraint.name, value, project, constrains_output=True, project_with_costs=with_costs, shares=shares
    )


MULTIPLIED = {constraint: _multiplied(constraint) for constraint in (cross_entropy, squared_error, absolute_error)}
MULTIPLIED |= {constraint: constraint for constraint in MULTIPLIED.values()}
"""Output constraints times a number that is data, of those that take one, and of those that have one."""


def output_constraint(name: str, loss: Callable[..., Array], prox: Callable[..., Array] | None) -> Primitive:
    """The output constraint of a loss with its proximal operator, both functions of a prediction and of data."""
    if prox is None:
        return _constraint_by_steps(name, loss)

    def project(
        inputs: tuple[Array, ...], output: None, residual: None, **settings: Any
    ) -> tuple[tuple[Array, ...], None]:
        return (prox(*inputs, **settings) - inputs[0],), None

    return Primitive(name, loss, project, constrains_output=True)


def _constraint_by_steps(name: str, loss: Callable[..., Array]) -> Primitive:
    """The output constraint of a loss, for its proximal operator a step against the derivative."""

    def value(*inputs: Array, strength: float, **settings: Any) -> Array:
        del strength
        found = loss(*inputs, **settings)
        if jnp.shape(found):
            raise ValueError(f"{name}: the loss has shape {jnp.shape(found)}; return one number, such as its mean")
        return found

    def project(
        inputs: tuple[Array, ...], output: None, residual: None, *, strength: float, **settings: Any
    ) -> tuple[tuple[Array, ...], None]:
        prediction, *data = inputs
        slope = jax.grad(lambda prediction: value(prediction, *data, strength=strength, **settings).astype(float))(
            prediction
        )
        return (-strength * math.prod(prediction.shape[:-1]) * slope,), None

    return Primitive(name, value, project, constrains_output=True)
