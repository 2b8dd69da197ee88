"""Output constraints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import pjax_kernels as pk
from pjax_core.operations import costs
from pjax_core.operations.primitive import Primitive


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
