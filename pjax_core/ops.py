"""NumPy-like operations, each a constraint: on traced values they build the graph, on plain arrays they compute."""

from __future__ import annotations

import builtins
import math
import string
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pjax_core import primitives
from pjax_core.messages import described
from pjax_core.operand import Operand, Result, apply, axes_of, shape_of
from pjax_core.views import broadcast_to, expand_dims, reshape, squeeze, stack
from pjax_kernels.compose import padding_pairs, positive_pair


def matmul(x: Operand, w: Operand) -> Result:
    """Matrix product ``x @ w`` as in NumPy: constraints ``z = x . w`` on every row of ``x`` and column of ``w``.

    Args:
        x: ``(..., N)``.
        w: ``(N, M)`` or ``(N,)``, or a stack ``(..., N, M)``, whose leading axes broadcast against those of ``x``.

    Returns:
        ``(..., M)``, or ``(...)`` for a vector ``w``.

    Raises:
        ValueError: the shapes do not fit.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_dense`, or for stacks
        :func:`pjax_kernels.project_bilinear_map`.
    """
    x_shape, w_shape = shape_of(x), shape_of(w)
    if not x_shape or not w_shape or x_shape[-1] != w_shape[-2:][0]:
        raise ValueError(
            f"matmul: x has shape {x_shape} and w {w_shape}; pass x of shape (..., N) and w of shape (N, M), (N,) or "
            "(..., N, M)"
        )
    if len(w_shape) > 2:
        return _stacked_matmul(x, w)
    rows = reshape(x, (-1, x_shape[-1])) if len(x_shape) != 2 else x
    columns = reshape(w, (-1, 1)) if len(w_shape) == 1 else w
    product = apply(primitives.matmul, rows, columns)
    shape = (*x_shape[:-1], *w_shape[1:])
    return product if len(shape) == 2 and len(w_shape) == 2 else reshape(product, shape)


def _stacked_matmul(x: Operand, w: Operand) -> Result:
    """The products of stacks of matrices."""
    if len(shape_of(x)) == 1:
        return squeeze(_stacked_matmul(expand_dims(x, 0), w), -2)
    try:
        stacks = jnp.broadcast_shapes(shape_of(x)[:-2], shape_of(w)[:-2])
    except ValueError:
        raise ValueError(
            f"matmul: the leading axes of x of shape {shape_of(x)} and w of shape {shape_of(w)} do not broadcast"
        ) from None
    x, w = (broadcast_to(a, (*stacks, *shape_of(a)[-2:])) for a in (x, w))
    leading = string.ascii_uppercase[: len(stacks)]
    return apply(primitives.einsum, x, w, equation=f"{leading}ij,{leading}jk->{leading}ik")


def einsum(equation: str, a: Operand, b: Operand) -> Result:
    """Sum of products by Einstein's convention, as in NumPy: a constraint for each element, a dot product.

    Args:
        equation: such as ``"bqhd,bkhd->bhqk"``; letters, with an ellipsis or without, output implicit or not.
        a: floating-point, one axis for each letter.
        b: likewise.

    Returns:
        One axis for each letter of the output.

    Raises:
        ValueError: the equation is not one of two operands, or does not fit their shapes.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_bilinear_map`.
    """
    return apply(primitives.einsum, a, b, equation=_explicit(equation, shape_of(a), shape_of(b)))


def _explicit(equation: str, a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """The equation with its output and without ellipses or spaces, for operands of these shapes."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    labels = left.split(",")
    if len(labels) != 2:
        raise ValueError(f"einsum: {equation!r} has {len(labels)} operands; pass two, as in 'ij,jk->ik'")
    spare = "".join(letter for letter in string.ascii_letters if letter not in equation)
    unnamed = [len(shape) - len(own.replace("...", "")) for own, shape in zip(labels, (a, b), strict=True)]
    ellipsis = spare[: builtins.max(unnamed)]
    named = [
        own.replace("...", ellipsis[len(ellipsis) - builtins.max(count, 0) :])
        for own, count in zip(labels, unnamed, strict=True)
    ]
    if not arrow:
        letters = "".join(named)
        output = "..." + "".join(sorted(c for c in letters if letters.count(c) == 1 and c not in ellipsis))
    output = output.replace("...", ellipsis)
    sizes: dict[str, int] = {}
    for own, shape in zip(named, (a, b), strict=True):
        if len(own) != len(shape) or not all(letter in string.ascii_letters for letter in own):
            raise ValueError(f"einsum: {equation!r} does not fit operands of shapes {a} and {b}")
        for letter, size in zip(own, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"einsum: {letter!r} in {equation!r} stands for lengths {sizes[letter]} and {size}")
    if len(set(output)) < len(output) or not set(output) <= set(sizes):
        raise ValueError(f"einsum: the output of {equation!r} repeats a letter, or has one that no operand has")
    return f"{named[0]},{named[1]}->{output}"


def conv2d(
    x: Operand,
    w: Operand,
    *,
    strides: int | tuple[int, int] = 1,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Result:
    """Two-dimensional convolution, without flipping: constraints ``z = window . filter``.

    Args:
        x: images ``(..., H, W, C)``, at least one leading axis.
        w: filters ``(h, w, C, K)``.
        strides: one number, or one for each direction.
        padding: "VALID", "SAME", or pairs of numbers of zeros before and after, which are constants, not copies.

    Returns:
        ``(..., H', W', K)``.

    Raises:
        ValueError: the shapes, strides or padding do not fit.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_conv2d`.
    """
    x_shape, w_shape = shape_of(x), shape_of(w)
    if len(x_shape) < 4 or len(w_shape) != 4 or x_shape[-1] != w_shape[2]:
        raise ValueError(
            f"conv2d: x has shape {x_shape} and w {w_shape}; pass images (..., H, W, C) and filters (h, w, C, K)"
        )
    window = _window("conv2d", x_shape[-3:-1], w_shape[:2], strides, padding)
    images = reshape(x, (-1, *x_shape[-3:])) if len(x_shape) > 4 else x
    product = apply(primitives.conv2d, images, w, strides=window["strides"], padding=window["padding"])
    return reshape(product, (*x_shape[:-3], *shape_of(product)[1:])) if len(x_shape) > 4 else product


def max_pool(
    x: Operand,
    window: int | tuple[int, int],
    *,
    strides: int | tuple[int, int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Result:
    """Largest element of each window: constraints ``z = max(window)``; where windows overlap, copies average.

    Args:
        x: images ``(..., H, W, C)``, at least one leading axis.
        window: its height and width, or one number for both.
        strides: likewise; the window's lengths by default.
        padding: "VALID", "SAME", or pairs of numbers of places before and after, which are never the largest.

    Returns:
        ``(..., H', W', C)``.

    Raises:
        ValueError: the shape, window, strides or padding do not fit.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_max_pool`.
    """
    shape = shape_of(x)
    if len(shape) < 4:
        raise ValueError(f"max_pool: x has shape {shape}; pass images (..., H, W, C)")
    extent = positive_pair("max_pool", "window", _both(window))
    settings = _window("max_pool", shape[-3:-1], extent, extent if strides is None else strides, padding)
    images = reshape(x, (-1, *shape[-3:])) if len(shape) > 4 else x
    pooled = apply(primitives.max_pool, images, window=extent, size=shape[-3:-1], **settings)
    return reshape(pooled, (*shape[:-3], *shape_of(pooled)[1:])) if len(shape) > 4 else pooled


def _window(name: str, size: tuple[int, ...], window: tuple[int, ...], strides: Any, padding: Any) -> dict[str, Any]:
    """Strides and padding as pairs; ``ValueError`` unless the window fits into the padded image."""
    pair = positive_pair(name, "strides", _both(strides))
    around = padding_pairs(name, padding, size, window, pair)
    padded = tuple(length + before + after for length, (before, after) in zip(size, around, strict=True))
    if any(a < b for a, b in zip(padded, window, strict=True)):
        raise ValueError(f"{name}: a window of {window} does not fit into images of {size} with padding {around}")
    return {"strides": pair, "padding": around}


def _both(value: Any) -> Any:
    """A positive number taken for rows and columns; all else as it is."""
    return (value, value) if isinstance(value, (int, np.integer)) and value > 0 else value


def dot(a: Operand, b: Operand) -> Result:
    """Dot product of two vectors, constraint ``z = a . b``; of arrays with more axes, :func:`matmul`.

    Args:
        a: ``(N,)``, or as for :func:`matmul`.
        b: ``(N,)``, or as for :func:`matmul`.

    Returns:
        A scalar, or as for :func:`matmul`.

    Raises:
        ValueError: the shapes do not fit.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_bilinear`.
    """
    if len(shape_of(a)) == 1 and shape_of(a) == shape_of(b):
        return apply(primitives.dot, a, b)
    return matmul(a, b)


def add(*operands: Operand) -> Result:
    """Sum of any number of operands, constraint ``z = x_1 + ... + x_n``, broadcast as in NumPy.

    Args:
        *operands: one or more, of shapes that broadcast.

    Returns:
        Their sum, in the shape to which they broadcast.

    Raises:
        ValueError: no operand, or shapes that do not broadcast.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum`.
    """
    _require_broadcast("add", operands)
    return apply(primitives.add, *operands)


def sum_relu(*operands: Operand) -> Result:
    """Rectified sum, constraint ``z = max(x_1 + ... + x_n, 0)``, broadcast as in NumPy.

    One constraint does what :func:`add` and :func:`relu` do with two, and needs fewer steps.

    Args:
        *operands: one or more, of shapes that broadcast.

    Returns:
        The positive part of their sum, in the shape to which they broadcast.

    Raises:
        ValueError: no operand, or shapes that do not broadcast.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum_relu`.
    """
    _require_broadcast("sum_relu", operands)
    return apply(primitives.sum_relu, *operands)


def relu(x: Operand) -> Result:
    """Positive part, constraint ``z = max(x, 0)``: :func:`sum_relu` of one operand.

    Args:
        x: any shape.

    Returns:
        The shape of ``x``.
    """
    return sum_relu(x)


def sum(x: Operand, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Result:
    """Sum over axes, as in NumPy: constraint ``z = x_1 + ... + x_n``.

    Args:
        x: any shape.
        axis: one axis or several; all by default.
        keepdims: keep the axes with length 1.

    Returns:
        The sums.

    Raises:
        ValueError: there is no such axis.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum_over`.
    """
    axes = axes_of(axis, len(shape_of(x)))
    return _kept(apply(primitives.sum_over, x, axis=axes), axes, keepdims)


def identity(x: Operand) -> Result:
    """``x`` itself by way of a constraint ``z = x``, which lets its consumers disagree on it for a step.

    Args:
        x: any shape.

    Returns:
        The shape of ``x``.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_sum`.
    """
    return apply(primitives.identity, x)


def max(x: Operand, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Result:
    """Over axes, the largest element, as in NumPy: constraint ``z`` equal to the largest of ``x``.

    Args:
        x: any shape.
        axis: one axis or several; all by default.
        keepdims: keep the axes with length 1.

    Returns:
        The largest elements.

    Raises:
        ValueError: there is no such axis, or no element.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_max`.
    """
    axes = axes_of(axis, len(shape_of(x)))
    if math.prod(shape_of(x)[a] for a in axes) == 0:
        raise ValueError(f"max: x has shape {shape_of(x)}, in which there is no element over axis {axis}")
    return _kept(apply(primitives.maximum, x, axis=axes), axes, keepdims)


def maximum(a: Operand, b: Operand) -> Result:
    """Elementwise the larger of two operands, broadcast as in NumPy: :func:`max` of both.

    Args:
        a: any shape.
        b: a shape that broadcasts with that of ``a``.

    Returns:
        The shape to which they broadcast.

    Raises:
        ValueError: the shapes do not broadcast.
    """
    _require_broadcast("maximum", (a, b))
    shape = jnp.broadcast_shapes(shape_of(a), shape_of(b))
    return max(stack([broadcast_to(a, shape), broadcast_to(b, shape)]), axis=0)


def _kept(reduced: Result, axes: tuple[int, ...], keepdims: bool) -> Result:
    return expand_dims(reduced, axes) if keepdims else reduced


def quantize(x: Operand, levels: int, *, scale: float = 1.0) -> Result:
    """The nearest of ``levels`` equally spaced numbers from ``-scale`` to ``scale``: not differentiable.

    Args:
        x: any shape.
        levels: how many, at least 2.
        scale: the largest level, positive.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: ``levels`` or ``scale`` is out of range.

    Source: paper, section 3.2; the projection is :func:`pjax_kernels.project_quantize`.
    """
    if isinstance(levels, bool) or not isinstance(levels, (int, np.integer)) or levels < 2:
        raise ValueError(f"quantize: levels is {described(levels)}; pass an integer of at least 2")
    if not 0 < scale < math.inf:
        raise ValueError(f"quantize: scale is {described(scale)}; pass a positive number")
    return apply(primitives.quantize, x, levels=int(levels), scale=float(scale))


def _require_broadcast(name: str, operands: Sequence[Operand]) -> None:
    shapes = [shape_of(operand) for operand in operands]
    if not shapes:
        raise ValueError(f"{name}: no operand; pass at least one")
    try:
        jnp.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name}: operands of shapes {listed} do not broadcast to one shape") from None
