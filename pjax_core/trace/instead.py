"""Equations that are put together from others: functions of JAX that are traced in their place."""

from __future__ import annotations

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


INSTEAD: dict[str, Callable[[Mapping[str, Any]], Function]] = {
    "reduce_prod": _product,
    "cumprod": _cumulative(jnp.multiply),
    "cummax": _cumulative(jnp.maximum),
    "cummin": _cumulative(jnp.minimum),
    "cumlogsumexp": _cumulative(jnp.logaddexp),
    "clamp": lambda _: lambda low, x, high: jnp.minimum(jnp.maximum(x, low), high),
    "scatter-mul": _scattered_factors,
    "scatter-sub": _scattered_differences,
}
"""For each equation, from its parameters, a function of its inputs that has the same value."""
