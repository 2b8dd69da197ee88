"""The public projection onto the dot products of a recurrence in consensus form."""

from __future__ import annotations

from jax import Array, lax
from jax.typing import ArrayLike

from pjax_kernels import arguments, tpu
from pjax_kernels.kernel import deferred, of_increments
from pjax_kernels.recurrence import reference, xla

Changes = tuple[Array, Array, Array, Array, Array]

_KERNEL = of_increments(
    "project_recurrence",
    {
        "reference": reference.recurrence_increments,
        "xla": xla.recurrence_increments,
        "triton": deferred("recurrence.triton", "recurrence_increments"),
    },
    formula=xla.formula,
    others={"tpu": deferred("recurrence.tpu", "project_recurrence")},
    limits={"tpu": lambda *_, precision, **__: tpu.unsupported_precision(precision)},
)


def project_recurrence(
    x: ArrayLike,
    h: ArrayLike,
    w_x: ArrayLike,
    w_h: ArrayLike,
    z: ArrayLike,
    *,
    residual: ArrayLike | None = None,
    increments: bool = False,
    precision: lax.PrecisionLike = "highest",
    implementation: str | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Project onto the dot products ``z[b, t] = x[b, t] w_x + h[b, t] w_h`` of all time steps, and average the copies.

    The linear part of the recurrence ``h_t = relu(W_x x_t + W_h h_{t-1} + bias)``, whose other part is
    :func:`project_sum_relu`: every ``z[b, t, j]`` is one dot product, of ``x[b, t]`` joined with the previous hidden
    state ``h[b, t]``, and of column ``j`` of ``w_x`` joined with that of ``w_h``.  Nothing is joined in memory.  Time
    steps do not wait for each other: they share the weights only, whose copies are averaged over batch and time.

    With the batch sharded in equal parts, the mean over shards of each shard's weights is the mean over the batch.

    Args:
        x: ``(B, T, N)``, floating-point: the input of every time step.
        h: ``(B, T, H)``: the hidden state that every time step starts from.
        w_x: ``(N, M)``.
        w_h: ``(H, M)``; in a recurrence ``M`` is ``H``, or a multiple of it where there are gates.
        z: ``(B, T, M)``, the estimates of the outputs.
        residual: ``z`` less the output that follows from the inputs, where that is known; see :mod:`pjax_kernels`.
        increments: return the changes instead of the new values.
        precision: of the matrix products, as in :func:`jax.numpy.matmul`.
        implementation: "reference" (stores all copies), "xla", "triton" (GPUs), "tpu", or None for the best that runs
            here.

    Returns:
        ``(x, h, w_x, w_h, z)``: the means of the projected copies, and the projected outputs, in the shapes and
        dtypes given.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: the shapes do not fit.

    Source: paper, section 3.2, with all copies of a value equal, so that they need not be stored.
    """
    arrays = arguments.floating_arrays(_KERNEL.name, x=x, h=h, w_x=w_x, w_h=w_h, z=z)
    x, h, w_x, w_h, z = arrays.values()
    arguments.require_rank(_KERNEL.name, {"x": (x, 3), "h": (h, 3), "w_x": (w_x, 2)})
    (batch, steps, inputs), hidden, width = x.shape, h.shape[2], w_x.shape[1]
    arguments.require_shape(_KERNEL.name, "h", h, (batch, steps, hidden), f"x of shape {x.shape}")
    arguments.require_weights(_KERNEL.name, "w_x", w_x, inputs, f"x of shape {x.shape}")
    hidden_weights = f"h of shape {h.shape} beside w_x of shape {w_x.shape}"
    arguments.require_shape(_KERNEL.name, "w_h", w_h, (hidden, width), hidden_weights)
    arguments.require_shape(
        _KERNEL.name, "z", z, (batch, steps, width), f"x of shape {x.shape} times w_x of {w_x.shape}"
    )
    known = arguments.known_residual(_KERNEL.name, residual, z)
    found: Changes = _KERNEL.run(
        implementation, (x, h, w_x, w_h, z), arrays=arrays, known=known, increments=increments, precision=precision
    )
    return found
