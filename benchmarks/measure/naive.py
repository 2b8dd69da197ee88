"""The textbook baseline: projection training of an MLP with every copy stored.

Each input slot of an operation holds its own copy of the value that flows in (arXiv 2506.05878), so a dense
layer (B, N) times (N, M) is B * M dot products with 2 * B * M * N stored numbers. Hidden layers are
relu(x @ w + b), the logits are h @ w. The graph has two colours: A = {loss, ReLUs, weights, inputs} and
B = {dot products, biases, labels}; every copy lies between a node of A and a node of B.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

OutputConstraint = Callable[[Array, Array], Array]


class Copies(NamedTuple):
    """One entry a layer: dot products hold `inputs` and `weights`, the node after holds the others."""

    inputs: tuple[Array, ...]  # (B, M, N)
    weights: tuple[Array, ...]  # (B, M, N)
    outputs: tuple[Array, ...]  # (B, M): at the ReLUs, then at the loss
    biases: tuple[Array, ...]  # (B, M): at the ReLUs


class State(NamedTuple):
    """All copies, and the bias means (M,) that the last projection onto B produced."""

    copies: Copies
    bias_means: tuple[Array, ...]


def margin(logits: Array, labels: Array) -> Array:
    """Nearest logits that are <= 0 where the label is 0 and >= the label where it is positive."""
    return jnp.where(labels > 0, jnp.maximum(logits, labels), jnp.minimum(logits, 0))


def cross_entropy(logits: Array, labels: Array, strength: float = 5.0) -> Array:
    """Proximal operator argmin_x |x - logits|^2 / (2 strength) + CE(x, labels), by 10 Newton steps."""
    x = logits
    for _ in range(10):
        p = jax.nn.softmax(x)
        gradient = (x - logits) / strength + p - labels
        # The Hessian is diag(d) - p p^T: Sherman-Morrison inverts it.
        d = 1 / strength + p
        shared = jnp.sum(p * gradient / d, -1, keepdims=True) / jnp.sum(p / d / strength, -1, keepdims=True)
        x = x - (gradient + p * shared) / d
    return x


def project_dot(u: Array, v: Array, z: Array) -> tuple[Array, Array, Array]:
    """Nearest (u, v, z) with z = u . v along the last axis."""
    p = jnp.sum(u * v, -1)
    q = jnp.sum(u * u + v * v, -1)
    # Plain Newton, as in the published scheme. Nothing keeps t in (-1, 1), where the root lies.
    t = jnp.zeros_like(z)
    for _ in range(10):
        s = 1 - t * t
        f = ((1 + t * t) * p + t * q) / s**2 + t - z
        slope = (q * (1 + 3 * t * t) + 2 * t * p * (3 + t * t)) / s**3 + 1
        t = t - f / slope
    s, factor = (1 - t * t)[..., None], t[..., None]
    return (u + factor * v) / s, (v + factor * u) / s, z - t


def project_sum_relu(a: Array, b: Array, z: Array) -> tuple[Array, Array, Array]:
    """Project onto z = relu(a + b), elementwise, by the published rule: the nearer of two branches."""
    total = a + b
    shared = (z - total) / 3
    off = -jnp.maximum(total, 0) / 2
    active = 3 * shared**2 < 2 * off**2 + z**2
    # The published rule measures the distance to the whole plane z = a + b, then clips to its edge at z = 0.
    # For z < 0 that edge can be further away than the inactive branch: then this is not the nearest point.
    clipped = jnp.maximum(shared, -total / 2)
    change = jnp.where(active, clipped, off)
    return a + change, b + change, jnp.where(active, total + 2 * clipped, 0)


def project_a(copies: Copies, x: Array, y: Array, output: OutputConstraint) -> Copies:
    """Project the inputs, the weights, the ReLUs and the loss."""
    inputs = [jnp.broadcast_to(x[:, None], copies.inputs[0].shape)]
    weights = [jnp.broadcast_to(jnp.mean(v, 0), v.shape) for v in copies.weights]
    outputs, biases = [], []
    for s, c, u in zip(copies.outputs[:-1], copies.biases, copies.inputs[1:], strict=True):
        s, c, h = project_sum_relu(s, c, jnp.mean(u, 1))
        outputs.append(s)
        biases.append(c)
        inputs.append(jnp.broadcast_to(h[:, None], u.shape))
    outputs.append(output(copies.outputs[-1], y))
    return Copies(tuple(inputs), tuple(weights), tuple(outputs), tuple(biases))


def project_b(copies: Copies) -> Copies:
    """Project the dot products and the biases; labels are constants."""
    slots = zip(copies.inputs, copies.weights, copies.outputs, strict=True)
    inputs, weights, outputs = zip(*(project_dot(u, v, s) for u, v, s in slots), strict=True)
    biases = tuple(jnp.broadcast_to(jnp.mean(c, 0), c.shape) for c in copies.biases)
    return Copies(inputs, weights, outputs, biases)


def init(weights: Sequence[Array], biases: Sequence[Array], x: Array) -> State:
    """Copies of a forward pass: `weights` are (N, M), `biases` (M,), one fewer than the weights."""
    inputs, outputs, h = [], [], x
    for layer, w in enumerate(weights):
        inputs.append(h)
        outputs.append(h @ w)
        if layer < len(biases):
            h = jax.nn.relu(outputs[-1] + biases[layer])
    batch = x.shape[0]
    copies = Copies(
        tuple(jnp.repeat(h[:, None], w.shape[1], 1) for h, w in zip(inputs, weights, strict=True)),
        tuple(jnp.repeat(w.T[None], batch, 0) for w in weights),
        tuple(outputs),
        tuple(jnp.repeat(b[None], batch, 0) for b in biases),
    )
    return State(copies, tuple(biases))


def alternating_projections(state: State, x: Array, y: Array, output: OutputConstraint) -> State:
    """One step of P_B P_A."""
    copies = project_b(project_a(state.copies, x, y, output))
    return State(copies, tuple(c[0] for c in copies.biases))


def douglas_rachford(state: State, x: Array, y: Array, output: OutputConstraint, relaxation: float = 0.5) -> State:
    """One step of (1 - r) I + r R_B R_A, where R = 2 P - I."""
    reflected = reflect(project_a(state.copies, x, y, output), state.copies)
    projected = project_b(reflected)
    moved = reflect(projected, reflected)
    copies = jax.tree.map(lambda z, r: (1 - relaxation) * z + relaxation * r, state.copies, moved)
    return State(copies, tuple(c[0] for c in projected.biases))


def reflect(projected: Copies, copies: Copies) -> Copies:
    """2 P - I."""
    return jax.tree.map(lambda p, z: 2 * p - z, projected, copies)


def parameters(state: State) -> tuple[list[Array], list[Array]]:
    """Weights (colour A): the means of their copies. Biases (colour B): the means last projected."""
    return [jnp.mean(v, 0).T for v in state.copies.weights], list(state.bias_means)
