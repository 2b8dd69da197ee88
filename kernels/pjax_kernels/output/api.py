"""The public projections and proximal operators of output constraints."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pjax_kernels import arguments
from pjax_kernels.kernel import of_increments
from pjax_kernels.output import derivative, reference, xla

_MARGIN = of_increments("project_margin", {"reference": reference.margin_increment, "xla": xla.margin_increment})
_CROSS_ENTROPY = of_increments(
    "prox_cross_entropy",
    {"reference": reference.cross_entropy_increment, "xla": xla.cross_entropy_increment},
    formula=derivative.cross_entropy_formula,
)


def project_margin(
    logits: ArrayLike, labels: ArrayLike, *, increments: bool = False, implementation: str | None = None
) -> Array:
    """Project each logit onto the set ``{logit <= 0}`` where its label is 0, ``{logit >= label}`` where positive.

    Args:
        logits: floating-point, any shape.
        labels: the shape of ``logits``, not negative; a one-hot array times the margin wanted.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes differ.

    Source: paper, section 3.3.
    """
    logits, labels = _logits_and_labels(_MARGIN.name, logits, labels)
    found: Array = _MARGIN.run(implementation, (logits, labels), increments=increments)
    return found


def prox_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    strength: ArrayLike = 5.0,
    weights: ArrayLike | None = None,
    increments: bool = False,
    implementation: str | None = None,
) -> Array:
    """The proximal operator of softmax cross-entropy, ``argmin_x |x - logits|^2 / (2 strength) + CE(x, labels)``.

    The exact minimiser, for any strength: the solution of ``x = logits + strength (labels - softmax(x))``.  With
    ``weights`` the loss of a row is multiplied by its weight, which is the same as its own strength.  Each row stands
    alone: one that is not finite becomes NaN, and no other.

    Args:
        logits: ``(..., C)``, floating-point.  A class at -inf is masked: it has no probability and stays, and the
            others change as without it.  A label at a masked class makes its row NaN, since its loss is infinite.
        labels: ``(..., C)``, one-hot or any other probabilities: not negative, with sum 1 over the last axis.  Rows
            of zeros are left out of the loss: their logits stay.
        strength: how far the loss pulls, in units of logits; a positive number, which may be traced.
        weights: of a shape that broadcasts to that of ``logits`` without its last axis, not negative; a row of weight
            0 stays.
        increments: return the change instead of the new value.
        implementation: "reference", "xla", or None for the best that runs here.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes differ or have no last axis, or the strength is not positive.

    Source: paper, section 3.3, where a truncated fixed-point iteration stands for the minimiser.
    """
    logits, labels = _logits_and_labels(_CROSS_ENTROPY.name, logits, labels)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{_CROSS_ENTROPY.name}: logits has shape {logits.shape}, but needs a last axis of classes")
    dtype = arguments.compute_dtype([logits, labels])
    pull = arguments.scalar(_CROSS_ENTROPY.name, "strength", strength, dtype, lambda s: s > 0, "a positive number")
    if weights is not None:
        pull = pull * arguments.broadcast_constant(_CROSS_ENTROPY.name, "weights", weights, logits.shape[:-1], dtype)
    pull = jnp.where(jnp.max(jnp.abs(labels), axis=-1) != 0, pull, jnp.zeros((), dtype))  # rows left out
    found: Array = _CROSS_ENTROPY.run(implementation, (logits, labels, pull), increments=increments)
    return found


def _logits_and_labels(kernel: str, logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    arrays = arguments.floating_arrays(kernel, logits=logits, labels=labels)
    arguments.require_shape(kernel, "labels", arrays["labels"], arrays["logits"].shape, "logits")
    return arrays["logits"], arrays["labels"]
