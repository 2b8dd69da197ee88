"""Networks that the package and an oracle both run, and the iterates of both.

Each network is written once, as ``network(ops, params, x, y)``: ``ops`` is the package or the oracle;
``ops.identity`` stands where the package has to insert an identity by itself, ``ops.constant`` where it takes an array
as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import pjax_core as pj

from .stored_copies import STRENGTH, StoredCopies


@dataclass(frozen=True)
class Network:
    """A network, with the shapes of its arrays."""

    function: Callable[..., Any]
    params: dict[str, tuple[int, ...]]
    x: tuple[int, ...]
    y: tuple[int, ...]

    def arrays(self, generator: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Random parameters and inputs, and labels."""
        params = {key: generator.normal(size=shape) for key, shape in self.params.items()}
        x = generator.normal(size=self.x)
        return params, x, np.eye(self.y[-1])[generator.integers(self.y[-1], size=self.y[:-1])]

    def problem(self) -> Any:
        return pj.feasibility(lambda params, x, y: self.function(PACKAGE, params, x, y))

    def oracle(self, params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> StoredCopies:
        oracle = StoredCopies()
        elements = {key: oracle.parameter(values) for key, values in params.items()}
        self.function(oracle, elements, oracle.data(x), oracle.data(y))
        return oracle


def unchanged(x: Any) -> Any:
    return x


PACKAGE = SimpleNamespace(**{name: getattr(pj, name) for name in pj.__all__})
PACKAGE.identity = PACKAGE.constant = unchanged
PACKAGE.loop = lambda step, first, x: jnp.moveaxis(
    lax.scan(lambda h, rows: 2 * (step(h, rows),), first, jnp.moveaxis(x, 1, 0))[1], 0, 1
)
PACKAGE.cross_entropy = lambda logits, labels: pj.cross_entropy(logits, labels, strength=STRENGTH)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def iterates(problem: Any, algorithm: pj.Algorithm, steps: int, params: Any, *data: Any) -> tuple[Any, Any]:
    """The parameters that an algorithm of the package reads after each step, and what rounding took from them."""

    def step(state: Any, _: None) -> tuple[Any, Any]:
        state = algorithm.step(problem, state)
        return state, (algorithm.params(state), algorithm.params_low(state))

    return lax.scan(step, algorithm.init(problem, params, *data), length=steps)[1]


def changes_by_step(
    problem: Any, algorithm: pj.Algorithm, steps: int, params: dict[str, np.ndarray], *data: np.ndarray
) -> list[dict[str, np.ndarray]]:
    """What each number of steps, from 0 on, adds to the parameters."""
    high, low = iterates(problem, algorithm, steps, params, *data)
    changes = {key: (np.asarray(high[key]) - start) + np.asarray(low[key]) for key, start in params.items()}
    nothing = {key: np.zeros_like(start) for key, start in params.items()}
    return [nothing, *({key: change[step] for key, change in changes.items()} for step in range(steps))]


def mlp(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    return ops.cross_entropy(ops.add(ops.matmul(h, p["w1"]), p["b1"]), y)


def skip_connection(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    h = ops.sum_relu(ops.matmul(ops.identity(h), p["w1"]), p["b1"], h)
    return ops.margin_loss(ops.matmul(h, p["w2"]), y)


def weight_used_twice(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b"])
    h = ops.sum_relu(ops.matmul(h, p["w"]), p["b"])
    h = ops.sum_relu(ops.matmul(h, p["w"]), p["b"])
    return ops.margin_loss(ops.matmul(h, p["w2"]), y)


def tied_autoencoder(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w"]), p["b"])
    return ops.margin_loss(ops.matmul(h, p["w"].T), y)


def parameter_used_in_parts(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w"][:4]), p["b"][:3])
    h = ops.sum_relu(ops.matmul(h, p["w"][3:8].T), p["b"][np.array([2, 3, 0, 4, 1])])
    return ops.margin_loss(ops.matmul(h, p["w"][4:]), y)


def views(ops: Any, p: Any, x: Any, y: Any) -> Any:
    w = ops.stack([p["u"], p["v"], p["u"], p["t"]], axis=1)
    h = ops.sum_relu(ops.matmul(x, w), ops.broadcast_to(p["b"], (6, 4)), p["column"])
    wide = ops.concatenate([h[:, 2:], p["c"], h[:, :3], h[:, ::-1]], axis=1)
    return ops.margin_loss(ops.matmul(wide, ops.broadcast_to(p["row"].reshape(11, 1), (11, 3))), y)


def dot_products(ops: Any, p: Any, x: Any, y: Any) -> Any:
    rows = [ops.stack([ops.dot(x[i], p["u"]), ops.dot(p["u"], p["v"])]) for i in range(2)]
    return ops.margin_loss(ops.stack(rows), y)


def features_times_themselves(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.matmul(x, p["w"]))
    return ops.cross_entropy(ops.matmul(h, h.T), y)


def bias_of_both_colours(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b"])
    h = ops.sum_relu(h, ops.identity(p["b"]))
    return ops.margin_loss(ops.matmul(h, p["w1"]), y)


def weight_of_both_colours(ops: Any, p: Any, x: Any, y: Any) -> Any:
    return ops.margin_loss(ops.matmul(ops.matmul(x, ops.identity(p["w"])), p["w"]), y)


def parameter_at_the_loss(ops: Any, p: Any, x: Any, y: Any) -> Any:
    logits = ops.concatenate([ops.matmul(x, p["w"]), p["free"]], axis=1)
    return ops.cross_entropy(logits, y)


def batch_axes(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    gate = ops.matmul(h, p["v"])
    logits = ops.matmul(h, p["w1"])
    return ops.cross_entropy(ops.add(logits, gate.reshape(2, 3, 1)), y)


def two_losses(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    return {
        "classes": ops.cross_entropy(ops.matmul(h, p["w1"]), y),
        "margin": ops.margin_loss(ops.matmul(h[:, 1:], p["w2"]), y[:, :2]),
    }


def unread_outputs(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.matmul(x, p["w0"]))
    return ops.margin_loss(ops.matmul(h, p["w1"])[:, 1:], y)


def deep_mlp(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    h = ops.sum_relu(ops.matmul(h, p["w1"]), p["b1"])
    return ops.margin_loss(ops.add(ops.matmul(h, p["w2"]), p["b2"]), y)


def data_of_both_colours(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"], x)
    constant = ops.constant(np.linspace(-1, 2, 12).reshape(6, 2))
    return ops.margin_loss(ops.matmul(ops.concatenate([h, x[:, 1:], constant], axis=1), p["w1"]), y)


def features_of_several_layers(ops: Any, p: Any, x: Any, y: Any) -> Any:
    first = ops.sum_relu(ops.matmul(x, p["w0"]), p["b0"])
    second = ops.relu(ops.matmul(first, p["w1"]))
    third = ops.relu(ops.matmul(ops.concatenate([first, second], axis=1), p["w2"]))
    return ops.margin_loss(ops.matmul(ops.concatenate([third, first], axis=1), p["w3"]), y)


def convolutions(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.conv2d(x, p["w0"], strides=(2, 1), padding=((1, 1), (0, 2)))
    h = ops.sum_relu(h, p["b0"])
    h = ops.conv2d(h, p["w1"], strides=(1, 1), padding=((0, 0), (0, 0)))
    return ops.margin_loss(ops.matmul(ops.max(h, axis=(1, 2)), p["w2"]), y)


def strides_that_leave_pixels_out(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.relu(ops.conv2d(x, p["w0"], strides=(1, 1), padding=((0, 0), (0, 0))))
    out = ops.conv2d(h, p["w1"], strides=(2, 2), padding=((0, 0), (0, 0)))
    return ops.margin_loss(ops.squeeze(out, axis=1)[:, 0], y)


def overlapping_pools(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.conv2d(x, p["w0"], strides=(1, 1), padding=((0, 0), (0, 0)))
    h = ops.max_pool(h, window=(2, 3), strides=(1, 2), padding=((1, 0), (0, 0)))
    return ops.margin_loss(ops.matmul(h.reshape(2, -1), p["w1"]), y)


def attention(ops: Any, p: Any, x: Any, y: Any) -> Any:
    scores = ops.sum_relu(ops.einsum("bqd,bkd->bqk", ops.matmul(x, p["q"]), ops.matmul(x, p["k"])), p["b"])
    return ops.margin_loss(ops.einsum("bqk,bkd->bqd", scores, x), y)


def unusual_products(ops: Any, p: Any, x: Any, y: Any) -> Any:
    diagonal = ops.einsum("aij,ij->ai", p["u"], x)
    outer = ops.einsum("ii,kj->ijk", p["s"], diagonal)
    return ops.margin_loss(ops.relu(outer)[:, 1], y)


def recurrent(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.recurrence(x, p["w_x"], p["w_h"], p["b"], h0=p["h0"])
    return ops.margin_loss(ops.matmul(h, p["out"]), y)


def two_recurrences(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.recurrence(x, p["w_x"], p["w_h"], p["b"], h0=p["h0"])
    h = ops.recurrence(h, p["v_x"], p["w_h"], p["b"], h0=h[:, 0])
    return ops.margin_loss(ops.matmul(h[:, -1], p["out"]), y)


def loop_of_products(ops: Any, p: Any, x: Any, y: Any) -> Any:
    """Its state is an entry of products: one identity is the loop's own, one stands between that and these."""

    def step(h: Any, rows: Any) -> Any:
        return ops.sum_relu(ops.matmul(rows, p["w_x"]), ops.einsum("bi,i->bi", ops.identity(h), p["g"]))

    h = ops.loop(step, p["h0"], x)
    return ops.margin_loss(ops.matmul(h[:, -1], p["out"]), y)


def levels_and_sums(ops: Any, p: Any, x: Any, y: Any) -> Any:
    total = ops.sum(ops.relu(ops.matmul(x, p["w0"]).reshape(6, 2, 3)), axis=1)
    logits = ops.matmul(ops.maximum(total, p["b"]), p["w1"])
    return ops.margin_loss(ops.quantize(logits, levels=4, scale=1.5), y)


def threshold_functions(ops: Any, p: Any, x: Any, y: Any) -> Any:
    h = ops.threshold(x, p["w0"], margin=0.8)
    return ops.margin_loss(ops.threshold(h, p["w1"], margin=0.5), y)


def more_views(ops: Any, p: Any, x: Any, y: Any) -> Any:
    left, right = ops.split(ops.moveaxis(ops.expand_dims(ops.matmul(x, p["w0"]), 0), 0, 2)[..., 0], [1], axis=1)
    h = ops.relu(ops.concatenate([ops.repeat(left, 2, axis=1), right], axis=1))
    wide = ops.pad(ops.swapaxes(h, 0, 1), ((1, 0), (0, 0)), constant_values=0.5)
    return ops.margin_loss(ops.matmul(ops.swapaxes(wide, 0, 1), p["w1"]), y)


NETWORKS = {
    network.function.__name__: network
    for network in [
        Network(mlp, {"w0": (5, 4), "b0": (4,), "w1": (4, 3), "b1": (3,)}, (6, 5), (6, 3)),
        Network(
            skip_connection,
            {"w0": (5, 4), "b0": (4,), "w1": (4, 4), "b1": (4,), "w2": (4, 3)},
            (6, 5),
            (6, 3),
        ),
        Network(weight_used_twice, {"w0": (5, 4), "b": (4,), "w": (4, 4), "w2": (4, 3)}, (6, 5), (6, 3)),
        Network(tied_autoencoder, {"w": (5, 4), "b": (4,)}, (7, 5), (7, 5)),
        Network(parameter_used_in_parts, {"w": (9, 3), "b": (5,)}, (5, 4), (5, 3)),
        Network(
            views,
            {"u": (5,), "v": (5,), "t": (5,), "b": (4,), "column": (6, 1), "c": (6, 2), "row": (11,)},
            (6, 5),
            (6, 3),
        ),
        Network(dot_products, {"u": (5,), "v": (5,)}, (2, 5), (2, 2)),
        Network(features_times_themselves, {"w": (4, 5)}, (6, 4), (6, 6)),
        Network(bias_of_both_colours, {"w0": (5, 4), "b": (4,), "w1": (4, 3)}, (6, 5), (6, 3)),
        Network(weight_of_both_colours, {"w": (4, 4)}, (6, 4), (6, 4)),
        Network(parameter_at_the_loss, {"w": (5, 3), "free": (6, 2)}, (6, 5), (6, 5)),
        Network(batch_axes, {"w0": (5, 4), "b0": (4,), "v": (4,), "w1": (4, 3)}, (2, 3, 5), (2, 3, 3)),
        Network(two_losses, {"w0": (5, 4), "b0": (4,), "w1": (4, 3), "w2": (3, 2)}, (6, 5), (6, 3)),
        Network(unread_outputs, {"w0": (5, 4), "w1": (4, 4)}, (6, 5), (6, 3)),
        Network(
            deep_mlp,
            {"w0": (5, 4), "b0": (4,), "w1": (4, 4), "b1": (4,), "w2": (4, 3), "b2": (3,)},
            (6, 5),
            (6, 3),
        ),
        Network(data_of_both_colours, {"w0": (5, 5), "b0": (5,), "w1": (11, 3)}, (6, 5), (6, 3)),
        Network(
            features_of_several_layers,
            {"w0": (5, 3), "b0": (3,), "w1": (3, 3), "w2": (6, 4), "w3": (7, 3)},
            (6, 5),
            (6, 3),
        ),
        Network(convolutions, {"w0": (3, 3, 2, 2), "b0": (2,), "w1": (2, 2, 2, 3), "w2": (3, 2)}, (2, 4, 4, 2), (2, 2)),
        Network(strides_that_leave_pixels_out, {"w0": (1, 1, 2, 2), "w1": (1, 1, 2, 3)}, (3, 2, 3, 2), (3, 3)),
        Network(overlapping_pools, {"w0": (2, 2, 1, 2), "w1": (16, 3)}, (2, 5, 6, 1), (2, 3)),
        Network(attention, {"q": (3, 4), "k": (3, 4), "b": (5,)}, (2, 5, 3), (2, 5, 3)),
        Network(unusual_products, {"u": (3, 2, 4), "s": (3, 3)}, (2, 4), (3, 3)),
        Network(
            recurrent,
            {"w_x": (3, 4), "w_h": (4, 4), "b": (4,), "h0": (2, 4), "out": (4, 3)},
            (2, 5, 3),
            (2, 5, 3),
        ),
        Network(
            two_recurrences,
            {"w_x": (3, 4), "w_h": (4, 4), "v_x": (4, 4), "b": (4,), "h0": (2, 4), "out": (4, 3)},
            (2, 3, 3),
            (2, 3),
        ),
        Network(loop_of_products, {"w_x": (3, 4), "g": (4,), "h0": (2, 4), "out": (4, 3)}, (2, 3, 3), (2, 3)),
        Network(threshold_functions, {"w0": (5, 4), "w1": (4, 3)}, (6, 5), (6, 3)),
        Network(levels_and_sums, {"w0": (5, 6), "b": (3,), "w1": (3, 2)}, (6, 5), (6, 2)),
        Network(more_views, {"w0": (5, 3), "w1": (5, 3)}, (6, 5), (6, 3)),
    ]
}
