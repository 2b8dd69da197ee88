"""Ten networks as their users would write them, trained on digits by projections and by gradients.

    python -m benchmarks.studies.ten_networks
    python -m benchmarks.studies.ten_networks --only gru attention --updates 300

Each network is an ordinary function of JAX, or a module of Flax or Equinox. The same function is trained three times by
Adam: on the direction of a sweep of projections (`pj.direction`) with a constraint for each dot product, on that with
one for each layer, and on `jax.grad`. Printed are the accuracy on digits held out, in per cent (for regression and the
autoencoder the mean squared error), and the time of an update.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import pjax_core as pj

WIDTH = 32
STRENGTH = 0.05
"""Of the output constraint: an optimiser does not see how large a direction is."""


class Network(NamedTuple):
    """Parameters and what they make of images (N, 8, 8, 1): logits, or a prediction of `target(images, classes)`."""

    params: Any
    apply: Callable[[Any, Any], Any]
    target: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    def loss(self, params: Any, x: Array, y: Array) -> Array:
        """The output constraint, which computes the loss."""
        prediction = self.apply(params, x)
        constraint = pj.cross_entropy if self.target is None else pj.squared_error
        return constraint(prediction, y, strength=STRENGTH)


def dense(key: Array, *sizes: int) -> list[dict[str, Array]]:
    """Weights as He et al. and biases of zero, for each pair of sizes."""
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, "b": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def flat(x: Array) -> Array:
    """Images as rows."""
    return x.reshape(x.shape[0], -1)


def perceptron(activation: Callable[[Array], Array], key: Array, outputs: int = 10) -> tuple[Any, Any]:
    """Two hidden layers."""

    def apply(params: Any, x: Array) -> Array:
        h = flat(x)
        for layer in params[:-1]:
            h = activation(h @ layer["w"] + layer["b"])
        return h @ params[-1]["w"] + params[-1]["b"]

    return dense(key, 64, WIDTH, WIDTH, outputs), apply


def mlp_tanh(key: Array) -> Network:
    """tanh."""
    return Network(*perceptron(jnp.tanh, key))


def mlp_gelu(key: Array) -> Network:
    """gelu."""
    return Network(*perceptron(jax.nn.gelu, key))


def regression(key: Array) -> Network:
    """The centre of the ink, from the pixels."""

    def centre(x: np.ndarray, _: np.ndarray) -> np.ndarray:
        ink = x[..., 0] / x[..., 0].sum((1, 2), keepdims=True)
        place = np.arange(8) / 2 - 1.75
        return np.stack([(ink.sum(2) * place).sum(1), (ink.sum(1) * place).sum(1)], axis=1)

    return Network(*perceptron(jax.nn.silu, key, 2), centre)


def layer_norm(x: Array) -> Array:
    """Centred rows of length sqrt(n)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def residual(key: Array) -> Network:
    """Two residual blocks, with layer normalisation before each."""
    first, block, other, last = (
        dense(k, *s)[0]
        for k, s in zip(jax.random.split(key, 4), [(64, WIDTH), *[(WIDTH, WIDTH)] * 2, (WIDTH, 10)], strict=True)
    )

    def apply(params: Any, x: Array) -> Array:
        h = flat(x) @ params["first"]["w"] + params["first"]["b"]
        for layer in params["blocks"]:
            h = h + jax.nn.relu(layer_norm(h) @ layer["w"] + layer["b"])
        return h @ params["last"]["w"] + params["last"]["b"]

    return Network({"first": first, "blocks": [block, other], "last": last}, apply)


def cnn(key: Array) -> Network:
    """Two convolutions, the largest of each window, then the mean."""
    keys = jax.random.split(key, 3)
    params = {
        "conv0": jax.random.normal(keys[0], (3, 3, 1, 8)) * (2 / 9) ** 0.5,
        "b0": jnp.zeros(8),
        "conv1": jax.random.normal(keys[1], (3, 3, 8, 16)) * (2 / 72) ** 0.5,
        "b1": jnp.zeros(16),
        "out": dense(keys[2], 64, 10)[0],
    }

    def apply(params: Any, x: Array) -> Array:
        convolve = functools.partial(
            lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        window = (1, 2, 2, 1)
        h = jax.nn.relu(convolve(x, params["conv0"]) + params["b0"])
        h = lax.reduce_window(h, -jnp.inf, lax.max, window, window, "VALID")
        h = jax.nn.relu(convolve(h, params["conv1"]) + params["b1"])
        h = lax.reduce_window(h, 0.0, lax.add, window, window, "VALID") / 4
        return flat(h) @ params["out"]["w"] + params["out"]["b"]

    return Network(params, apply)


def gru(key: Array) -> Network:
    """A gated recurrent unit over pairs of rows, by `lax.scan`."""
    gates, candidate, last = (
        dense(k, *s)[0]
        for k, s in zip(
            jax.random.split(key, 3), [(16 + WIDTH, 2 * WIDTH), (16 + WIDTH, WIDTH), (WIDTH, 10)], strict=True
        )
    )

    def apply(params: Any, x: Array) -> Array:
        def step(h: Array, rows: Array) -> tuple[Array, None]:
            both = jnp.concatenate([rows, h], axis=1)
            reset, update = jnp.split(jax.nn.sigmoid(both @ params["gates"]["w"] + params["gates"]["b"]), 2, axis=1)
            inner = jnp.concatenate([rows, reset * h], axis=1)
            new = jnp.tanh(inner @ params["candidate"]["w"] + params["candidate"]["b"])
            return (1 - update) * h + update * new, None

        sequence = jnp.moveaxis(x.reshape(x.shape[0], 4, 16), 1, 0)
        h, _ = lax.scan(step, jnp.zeros((x.shape[0], WIDTH)), sequence)
        return h @ params["last"]["w"] + params["last"]["b"]

    return Network({"gates": gates, "candidate": candidate, "last": last}, apply)


def attention(key: Array) -> Network:
    """A block of softmax attention between the rows of an image."""
    keys = jax.random.split(key, 5)
    params: dict[str, Any] = {name: dense(k, 8, WIDTH)[0]["w"] for name, k in zip("qkv", keys, strict=False)}
    params |= {"in": dense(keys[3], 8, WIDTH)[0], "out": dense(keys[4], WIDTH, 10)[0]}
    params["place"] = jnp.zeros((8, 8))

    def apply(params: Any, x: Array) -> Array:
        rows = x[..., 0] + params["place"]
        q, k, v = (rows @ params[name] for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k) / WIDTH**0.5, axis=-1)
        h = jax.nn.relu(jnp.einsum("bqk,bkd->bqd", weights, v) + rows @ params["in"]["w"] + params["in"]["b"])
        return h.mean(1) @ params["out"]["w"] + params["out"]["b"]

    return Network(params, apply)


def autoencoder(key: Array) -> Network:
    """The images from eight numbers."""

    def apply(params: Any, x: Array) -> Array:
        h = flat(x)
        for layer in params[:-1]:
            h = jax.nn.softplus(h @ layer["w"] + layer["b"])
        return h @ params[-1]["w"] + params[-1]["b"]

    return Network(dense(key, 64, WIDTH, 8, WIDTH, 64), apply, lambda x, _: x.reshape(len(x), -1))


def flax_nnx(key: Array) -> Network:
    """A module of Flax nnx."""
    from flax import nnx

    class Module(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden = nnx.Linear(64, WIDTH, rngs=rngs)
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.out = nnx.Linear(WIDTH, 10, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            return self.out(nnx.relu(self.norm(self.hidden(flat(x)))))

    structure, params = nnx.split(Module(nnx.Rngs(params=key)))
    return Network(params, lambda params, x: nnx.merge(structure, params)(x))


def equinox(key: Array) -> Network:
    """A module of Equinox, of which all that is no array stays outside."""
    import equinox as eqx

    module = eqx.nn.MLP(64, 10, WIDTH, 2, activation=jax.nn.gelu, key=key)
    params, rest = eqx.partition(module, eqx.is_inexact_array)
    return Network(params, lambda params, x: jax.vmap(eqx.combine(params, rest))(flat(x)))


NETWORKS: dict[str, Callable[[Array], Network]] = {
    network.__name__: network
    for network in [
        mlp_tanh, mlp_gelu, regression, residual, cnn, gru, attention, autoencoder, flax_nnx, equinox
    ]
}  # fmt: skip


def digits(network: Network) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Images and labels or targets, to learn from and to test by."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = np.asarray(images, np.float32)[order].reshape(-1, 8, 8, 1) / 8
    y = classes[order].astype(np.int32)
    if network.target is not None:
        y = np.asarray(network.target(x, y), np.float32)
    return (jnp.asarray(x[:1400]), jnp.asarray(y[:1400])), (jnp.asarray(x[1400:]), jnp.asarray(y[1400:]))


def quality(network: Network, params: Any, x: Array, y: Array) -> float:
    """Accuracy in per cent, or the mean squared error."""
    prediction = network.apply(params, x)
    return float(jnp.mean((prediction - y) ** 2) if network.target else 100 * jnp.mean(prediction.argmax(-1) == y))


def directions(network: Network) -> dict[str, Callable[..., Any]]:
    """What gives an optimiser its direction."""
    by_projections = {
        dot_products: functools.partial(pj.direction, pj.feasibility(network.loss, dot_products=dot_products))
        for dot_products in ("each", "layer")
    }
    return by_projections | {"gradients": jax.grad(network.loss)}


def train(
    network: Network, direction: Callable[..., Any], updates: int, batch: int, rate: float, data: tuple[Array, Array]
) -> tuple[Any, float]:
    """The parameters after so many updates, and the seconds that one took once compiled."""
    optimizer = optax.adam(rate)
    params, state = network.params, optimizer.init(network.params)

    @jax.jit
    def update(params: Any, state: Any, x: Array, y: Array) -> tuple[Any, Any]:
        change, state = optimizer.update(direction(params, x, y), state)
        return optax.apply_updates(params, change), state

    generator, start = np.random.default_rng(1), 0.0
    for number in range(updates):
        if number == 1:
            jax.block_until_ready(params)
            start = time.perf_counter()
        rows = generator.choice(len(data[0]), batch, replace=False)
        params, state = update(params, state, data[0][rows], data[1][rows])
    jax.block_until_ready(params)
    return params, (time.perf_counter() - start) / max(updates - 1, 1)


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args()
    print(
        "| network | each dot product | each layer | gradients | ms: each dot product | each layer | gradients |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        sep="\n",
    )
    for name in options.only:
        network = NETWORKS[name](jax.random.key(0))
        learn, test = digits(network)
        found, times = [], []
        for direction in directions(network).values():
            params, seconds = train(network, direction, options.updates, options.batch, options.rate, learn)
            found.append(f"{quality(network, params, *test):.3g}")
            times.append(f"{1e3 * seconds:.2f}")
        print("|", " | ".join([name, *found, *times]), "|", flush=True)


if __name__ == "__main__":
    main()
