"""Training with no optimiser, but a metric: an update is one sweep of cyclic projections, added as it is.

    python -m benchmarks.studies.costs --data-dir FOLDER --seeds 11 --held-back     # to choose
    python -m benchmarks.studies.costs --data-dir FOLDER                            # seeds 1, 2, 3, test images

MNIST, MLP 784-256-256-10: with constraints of single dot products the metrics of `pj.metric`, and with those of whole
layers ("coupled") none, and that of `ladder`.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import pjax_core as pj
from benchmarks.studies import directions

Array = Any
STEP = 10.0
"""How many times more hidden values cost from layer to layer."""


class Contender(NamedTuple):
    """A problem: what its constraints are, their metric, and how far the loss pulls."""

    dot_products: Any
    metric: Any
    strength: float


def ladder(mobilities: tuple[float, ...], biases: float = 2.0) -> dict[str, float]:
    """Hidden values that cost ``STEP`` times more from layer to layer: a rectified sum hands on what is asked of it.

    Its product, which costs what the inputs of the layer do, moves rather than its output; biases cost so many times
    more than the product.  Weights cost as much less than the inputs of their layer as they are mobile.
    """
    costs: dict[str, float] = {}
    for k, mobility in enumerate(mobilities):
        of_layer = STEP**k
        costs[f"params['w{k}']"] = of_layer / mobility
        costs[f"matmul {k + 1}"] = of_layer
        if k + 1 < len(mobilities):
            costs[f"params['b{k}']"] = of_layer * biases
            costs[f"sum_relu {k + 1}"] = of_layer * STEP
    return costs


LAYERS = pj.Layer("coupled", b=10.0, c=0.3)
CONTENDERS = {
    "paper": Contender("each", pj.metric.paper(), 5.0),
    "equal steps": Contender("each", pj.metric.equal_steps(), 5.0),
    "relative": Contender("each", pj.metric.relative(10.0), 5.0),
    "layers": Contender(LAYERS, pj.metric.paper(), 5.0),
    "layers, ladder": Contender(LAYERS, ladder((1e2, 1e1, 1.0)), 30.0 * STEP**2),
}


def update_of(contender: Contender, network: Any) -> Any:
    """One sweep from a fresh evaluation of the network."""

    def constraint(params: Any, x: Any, y: Any) -> Any:
        return pj.cross_entropy(network(params, x), y, strength=contender.strength)

    problem = pj.feasibility(constraint, dot_products=contender.dot_products, metric=contender.metric)

    @jax.jit
    def update(params: Any, state: None, x: Array, y: Array) -> tuple[Any, None]:
        floats = x.astype(jnp.float32), y.astype(jnp.float32)
        return pj.solve(problem, params, *floats, algorithm=pj.cyclic_projections(), steps=1).params, state

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz (else PJAX_DATA)")
    parser.add_argument("--metrics", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, help="to learn from, the first; all if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--held-back", action="store_true", help="accuracy on training images that are held back")
    arguments = parser.parse_args()
    given = {"model": "mlp", "data": "mnist", "raw": True, "residual": "none", "scale": "weights", "within": "none"}
    settings = argparse.Namespace(**given, sign=None, **vars(arguments))
    choosing, testing = directions.splits(settings)
    network, init = directions.network_of(settings, "each"), directions.initial(settings, *testing.train)
    hits = jax.jit(lambda params, x, y: jnp.argmax(network(params, 1.0 * x), -1) == jnp.argmax(y, -1))
    for name in arguments.metrics:
        update, split = update_of(CONTENDERS[name], network), choosing if arguments.held_back else testing
        runs = [directions.train(update, init(seed), None, split, settings, seed, hits) for seed in arguments.seeds]
        print(f"{name:16}{directions.summary(runs)}", flush=True)


if __name__ == "__main__":
    main()
