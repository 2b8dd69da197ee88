"""The networks that train.py trains: each a pair of functions, made from its settings.

Weights start as in He et al. (arXiv 1502.01852): normal, of variance 2 / (inputs of a unit); biases start at zero.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import pjax_core as pj

Params = dict[str, Array]
Network = Callable[[Params, Any], Any]


class SettingsError(ValueError):
    """The settings do not fit each other or the data."""


class Model(NamedTuple):
    """A network, `apply(params, x)`, and its first parameters, `init(key, shape of a sample, outputs)`."""

    init: Callable[[Array, Sequence[int], int], Params]
    apply: Network


def mlp(hidden: Sequence[int], skip: bool = False) -> Model:
    """relu(h @ w + b) for each hidden layer, h @ w for the logits; samples of any shape are taken as rows.

    With `skip`, a hidden layer that is as wide as the one before it is relu(h @ w + b + h).
    """
    widths = _widths(hidden)
    has_skip = [skip and before == width for before, width in pairwise((None, *widths))]
    if skip and not any(has_skip):
        raise SettingsError(
            f"skip needs two hidden layers of equal width in a row, but hidden is {widths}: "
            "repeat a width or leave skip out"
        )

    def init(key: Array, shape: Sequence[int], outputs: int) -> Params:
        sizes = (math.prod(shape), *widths, outputs)
        return _initial_params(key, list(pairwise(sizes)))

    def apply(params: Params, x: Any) -> Any:
        h = pj.reshape(x, (x.shape[0], -1)) if len(x.shape) > 2 else x
        for k, skips in enumerate(has_skip):
            terms = [pj.matmul(h, params[f"w{k}"]), params[f"b{k}"], *([h] if skips else [])]
            h = pj.sum_relu(*terms)
        return pj.matmul(h, params[f"w{len(widths)}"])

    return Model(init, apply)


def _widths(hidden: Sequence[int]) -> tuple[int, ...]:
    if not hidden:
        raise SettingsError("hidden is empty: name the width of at least one hidden layer")
    return tuple(hidden)


def _initial_params(key: Array, shapes: Sequence[Sequence[int]]) -> Params:
    """Weights w0, w1, ... of these shapes, the last axis that of the outputs, and a bias for each but the last."""
    params = {}
    for k, shape in enumerate(shapes):
        key, subkey = jax.random.split(key)
        params[f"w{k}"] = jnp.sqrt(2 / math.prod(shape[:-1])) * jax.random.normal(subkey, shape)
        if k < len(shapes) - 1:
            params[f"b{k}"] = jnp.zeros(shape[-1])
    return params
