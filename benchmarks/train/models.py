"""The networks that train.py trains: each a pair of functions, made from its settings.

Weights start as in He et al. (arXiv 1502.01852): normal, of variance 2 / (inputs of a unit); biases start at zero.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import pjax_core as pj

Params = dict[str, Array]
Network = Callable[[Params, Any], Any]


class SettingsError(ValueError):
    """The settings do not fit each other or the data."""


class Model(NamedTuple):
    """A network, `apply(params, x)`, and its first parameters, `init(key, shape of a sample, outputs)`."""

    init: Callable[[Array, Sequence[int], int], Params]
    apply: Network


def mlp(hidden: Sequence[int], skip: bool = False, levels: int | None = None) -> Model:
    """relu(h @ w + b) for each hidden layer, h @ w for the logits; samples of any shape are taken as rows.

    With `skip`, a hidden layer that is as wide as the one before it is relu(h @ w + b + h). With `levels`,
    activations are rounded to so many levels from -1 to 1 instead of rectified.
    """
    widths = _widths(hidden)
    has_skip = [skip and before == width for before, width in pairwise((None, *widths))]
    if skip and not any(has_skip):
        raise SettingsError(
            f"skip needs two hidden layers of equal width in a row, but hidden is {widths}: "
            "repeat a width or leave skip out"
        )

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        if len(shape) == 2:
            raise SettingsError("mlp takes features or images, not sequences: pass rnn")
        sizes = (math.prod(shape), *widths, outputs)
        return _initial_params(key, list(pairwise(sizes)))

    def apply(params: Params, x: Any) -> Any:
        h = jnp.reshape(x, (x.shape[0], -1)) if len(x.shape) > 2 else x
        for k, skips in enumerate(has_skip):
            terms = [h @ params[f"w{k}"], params[f"b{k}"], *([h] if skips else [])]
            h = _activation(levels, *terms)
        return h @ params[f"w{len(widths)}"]

    return Model(init, apply)


def cnn(channels: Sequence[int], strides: Sequence[int] | None = None, levels: int | None = None) -> Model:
    """relu(3 x 3 convolution + b) for each number of channels, the maxima over all pixels, h @ w for the logits.

    Images keep their size but for the `strides`, one number for each convolution. `levels` as in `mlp`.
    """
    widths = _widths(channels)
    steps = (1,) * len(widths) if strides is None else tuple(strides)
    if len(steps) != len(widths):
        raise SettingsError(f"strides are {steps} for {len(widths)} convolutions: pass one for each")

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        if len(shape) != 3:
            raise SettingsError(f"cnn takes images, but a sample has shape {tuple(shape)}: pass another model")
        convolutions = [(3, 3, before, width) for before, width in pairwise((shape[-1], *widths))]
        return _initial_params(key, [*convolutions, (widths[-1], outputs)])

    def apply(params: Params, x: Any) -> Any:
        h = x
        for k, step in enumerate(steps):
            h = _activation(levels, _same(h, params[f"w{k}"], step), params[f"b{k}"])
        return jnp.max(h, axis=(1, 2)) @ params[f"w{len(widths)}"]

    return Model(init, apply)


def pooled_cnn(channels: Sequence[int]) -> Model:
    """relu(3 x 3 convolution + b) and the largest of each 2 x 2 window for each number of channels, then the logits."""
    widths = _widths(channels)

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        rows, columns = (length // 2 ** len(widths) for length in shape[:2])
        convolutions = [(3, 3, before, width) for before, width in pairwise((shape[-1], *widths))]
        return _initial_params(key, [*convolutions, (rows * columns * widths[-1], outputs)])

    def apply(params: Params, x: Any) -> Any:
        h = x
        for k in range(len(widths)):
            h = jax.nn.relu(_same(h, params[f"w{k}"]) + params[f"b{k}"])
            h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return h.reshape(h.shape[0], -1) @ params[f"w{len(widths)}"]

    return Model(init, apply)


def resnet(channels: Sequence[int]) -> Model:
    """A residual block of two 3 x 3 convolutions for each number of channels, the mean over all pixels, the logits.

    Before each block a convolution brings images to its channels, after the first with strides of 2.  The second
    convolution of a block starts at 1/sqrt(blocks) of He's size; there is no normalisation.
    """
    widths = _widths(channels)

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        before = (shape[-1], *widths[:-1])
        shapes = [(3, 3, n, width) for first, width in zip(before, widths, strict=True) for n in (first, width, width)]
        params = _initial_params(key, [*shapes, (widths[-1], outputs)])
        return params | {f"w{k}": params[f"w{k}"] / len(widths) ** 0.5 for k in range(2, len(shapes), 3)}

    def apply(params: Params, x: Any) -> Any:
        h = x
        for k in range(0, 3 * len(widths), 3):
            h = jax.nn.relu(_same(h, params[f"w{k}"], 2 if k else 1) + params[f"b{k}"])
            inner = jax.nn.relu(_same(h, params[f"w{k + 1}"]) + params[f"b{k + 1}"])
            h = h + _same(inner, params[f"w{k + 2}"]) + params[f"b{k + 2}"]
        return jnp.mean(h, axis=(1, 2)) @ params[f"w{3 * len(widths)}"]

    return Model(init, apply)


def rnn(hidden: Sequence[int]) -> Model:
    """h_t = relu(x_t @ w + h_{t-1} @ u + b) for each hidden layer, h_t @ w for the logits of every time step."""
    widths = _widths(hidden)

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        if len(shape) != 2:
            raise SettingsError(f"rnn takes sequences, but a sample has shape {tuple(shape)}: pass another model")
        key, *keys = jax.random.split(key, 1 + len(widths))
        recurrent = {f"u{k}": _he(keys[k], (width, width)) for k, width in enumerate(widths)}
        return recurrent | _initial_params(key, list(pairwise((shape[-1], *widths, outputs))))

    def apply(params: Params, x: Any) -> Any:
        h = x
        for k in range(len(widths)):
            h = pj.recurrence(h, params[f"w{k}"], params[f"u{k}"], params[f"b{k}"])
        return h @ params[f"w{len(widths)}"]

    return Model(init, apply)


def transformer(hidden: Sequence[int]) -> Model:
    """Blocks of causal attention and a layer of four times the width, both residual and normalised before.

    Samples are sequences, embedded by a matrix and a row for each place; logits at every place.
    """
    widths = _widths(hidden)
    if len(set(widths)) > 1:
        raise SettingsError(f"transformer takes blocks of one width, but hidden is {widths}")
    width = widths[0]

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        if len(shape) != 2:
            raise SettingsError(
                f"transformer takes sequences, but a sample has shape {tuple(shape)}: pass another model"
            )
        keys = iter(jax.random.split(key, 2 + 6 * len(widths)))
        params = {"in": _he(next(keys), (shape[1], width)), "place": jnp.zeros((shape[0], width))}
        for k in range(len(widths)):
            params |= {f"{name}{k}": _he(next(keys), (width, width)) / 2**0.5 for name in "qkvo"}
            params |= {f"up{k}": _he(next(keys), (width, 4 * width)), f"b{k}": jnp.zeros(4 * width)}
            params[f"down{k}"] = _he(next(keys), (4 * width, width))
        return params | {"out": _he(next(keys), (width, outputs))}

    def apply(params: Params, x: Any) -> Any:
        h = x @ params["in"] + params["place"]
        later = np.triu(np.full((x.shape[1],) * 2, -1e9, np.float32), 1)
        for k in range(len(widths)):
            normal = _normalised(h)
            q, key, value = (normal @ params[f"{name}{k}"] for name in "qkv")
            weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, key) / width**0.5 + later, axis=-1)
            h = h + jnp.einsum("bts,bsd->btd", weights, value) @ params[f"o{k}"]
            h = h + jax.nn.relu(_normalised(h) @ params[f"up{k}"] + params[f"b{k}"]) @ params[f"down{k}"]
        return _normalised(h) @ params["out"]

    return Model(init, apply)


def _normalised(x: Any) -> Any:
    """Centred along the last axis, with a mean square of 1."""
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def _same(x: Any, w: Any, stride: int = 1) -> Any:
    """The convolution of images (N, H, W, C) with padding "SAME"."""
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _widths(hidden: Sequence[int]) -> tuple[int, ...]:
    if not hidden:
        raise SettingsError("hidden is empty: name the width of at least one hidden layer")
    return tuple(hidden)


def _initial_params(key: Array, shapes: Sequence[Sequence[int]]) -> Params:
    """Weights w0, w1, ... of these shapes, the last axis that of the outputs, and a bias for each but the last."""
    params = {}
    for k, shape in enumerate(shapes):
        key, subkey = jax.random.split(key)
        params[f"w{k}"] = _he(subkey, shape)
        if k < len(shapes) - 1:
            params[f"b{k}"] = jnp.zeros(shape[-1])
    return params


def _he(key: Array, shape: Sequence[int]) -> Array:
    return jnp.sqrt(2 / math.prod(shape[:-1])) * jax.random.normal(key, shape)


def _activation(levels: int | None, *terms: Any) -> Any:
    if levels is None:
        return jax.nn.relu(sum(terms))
    return pj.quantize(sum(terms), levels=levels, scale=1.0)
