"""Scalar functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import pjax_kernels as pk
from pjax_core.operations.primitive import Batching, Primitive, Projected, losses_by_slopes
from pjax_kernels import compose

_SMALL = 3e-4
"""Changes below this part of what they change are to first order those of a smooth function."""


def _smooth_increment(function: Callable[[Array], Array], x: Array, change: Array) -> Array:
    """``function(x + change) - function(x)``, element by element."""
    _, first_order = jax.jvp(function, (x.astype(change.dtype),), (change,))
    small = jnp.abs(change) <= _SMALL * (1 + jnp.abs(x))
    return jnp.where(small, first_order, function(x + change) - function(x))


def _with_small_residuals(
    function: Callable[[Array], Array], x: Array, output: Array, residual: Array | None, found: tuple[Array, Array]
) -> Projected:
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


def _onto_tangent_of(forward: Callable[..., Array]) -> Callable[..., Projected]:
    """The projection onto the tangents of a function of each element of its first input."""

    def project_tangent(inputs: tuple[Array, ...], residual: Array, **settings: Any) -> Projected:
        x, *constants = inputs
        change, output_change = _first_order(lambda x: forward(x, *constants, **settings), x, residual)
        return (change,), output_change

    return project_tangent


def _is_small(residual: Array, output: Array) -> Array:
    return jnp.abs(residual) <= _SMALL * (1 + jnp.abs(output))


def _affine(x: Array, scale: Array, offset: Array) -> Array:
    return scale * x + offset


def _project_affine(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
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

    def project(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> Projected:
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
    ) -> Projected:
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


def _project_clip(inputs: tuple[Array, ...], output: Array, residual: Array | None) -> Projected:
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
