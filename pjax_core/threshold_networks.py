"""Networks of Boolean threshold functions, found by reflect-reflect-relax from many random starts side by side.

Every value is 1 or -1, and every node ``y = sgn(w . x)`` with ``|w . x| >= margin`` and ``|w| = sqrt(m)`` for its ``m``
inputs, of which the first is a constant -1.  Each node has a copy of its weights for each item of data, and of its
inputs.  A: each node's copies and output satisfy its function, free inputs are +-1.  B: copies of a weight agree over
the items, those of a value over its readers, and data are put back; means are weighted by a metric, one number for each
node and item, which grows where the gap between A and B stays large (Elser, Lal, arXiv 2602.17493).

All arrays end with an axis of lanes, starts that run side by side: so rows of five inputs fill vector registers.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

import pjax_kernels as pk
from pjax_core.until import Until, gap_below

LARGEST = 100
"""Of the integers tried for weights; those of gates are 1."""


@dataclass(frozen=True)
class ThresholdNetwork:
    """Layers of Boolean threshold functions, each node reading all of the layer before and a constant -1.

    Attributes:
        widths: the number of inputs, then of the nodes of each layer.
        gate_inputs: n: a margin of ``sqrt(m/n)`` for nodes of ``m`` inputs and weights of norm ``sqrt(m)``.  3 makes
            gates of two inputs and a constant (and, or), of one (copy, not), or of three (majority).
    """

    widths: tuple[int, ...]
    gate_inputs: float = 3.0

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or not all(isinstance(n, int) and n > 0 for n in self.widths):
            raise ValueError(f"widths are {self.widths!r}; pass two or more positive integers, such as (4, 4, 4)")
        if not 1 <= self.gate_inputs <= 1 + min(self.widths[:-1]):
            raise ValueError(
                f"gate_inputs is {self.gate_inputs!r}; pass a number from 1 to that of a node's inputs, "
                f"{1 + min(self.widths[:-1])}"
            )

    def __call__(self, weights: Sequence[ArrayLike], x: ArrayLike) -> Array:
        """The outputs, +-1, ``(..., widths[-1])``, for inputs ``(..., widths[0])`` and weights of each layer."""
        value = jnp.asarray(x)
        for matrix in weights:
            value = jnp.where(_with_constant(value, -1) @ jnp.asarray(matrix) >= 0, 1, -1).astype(value.dtype)
        return value

    def rounded(self, weights: Sequence[ArrayLike], x: ArrayLike) -> list[np.ndarray]:
        """The smallest integer weights, of each node, that give the same signs for all items of ``x``."""
        values, integers = np.asarray(x), []
        for matrix in map(np.asarray, weights):
            values = np.concatenate([np.full((len(values), 1), -1), values], axis=1)
            integers.append(np.stack([_smallest_integers(column, values) for column in matrix.T], axis=1))
            values = np.where(values @ integers[-1] > 0, 1, -1)
        return integers

    def margin(self, inputs: int) -> float:
        """The margin of a node with so many inputs, the constant among them."""
        return math.sqrt(inputs / self.gate_inputs)


def _smallest_integers(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Integers in proportion to the weights, with the signs of their products with the rows of ``values``."""
    wanted = np.sign(values @ weights)
    for largest in range(1, LARGEST + 1):
        integers = np.rint(weights * (largest / np.abs(weights).max())).astype(int)
        if np.array_equal(np.sign(values @ integers), wanted):
            return integers
    raise ValueError(f"no integer weights up to {LARGEST} give the signs of the weights; they miss their margin")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layer:
    """The copies of a layer's nodes; ``I`` inputs and ``O`` nodes, ``K`` items, ``T`` lanes.

    Attributes:
        weights: ``(I, O, K, T)``.
        inputs: ``(I, O, K, T)``.
        outputs: ``(O, K, T)``.
        metric: ``(O, K, T)``, the weight of each node's copies in means.
        plus: ``(O, K, T)``, a quarter of the squared norm of ``weights + inputs``.
        minus: ``(O, K, T)``, that of ``weights - inputs``.
    """

    weights: Array
    inputs: Array
    outputs: Array
    metric: Array
    plus: Array
    minus: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Circuits:
    """What a search has found so far, by start.

    Attributes:
        weights: of each layer, ``(starts, 1 + inputs, nodes)``: the last means over the items.
        solved: ``(starts,)``, whether the gap fell below that asked for.
        steps: ``(starts,)``, how many steps were made.
        gap: ``(starts,)``, the last root mean square gap of a node.
    """

    weights: tuple[Array, ...]
    solved: Array
    steps: Array
    gap: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SearchState:
    """Where a search is: a tree of arrays, from which it goes on bit for bit.

    Attributes:
        layers: the copies of the starts that run.
        codes: the copies of free inputs, ``(I, K, T)``; None where inputs are data.
        start: ``(T,)``, which start each lane runs; beyond the last one, none.
        steps: ``(T,)``, how many steps it has made.
        next_start: the first start that has not begun.
        key: from which the starts are drawn.
        x: inputs ``(I, K, 1)``, or None.
        y: wanted outputs ``(O, K, 1)``.
        found: see :class:`Circuits`.
    """

    layers: tuple[Layer, ...]
    codes: Array | None
    start: Array
    steps: Array
    next_start: Array
    key: Array
    x: Array | None
    y: Array
    found: Circuits


@dataclass(frozen=True)
class CircuitSearch:
    """Reflect-reflect-relax on a threshold network, from many random starts side by side.

    A step is ``z + beta (P_B(2 P_A(z) - z) - P_A(z))``, Douglas-Rachford with relaxation ``beta/2``.  A lane whose
    start is solved, or has made all its steps, takes the next start: solved starts cost nothing.

    Attributes:
        network: the network.
        starts: how many random starts.
        steps: how many steps a start makes at the most.
        beta: the relaxation, in (0, 2).
        gamma: how fast the metric follows the gaps, in [0, 1).
        lanes: how many starts run side by side: 16 keep small networks in the processor's cache.
        until: from :func:`gap_below`: the root mean square gap of a node below which a start is solved, how many steps
            make a round, after which lanes take the next starts, and whether any solved one of "starts" ends it all.
        codes: what free inputs are, where the search is given none: "bits" (+-1) or "one-hot" (one 1, else -1).
    """

    network: ThresholdNetwork
    starts: int = 64
    steps: int = 20_000
    beta: float = 0.2
    gamma: float = 1e-3
    lanes: int = 16
    until: Until = gap_below(1e-2, every=50)
    codes: Literal["bits", "one-hot"] = "bits"

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("starts", self.starts >= 1, "a positive integer"),
            ("steps", self.steps >= 1, "a positive integer"),
            ("beta", 0 < self.beta < 2, "a number between 0 and 2"),
            ("gamma", 0 <= self.gamma < 1, "a number in [0, 1)"),
            ("lanes", self.lanes >= 1, "a positive integer"),
            (
                "until",
                isinstance(self.until, Until) and self.until.any_of in (None, "starts"),
                'pj.gap_below(1e-2, every=50), with any_of="starts" to stop at the first solution',
            ),
            ("codes", self.codes in ("bits", "one-hot"), '"bits" or "one-hot"'),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}; pass {wanted}")

    def init(self, key: Array, x: ArrayLike | None, y: ArrayLike) -> SearchState:
        """The first state.

        Args:
            key: a random key; start ``i`` is drawn from ``jax.random.fold_in(key, i)``.
            x: inputs ``(items, widths[0])``, 1 or -1; None where they are free, to be found.
            y: wanted outputs ``(items, widths[-1])``, 1 or -1.

        Raises:
            ValueError: shapes do not fit the network, or known entries are not 1 or -1.
        """
        widths = self.network.widths
        y = _signs("y", y, widths[-1])
        if x is not None:
            x = _signs("x", x, widths[0])
            if len(x) != len(y):
                raise ValueError(f"x has {len(x)} items and y {len(y)}; they must agree")
        return _first_state(self, key, x, y)

    def run(self, state: SearchState, rounds: int | None = None) -> SearchState:
        """The state after so many rounds of ``until.every`` steps, or with None when the search has ended."""
        return _run(self, state, jnp.asarray(np.iinfo(np.int32).max if rounds is None else rounds, jnp.int32))

    def ended(self, state: SearchState) -> Array:
        """Whether no start is left, or one is solved where any ends it."""
        return ~_goes_on(self, state)


def _signs(name: str, values: ArrayLike, width: int) -> Array:
    """Values of known content as +-1 in float32."""
    array = jnp.asarray(values)
    if array.ndim != 2 or array.shape[1] != width or not array.shape[0]:
        raise ValueError(f"{name} has shape {array.shape}, but the network needs (items, {width})")
    if not isinstance(array, jax.core.Tracer) and not np.all(np.abs(np.asarray(array)) == 1):
        raise ValueError(f"{name} has entries other than 1 and -1; pass 2 bits - 1")
    return array.astype(jnp.float32)


def _with_constant(values: Array, axis: int) -> Array:
    """The values behind a constant -1."""
    shape = list(values.shape)
    shape[axis] = 1
    return jnp.concatenate([jnp.full(shape, -1, values.dtype), values], axis=axis)


@functools.partial(jax.jit, static_argnums=0)
def _first_state(search: CircuitSearch, key: Array, x: Array | None, y: Array) -> SearchState:
    widths = search.network.widths
    found = Circuits(
        weights=tuple(
            jnp.zeros((search.starts, 1 + n, m), jnp.float32) for n, m in zip(widths[:-1], widths[1:], strict=True)
        ),
        solved=jnp.zeros(search.starts, bool),
        steps=jnp.zeros(search.starts, jnp.int32),
        gap=jnp.full(search.starts, jnp.inf, jnp.float32),
    )
    start = jnp.arange(search.lanes, dtype=jnp.int32)
    y = y.T[:, :, None]
    layers, codes = _drawn(search, key, start, x is None, y)
    return SearchState(
        layers=layers,
        codes=codes,
        start=start,
        steps=jnp.zeros_like(start),
        next_start=jnp.asarray(search.lanes, jnp.int32),
        key=key,
        x=None if x is None else x.T[:, :, None],
        y=y,
        found=found,
    )


def _drawn(
    search: CircuitSearch, key: Array, start: Array, free: bool, y: Array
) -> tuple[tuple[Layer, ...], Array | None]:
    """Copies that are uniform in [-1, 1], a lane for each start; the last outputs are those wanted."""
    widths, items = search.network.widths, y.shape[1]

    def one_lane(start: Array) -> tuple[list[tuple[Array, Array, Array]], Array | None]:
        keys = iter(jax.random.split(jax.random.fold_in(key, start), 3 * len(widths)))

        def uniform(*shape: int) -> Array:
            return jax.random.uniform(next(keys), shape, jnp.float32, -1, 1)

        drawn = [
            (uniform(1 + n, m, items), uniform(1 + n, m, items), uniform(m, items))
            for n, m in zip(widths[:-1], widths[1:], strict=True)
        ]
        return drawn, uniform(widths[0], items) if free else None

    drawn, codes = jax.vmap(one_lane, out_axes=-1)(start)
    drawn[-1] = (*drawn[-1][:2], jnp.broadcast_to(y, drawn[-1][2].shape))
    return tuple(Layer(w, x, z, jnp.ones_like(z), *_quarters(w, x)) for w, x, z in drawn), codes


def _quarters(weights: Array, inputs: Array) -> tuple[Array, Array]:
    """Quarters of the squared norms of the sums and of the differences."""
    half_sums, half_differences = 0.5 * (weights + inputs), 0.5 * (weights - inputs)
    return _sum_of_first(half_sums * half_sums), _sum_of_first(half_differences * half_differences)


def _sum_of_first(array: Array) -> Array:
    """The sum over the first axis, written out: so it is fused with what is summed, and vectorises over lanes."""
    return functools.reduce(operator.add, list(array))


def _goes_on(search: CircuitSearch, state: SearchState) -> Array:
    going = jnp.any(state.start < search.starts)
    return going & ~jnp.any(state.found.solved) if search.until.any_of else going


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _run(search: CircuitSearch, state: SearchState, rounds: Array) -> SearchState:
    def body(carry: tuple[Array, SearchState]) -> tuple[Array, SearchState]:
        return carry[0] + 1, _round(search, carry[1])

    def goes_on(carry: tuple[Array, SearchState]) -> Array:
        return (carry[0] < rounds) & _goes_on(search, carry[1])

    return lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), state))[1]


def _round(search: CircuitSearch, state: SearchState) -> SearchState:
    """So many steps of each lane; then those that are done hand in what they found, and take the next starts."""

    def step(k: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        layers, codes, weights, gap, solved_at = carry
        layers, codes, new_weights, new_gap = _step(search, state, layers, codes)
        going = solved_at < 0  # what is found is kept as it was when it was
        weights = [jnp.where(going, new, old) for new, old in zip(new_weights, weights, strict=True)]
        gap = jnp.where(going, new_gap, gap)
        return layers, codes, weights, gap, jnp.where(going & (new_gap < search.until.gap), k + 1, solved_at)

    lanes = state.start.shape
    weights = [jnp.zeros((*layer.weights.shape[:2], *lanes), jnp.float32) for layer in state.layers]
    carry = (state.layers, state.codes, weights, jnp.full(lanes, jnp.inf, jnp.float32), jnp.full(lanes, -1, jnp.int32))
    layers, codes, weights, gap, solved_at = lax.fori_loop(0, search.until.every, step, carry)
    steps = state.steps + jnp.where(solved_at < 0, search.until.every, solved_at)
    solved = (solved_at >= 0) & (steps <= search.steps)
    done = solved | (steps >= search.steps)
    state = replace(state, layers=layers, codes=codes, steps=steps)
    state = _handed_in(state, weights, solved, gap)
    return lax.cond(jnp.any(done), functools.partial(_with_next_starts, search, done), lambda state: state, state)


def _handed_in(state: SearchState, weights: Sequence[Array], solved: Array, gap: Array) -> SearchState:
    """The state with what its lanes have found, in the places of their starts."""
    old, place = state.found, state.start  # beyond the last place nothing is written
    found = Circuits(
        weights=tuple(
            all_starts.at[place].set(jnp.moveaxis(new, -1, 0), mode="drop")
            for all_starts, new in zip(old.weights, weights, strict=True)
        ),
        solved=old.solved.at[place].set(solved, mode="drop"),
        steps=old.steps.at[place].set(state.steps, mode="drop"),
        gap=old.gap.at[place].set(gap, mode="drop"),
    )
    return replace(state, found=found)


def _with_next_starts(search: CircuitSearch, done: Array, state: SearchState) -> SearchState:
    """The state whose lanes that are done begin the next starts."""
    start = jnp.where(done, state.next_start + jnp.cumsum(done) - 1, state.start).astype(jnp.int32)
    drawn = _drawn(search, state.key, start, state.codes is not None, state.y)
    layers, codes = jax.tree.map(lambda new, old: jnp.where(done, new, old), drawn, (state.layers, state.codes))
    return replace(
        state,
        layers=layers,
        codes=codes,
        start=start,
        steps=jnp.where(done, 0, state.steps),
        next_start=state.next_start + jnp.sum(done, dtype=jnp.int32),
    )


def _step(
    search: CircuitSearch, state: SearchState, layers: Sequence[Layer], codes: Array | None
) -> tuple[tuple[Layer, ...], Array | None, list[Array], Array]:
    """One step; also the weights on which the copies are to agree, and the root mean square gap of a node."""
    roots = [
        pk.threshold_root(layer.plus, layer.minus, layer.outputs, search.network.margin(len(layer.weights)))
        for layer in layers
    ]
    writers = None
    if codes is not None:
        codes_on_a = _nearest_code(search, codes)
        writers = 2 * codes_on_a - codes, jnp.ones_like(codes)
    weights, values = _concurring(state, layers, roots, writers)
    if codes is not None:
        codes = codes + search.beta * (values[0] - codes_on_a)
    wanted = [*values[1:], state.y]
    moved = [_moved(search.beta, *parts) for parts in zip(layers, roots, weights, values, wanted, strict=True)]
    mean_gap = sum(jnp.sum(gap, axis=(0, 1)) for _, gap in moved) / sum(gap.shape[0] * gap.shape[1] for _, gap in moved)
    relative = 1 / jnp.maximum(mean_gap, jnp.finfo(jnp.float32).tiny)
    new_layers = tuple(
        replace(layer, metric=layer.metric + search.gamma * (gap * relative - layer.metric)) for layer, gap in moved
    )
    return new_layers, codes, weights, jnp.sqrt(mean_gap)


def _nearest_code(search: CircuitSearch, codes: Array) -> Array:
    """The nearest vectors of +-1, or with a single 1."""
    if search.codes == "bits":
        return jnp.where(codes < 0, -1.0, 1.0)
    return 2 * jax.nn.one_hot(jnp.argmax(codes, axis=0), codes.shape[0], axis=0, dtype=codes.dtype) - 1


def _concurring(
    state: SearchState,
    layers: Sequence[Layer],
    roots: Sequence[pk.ThresholdRoot],
    writers: tuple[Array, Array] | None,
) -> tuple[list[Array], list[Array]]:
    """P_B of the reflections in A: the weights of each layer, and the values that each layer reads.

    ``writers``: the weighted copies of free inputs where they are written, and their weights.
    """
    weights, values = [], []
    for layer, root in zip(layers, roots, strict=True):
        of_own, of_other = layer.metric * (1 + 2 * root.gamma), layer.metric * (2 * root.beta)
        total = jnp.sum(of_own * layer.weights + of_other * layer.inputs, axis=2)
        weights.append(total * jnp.sqrt(len(total) / jnp.sum(total * total, axis=0)))
        if writers is None:
            assert state.x is not None
            values.append(state.x)
        else:
            read = jnp.sum(of_own * layer.inputs[1:] + of_other * layer.weights[1:], axis=1)
            values.append((writers[0] + read) / (writers[1] + jnp.sum(layer.metric, axis=0)))
        writers = layer.metric * (2 * root.sign - layer.outputs), layer.metric
    return weights, values


def _moved(
    beta: float, layer: Layer, root: pk.ThresholdRoot, weights: Array, values: Array, wanted: Array
) -> tuple[Layer, Array]:
    """The layer's copies after the step, and the squared gap of each node and item."""
    on_a = (
        layer.weights + (root.gamma * layer.weights + root.beta * layer.inputs),
        layer.inputs + (root.gamma * layer.inputs + root.beta * layer.weights),
    )
    weights_gap = weights[:, :, None] - on_a[0]
    inputs_gap = _with_constant(values, 0)[:, None] - on_a[1]
    outputs_gap = wanted - root.sign
    squared = _sum_of_first(weights_gap * weights_gap + inputs_gap * inputs_gap) + outputs_gap * outputs_gap
    new_weights, new_inputs = layer.weights + beta * weights_gap, layer.inputs + beta * inputs_gap
    plus, minus = _quarters(new_weights, new_inputs)
    return Layer(new_weights, new_inputs, layer.outputs + beta * outputs_gap, layer.metric, plus, minus), squared
