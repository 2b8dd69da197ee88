"""Equations that are put together from others: functions of JAX that are traced in their place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

Function = Callable[..., Array]


def _product(params: Mapping[str, Any]) -> Function:
    """Products of two, of these products, and so on: as few as can be one after the other."""
    axes = params["axes"]

    def product(x: Array) -> Array:
        x = jnp.moveaxis(x, axes, range(-len(axes), 0))
        x = x.reshape(*x.shape[: x.ndim - len(axes)], math.prod(x.shape[x.ndim - len(axes) :]))
        if not x.shape[-1]:
            return jnp.ones(x.shape[:-1], x.dtype)
        while x.shape[-1] > 1:
            half = x.shape[-1] // 2
            x = jnp.concatenate([x[..., :half] * x[..., half : 2 * half], x[..., 2 * half :]], -1)
        return x[..., 0]

    return product


def _cumulative(combine: Function) -> Callable[[Mapping[str, Any]], Function]:
    """Of all entries so far: of two, then of four, and so on."""

    def of_params(params: Mapping[str, Any]) -> Function:
        def cumulative(x: Array) -> Array:
            x = jnp.moveaxis(x, params["axis"], 0)
            x = x[::-1] if params["reverse"] else x
            step = 1
            while step < len(x):
                x = jnp.concatenate([x[:step], combine(x[step:], x[:-step])])
                step *= 2
            return jnp.moveaxis(x[::-1] if params["reverse"] else x, 0, params["axis"])

        return cumulative

    return of_params


def _scattered_values(params: Mapping[str, Any]) -> Function | None:
    """At indices that may repeat, by the number of the update that is written last; None where a view says it all."""
    if params["unique_indices"]:
        return None

    def function(x: Array, indices: Array, updates: Array) -> Array:
        numbers = jnp.arange(1, updates.size + 1).reshape(updates.shape)
        written = jnp.zeros(x.shape, numbers.dtype)
        written = lax.scatter(written, indices, numbers, params["dimension_numbers"], mode=params["mode"])
        return jnp.where(written == 0, x, jnp.take(updates, jnp.maximum(written - 1, 0)))

    return function


def _scattered_factors(params: Mapping[str, Any]) -> Function:
    if not params["unique_indices"]:
        raise NotImplementedError(
            ".at[].multiply at indices that may repeat; pass unique_indices=True if none does, else multiply by "
            "jnp.prod of what is gathered"
        )

    def function(x: Array, indices: Array, updates: Array) -> Array:
        settings = {"unique_indices": True, "mode": params["mode"]}
        return x * lax.scatter(jnp.ones_like(x), indices, updates, params["dimension_numbers"], **settings)

    return function


def _scattered_differences(params: Mapping[str, Any]) -> Function:
    return lambda x, indices, updates: lax.scatter_add(
        x, indices, -updates, params["dimension_numbers"], mode=params["mode"]
    )


def _windows(reduce: Function, outside: float) -> Callable[[Mapping[str, Any]], Function]:
    """Of windows, from arrays that have one element of each: pools over any axes, with dilation."""

    def of_params(params: Mapping[str, Any]) -> Function:
        lengths, strides = params["window_dimensions"], params["window_strides"]
        apart, spacing = params["base_dilation"], params["window_dilation"]

        def function(x: Array) -> Array:
            pads = [(low, high, step - 1) for (low, high), step in zip(params["padding"], apart, strict=True)]
            x = lax.pad(x, jnp.asarray(outside, x.dtype), pads)
            elements = []
            for place in itertools.product(*map(range, lengths)):
                last = [n - (k - 1) * step for n, k, step in zip(x.shape, lengths, spacing, strict=True)]
                first = [i * step for i, step in zip(place, spacing, strict=True)]
                ends = [start + n for start, n in zip(first, last, strict=True)]
                elements.append(lax.slice(x, first, ends, strides))
            return reduce(jnp.stack(elements), axis=0)

        return function

    return of_params


def _scattered(reduce: Function, neutral: float) -> Callable[[Mapping[str, Any]], Function]:
    """Of what is at each place and of the rows that integers of data send there, among all rows."""

    def of_params(params: Mapping[str, Any]) -> Function:
        numbers, clips = params["dimension_numbers"], params["mode"] == lax.GatherScatterMode.CLIP

        def function(x: Array, indices: Array, updates: Array) -> Array:
            whole_rows = tuple(range(1, updates.ndim))
            rows = numbers.inserted_window_dims == numbers.scatter_dims_to_operand_dims == (0,)
            if not rows or numbers.update_window_dims != whole_rows or updates.ndim != x.ndim or clips:
                raise NotImplementedError(
                    "the largest or smallest at clipped places, or at places other than whole rows; write jnp.where"
                )
            is_there = indices == jnp.arange(len(x))[:, None, None]
            is_there = is_there.reshape(len(x), len(updates), *(1,) * (updates.ndim - 1))
            is_empty = (x == neutral) & ~jnp.any(is_there, axis=1)  # there nothing is projected, from numbers
            entries = jnp.where(is_there | is_empty[:, None], updates, neutral)
            return jnp.where(is_empty, neutral, reduce(jnp.concatenate([entries, x[:, None]], axis=1), axis=1))

        return function

    return of_params


INSTEAD: dict[str, Callable[[Mapping[str, Any]], Function | None]] = {
    "reduce_prod": _product,
    "cumprod": _cumulative(jnp.multiply),
    "cummax": _cumulative(jnp.maximum),
    "cummin": _cumulative(jnp.minimum),
    "cumlogsumexp": _cumulative(jnp.logaddexp),
    "clamp": lambda _: lambda low, x, high: jnp.minimum(jnp.maximum(x, low), high),
    "reduce_window_max": _windows(jnp.max, -math.inf),
    "reduce_window_min": _windows(jnp.min, math.inf),
    "reduce_window_sum": _windows(jnp.sum, 0),
    "scatter": _scattered_values,
    "scatter-max": _scattered(jnp.max, -math.inf),
    "scatter-min": _scattered(jnp.min, math.inf),
    "scatter-mul": _scattered_factors,
    "scatter-sub": _scattered_differences,
}
"""For each equation, from its parameters, a function of its inputs with the same value; None where there is no need."""
