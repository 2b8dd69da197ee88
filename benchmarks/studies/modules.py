"""Modules of Flax and Equinox as they are: cells, attention, norms, convolutions and half precision take steps.

    python -m benchmarks.studies.modules
    python -m benchmarks.studies.modules "nnx LSTM" "linen GRU" --algorithms AP

A row for each module and algorithm: how many leaves its parameters have, whether all changes are finite, which leaves
stood still, and by how much `pj.evaluate` and the module itself differ, relative to the largest output.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import pjax_core as pj

ROWS, LENGTH, WIDTH = 2, 2, 4
STEPS = 20
"""So many that changes, which in each half step reach one operation more, come to all; compiled once."""

NORMAL = np.random.default_rng(0).normal
SEQUENCES = NORMAL(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
IMAGES = NORMAL(size=(ROWS, 4, 4, 1)).astype(np.float32)
CLASSES = np.array([0, 2])
KEY = jax.random.key(0)
ALGORITHMS = {"AP": pj.alternating_projections(), "DR": pj.douglas_rachford()}


class Network(NamedTuple):
    """A module as a function of its parameters and inputs."""

    params: Any
    x: Any
    apply: Callable[[Any, Any], Any]


class Outcome(NamedTuple):
    """What steps make of the parameters: see the table."""

    leaves: int
    finite: bool
    still: list[str]
    difference: float


def linen(make: Callable[[Any], Any]) -> Callable[[], Network]:
    """A module of Flax linen, on sequences."""

    def network() -> Network:
        from flax import linen as nn

        module = make(nn)
        return Network(module.init(KEY, SEQUENCES), SEQUENCES, module.apply)

    return network


def nnx(make: Callable[[Any, Any], Any], x: np.ndarray = SEQUENCES, **settings: Any) -> Callable[[], Network]:
    """A module of Flax nnx, with settings of its call."""

    def network() -> Network:
        from flax import nnx

        structure, params, *rest = nnx.split(make(nnx, nnx.Rngs(0)), nnx.Param, ...)
        return Network(params, x, lambda params, x: nnx.merge(structure, params, *rest)(x, **settings))

    return network


def equinox(make: Callable[[Any], Any], call: Callable[[Any, Any], Any], dtype: Any = None) -> Callable[[], Network]:
    """A module of Equinox, called on each row, in another precision if one is given."""

    def network() -> Network:
        import equinox as eqx

        arrays, rest = eqx.partition(make(eqx), eqx.is_inexact_array)
        x = jnp.asarray(IMAGES if isinstance(rest, eqx.nn.Conv) else SEQUENCES, dtype)
        params = jax.tree.map(lambda array: array.astype(dtype or array.dtype), arrays)
        return Network(params, x, lambda params, x: jax.vmap(lambda row: call(eqx.combine(params, rest), row))(x))

    return network


def last_state(cell: Any, row: Any) -> Any:
    """Of a cell that is called entry by entry."""
    zeros = jnp.zeros(cell.hidden_size, row.dtype)
    state = (zeros, zeros) if type(cell).__name__ == "LSTMCell" else zeros
    for entry in row:
        state = cell(entry, state)
    return state[0] if isinstance(state, tuple) else state


ZEROS = np.zeros((ROWS, WIDTH), np.float32)
"""First states, which cells of nnx else draw from keys that may not change under a transformation of JAX."""

BFLOAT16 = jnp.bfloat16
NETWORKS = {
    "linen RNN": linen(lambda nn: nn.RNN(nn.SimpleCell(WIDTH))),
    "linen LSTM": linen(lambda nn: nn.RNN(nn.OptimizedLSTMCell(WIDTH))),
    "linen GRU": linen(lambda nn: nn.RNN(nn.GRUCell(WIDTH))),
    "linen attention": linen(lambda nn: nn.MultiHeadDotProductAttention(2)),
    "linen bfloat16": linen(lambda nn: nn.Sequential([nn.Dense(4, dtype=BFLOAT16, param_dtype=BFLOAT16), nn.gelu])),
    "linen bfloat16 inside": linen(lambda nn: nn.Sequential([nn.Dense(4, dtype=BFLOAT16), nn.tanh])),
    "nnx RNN": nnx(lambda nnx, rngs: nnx.RNN(nnx.SimpleCell(WIDTH, WIDTH, rngs=rngs)), initial_carry=ZEROS),
    "nnx LSTM": nnx(lambda nnx, rngs: nnx.RNN(nnx.LSTMCell(WIDTH, WIDTH, rngs=rngs)), initial_carry=(ZEROS, ZEROS)),
    "nnx GRU": nnx(lambda nnx, rngs: nnx.RNN(nnx.GRUCell(WIDTH, WIDTH, rngs=rngs)), initial_carry=ZEROS),
    "nnx attention": nnx(lambda nnx, rngs: nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)),
    "nnx convolution": nnx(
        lambda nnx, rngs: nnx.Sequential(
            nnx.Conv(1, 3, (3, 3), rngs=rngs), nnx.LayerNorm(3, rngs=rngs), nnx.silu, lambda x: x.mean((1, 2))
        ),
        IMAGES,
    ),
    "equinox GRU": equinox(lambda eqx: eqx.nn.GRUCell(WIDTH, WIDTH, key=KEY), last_state),
    "equinox LSTM": equinox(lambda eqx: eqx.nn.LSTMCell(WIDTH, WIDTH, key=KEY), last_state),
    "equinox attention": equinox(lambda eqx: eqx.nn.MultiheadAttention(2, WIDTH, key=KEY), lambda m, r: m(r, r, r)),
    "equinox norm": equinox(
        lambda eqx: eqx.nn.Sequential([eqx.nn.Linear(WIDTH, 3, key=KEY), eqx.nn.LayerNorm(3)]), lambda m, row: m(row[0])
    ),
    "equinox convolution": equinox(
        lambda eqx: eqx.nn.Conv2d(1, 3, 3, key=KEY), lambda m, image: m(jnp.moveaxis(image, -1, 0)).max((1, 2))
    ),
    "equinox bfloat16": equinox(
        lambda eqx: eqx.nn.MLP(WIDTH, 3, WIDTH, 1, key=KEY), lambda m, row: m(row[0]), BFLOAT16
    ),
}


def outcome(name: str, algorithm: str) -> Outcome:
    """Some steps of a module of this name."""
    network = NETWORKS[name]()

    def function(params: Any, x: Any, y: Any) -> Any:
        return pj.cross_entropy(network.apply(params, x).reshape(ROWS, -1)[:, :3], y, strength=100.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of loops that are unrolled
        problem = pj.feasibility(function)
        settings: dict[str, Any] = {"algorithm": ALGORITHMS[algorithm], "steps": STEPS, "tolerance": np.inf}
        solution = pj.solve(problem, network.params, network.x, CLASSES, **settings)
    changes = [(jax.tree_util.keystr(path), np.asarray(c)) for path, c in jax.tree.leaves_with_path(solution.change)]
    found, expected = (
        np.asarray(out, np.float64)
        for out in (pj.evaluate(network.apply, solution.params, network.x), network.apply(solution.params, network.x))
    )
    finite = all(np.isfinite(change).all() for _, change in changes)
    still = [path for path, change in changes if not change.any()]
    return Outcome(len(changes), finite, still, float(np.abs(found - expected).max() / np.abs(expected).max()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(NETWORKS), help="all by default")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    options = parser.parse_args()
    print("| module | algorithm | leaves | finite | stood still | evaluated |", "| --- " * 6 + "|", sep="\n")
    for name in options.modules:
        for algorithm in options.algorithms:
            try:
                found = outcome(name, algorithm)
            except ImportError as error:
                print(f"| {name} | {algorithm} | left out: {error} | | | |", flush=True)
                continue
            still = ", ".join(found.still)
            print(
                f"| {name} | {algorithm} | {found.leaves} | {found.finite} | {still} | {found.difference:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
