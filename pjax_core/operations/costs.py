"""Operations whose inputs and output have costs, by which they are projected.

With costs ``g`` of what an operation holds, the nearest point is that with the least
``sum g_i |x_i - x_i0|^2 + g_z |z - z0|^2``.  Costs are further inputs: one for each that moves, and the output's last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from pjax_core.operations.primitive import Batching, Primitive

Projected = tuple[tuple[Array, ...], Array | None]


def takes_costs(primitive: Primitive) -> bool:
    """Whether the operation can be projected by costs of its inputs and its output."""
    return primitive.units is not None or primitive.project_with_costs is not None


def takes_arrays(primitive: Primitive) -> bool:
    """Whether the costs may be arrays: operations element by element are projected so."""
    return primitive.units is None and primitive.batching is Batching.BROADCAST


@functools.lru_cache(maxsize=256)
def with_costs(primitive: Primitive, count: int) -> Primitive:
    """An operation of ``count`` inputs as one that has costs after these."""
    project = primitive.project_with_costs or functools.partial(_project_in_units, primitive)
    spread, increment, copywise = primitive.spread, primitive.increment, primitive.copywise

    def project_inputs(
        inputs: tuple[Array, ...], output: Array | None, residual: Array | None, **settings: Any
    ) -> Projected:
        return project(inputs[:count], inputs[count:], output, residual, **settings)

    return replace(
        primitive,
        forward=lambda *inputs, **settings: primitive.forward(*inputs[:count], **settings),
        project=project_inputs,
        common_move=None,
        increment=increment
        and (lambda starts, changes, **settings: increment(starts[:count], changes[:count], **settings)),
        spread=spread and (lambda *inputs, **settings: (*spread(*inputs[:count], **settings), *inputs[count:])),
        copywise=copywise and with_costs(copywise, count),
        bilinear=None,
        shares=functools.partial(_shares, primitive, count),
        losses=primitive.losses and functools.partial(_losses, primitive, count),
        moving=primitive.moving_inputs(count),
    )


def _project_in_units(
    primitive: Primitive,
    inputs: tuple[Array, ...],
    costs: Sequence[Array],
    output: Array,
    residual: Array | None,
    **settings: Any,
) -> Projected:
    """As without costs, in units in which all cost the same."""
    assert primitive.units is not None
    *of_inputs, of_output = primitive.units(costs)
    beyond = None if residual is None else of_output * residual
    changes, output_change = primitive.project(_in_units(of_inputs, inputs), of_output * output, beyond, **settings)
    assert output_change is not None
    return tuple(change / unit for change, unit in zip(changes, of_inputs, strict=True)), output_change / of_output


def _in_units(units: Sequence[Array], inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The inputs, each times its unit."""
    return tuple(unit * x for unit, x in zip(units, inputs, strict=True))


def of_set(project: Callable[..., Projected]) -> Callable[..., Projected]:
    """The projection onto a set, which does not depend on one cost of all."""

    def project_with_costs(inputs: tuple[Array, ...], costs: Sequence[Array], *_: None, **settings: Any) -> Projected:
        del costs
        return project(inputs, None, None, **settings)

    return project_with_costs


def of_loss(project: Callable[..., Projected]) -> Callable[..., Projected]:
    """The proximal operator of a loss: where values cost more, it pulls less."""

    def project_with_costs(
        inputs: tuple[Array, ...], costs: Sequence[Array], *_: None, strength: float, **settings: Any
    ) -> Projected:
        return project(inputs, None, None, strength=strength / costs[0], **settings)

    return project_with_costs


def _shares(primitive: Primitive, count: int, *inputs: Array, **settings: Any) -> tuple[float | Array, ...]:
    """About which part of a residual reaches each input, 1 for the costs."""
    given, costs = inputs[:count], inputs[count:]
    if primitive.constrains_output:
        of_inputs: Sequence[float | Array] = (primitive.parts(given, None, **settings)[0] / costs[0],)
    elif primitive.units is not None:
        *units, of_output = primitive.units(costs)
        scaled = _in_units(units, given)
        losses = primitive.losses and primitive.losses(scaled, range(count), **settings)
        of_scaled = primitive.parts(scaled, losses, **settings)
        of_inputs = [share * of_output**2 / unit**2 for share, unit in zip(of_scaled, units, strict=True)]
    else:
        mobilities = [jnp.mean(1 / cost) for cost in costs]
        of_inputs = [mobility / jnp.asarray(sum(mobilities)) for mobility in mobilities[:-1]]
    return (*of_inputs, *(1.0,) * (len(inputs) - len(of_inputs)))


def _losses(
    primitive: Primitive, count: int, inputs: Sequence[Array], weights: Container[int], **settings: Any
) -> Array:
    """``1 + |a|^2 + |b|^2`` of each dot product, in units in which all cost the same."""
    assert primitive.units is not None
    assert primitive.losses is not None
    return primitive.losses(_in_units(primitive.units(inputs[count:])[:-1], inputs[:count]), weights, **settings)


def project_sum(
    inputs: tuple[Array, ...],
    costs: Sequence[Array],
    output: Array,
    residual: Array | None,
    *,
    coefficients: Sequence[float] | None = None,
) -> Projected:
    """Onto ``z = c_1 x_1 + ... + c_n x_n``."""
    coefficients = coefficients or (1.0,) * len(inputs)
    if residual is None:
        residual = output - sum(c * x for c, x in zip(coefficients, inputs, strict=True))
    mobility = sum(c * c / cost for c, cost in zip(coefficients, costs, strict=False)) + 1 / costs[-1]
    changes = [c * (residual / mobility) / cost for c, cost in zip(coefficients, costs, strict=False)]
    return tuple(map(mean_of_copies, inputs, changes)), -residual / (mobility * costs[-1])


def project_sum_relu(
    inputs: tuple[Array, ...], costs: Sequence[Array], output: Array, residual: Array | None
) -> Projected:
    """Onto ``z = max(x_1 + ... + x_n, 0)``: the nearer branch, as without costs (``pjax_kernels/sum_relu/xla.py``)."""
    total = jnp.asarray(sum(inputs))
    mobility, of_output = jnp.asarray(sum(1 / cost for cost in costs[:-1])), 1 / costs[-1]
    beyond = output - total if residual is None else jnp.where(total > 0, residual, output - total)
    ratio = mobility * costs[-1]
    active = total + jnp.where(total > 0, ratio, jnp.sqrt(ratio + 1) - 1) * output > 0
    share = jnp.where(active, beyond / (mobility + of_output), -jnp.maximum(total, 0) / mobility)
    changes = [share / cost for cost in costs[:-1]]
    return tuple(map(mean_of_copies, inputs, changes)), jnp.where(active, -share * of_output, -output)


def mean_of_copies(x: Array, change: Array) -> Array:
    """The mean over the copies of each element of what broadcasts."""
    extra = change.ndim - x.ndim
    stretched = tuple(extra + i for i, size in enumerate(x.shape) if size != change.shape[extra + i])
    axes = (*range(extra), *stretched)
    return jnp.mean(change, axes).reshape(x.shape) if axes else change
