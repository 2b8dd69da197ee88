"""Predictive coding beside gradients in the same library, fabricpc, on the network of directions.py.

    pip install ".[studies]"
    python -m benchmarks.studies.predictive_coding --data-dir FOLDER

MNIST, standardised, MLP with rectified hidden layers, He initialisation, softmax and cross-entropy, Adam. Test accuracy
of the feedforward pass after each epoch, mean and standard deviation over seeds. Before that, the median time of an
update and its memory, in turn with those of directions.py. Rate and inference are the library's own settings, not
chosen.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from fabricpc import evaluate, train
from fabricpc.core.activations import IdentityActivation, ReLUActivation, SoftmaxActivation
from fabricpc.core.energy import CrossEntropyEnergy, GaussianEnergy
from fabricpc.core.inference import InferenceSGD
from fabricpc.core.topology import Edge
from fabricpc.graph_assembly import TaskMap, graph
from fabricpc.graph_initialization import initialize_params
from fabricpc.nodes import Linear
from fabricpc.training.trainer import make_train_step
from jax import Array

from benchmarks.studies import directions
from benchmarks.train import datasets

CONTENDERS = "backprop", "pc"
RULES = "gradients", "each", "layer", "layer, coupled"
"""Of directions.py, which are timed beside them."""


class Batches:
    """All samples in batches, in a new order each time."""

    def __init__(self, x: Any, y: Any, size: int, seed: int) -> None:
        self.x, self.y, self.size = x, y, size
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.x) // self.size

    def __iter__(self) -> Any:
        order = self.generator.permutation(len(self.x))
        for chosen in order[: len(self) * self.size].reshape(-1, self.size):
            yield {"x": self.x[chosen], "y": self.y[chosen]}


def network(hidden: list[int], eta: float, steps: int) -> Any:
    """The multilayer perceptron as a graph of fabricpc."""
    rectified = [Linear((width,), f"hidden{k}", ReLUActivation(), GaussianEnergy()) for k, width in enumerate(hidden)]
    image = Linear((784,), "image", IdentityActivation())
    label = Linear((10,), "label", SoftmaxActivation(), CrossEntropyEnergy())
    nodes = [image, *rectified, label]
    edges = [Edge(source=a, target=b.slot("in")) for a, b in zip(nodes, nodes[1:], strict=False)]
    inference = InferenceSGD(eta_infer=eta, infer_steps=steps)
    return graph(nodes=nodes, edges=edges, task_map=TaskMap(x=image, y=label), inference=inference)


def accuracies(structure: Any, algorithm: str, data: Any, arguments: argparse.Namespace, seed: int) -> list[float]:
    """In percent, after each epoch."""
    x, y, x_test, y_test = data
    test = Batches(x_test, y_test, 1000, 0)
    found: list[float] = []

    def after_epoch(epoch: Any) -> None:
        metrics = evaluate(epoch.params, structure, test, {}, jax.random.key(0), algorithm="backprop")
        found.append(100 * float(metrics["accuracy"]))

    train(
        initialize_params(structure, jax.random.key(seed)),
        structure,
        Batches(x, y, arguments.batch, seed),
        optax.adam(arguments.rate),
        {"num_epochs": arguments.epochs},
        jax.random.key(seed),
        algorithm=algorithm,
        verbose=False,
        epoch_callback=after_epoch,
    )
    return found


def timed(structure: Any, data: Any, arguments: argparse.Namespace) -> dict[str, directions.Timed]:
    """An update of each rule here, and of each contender in the library."""
    x, y, *_ = data
    found = directions.timed(RULES, directions.parse_arguments(["--hidden", *map(str, arguments.hidden)]), x, y)
    optimizer, key = optax.adam(arguments.rate), jax.random.key(0)
    params = initialize_params(structure, key)
    begin, batch = (params, optimizer.init(params)), ({"x": x[: arguments.batch], "y": y[: arguments.batch]},)
    for name in CONTENDERS:
        step = make_train_step(structure, optimizer, algorithm=name)
        found[f"fabricpc, {name}"] = directions.Timed(
            jax.jit(functools.partial(without_state, step, key)), begin, batch
        )
    return found


def without_state(step: Any, key: Array, params: Any, state: Any, batch: Any) -> Any:
    """The inferred values are not handed back, as no update of directions.py hands back its hidden values."""
    return step(params, state, batch, key)[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz (else PJAX_DATA)")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--eta", type=float, default=0.05, help="step size of inference")
    parser.add_argument("--steps", type=int, default=20, help="of inference")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--time", action="store_true", help="time updates, without training")
    arguments = parser.parse_args()
    mnist = datasets.load("mnist", data_dir=arguments.data_dir)
    images = datasets.standardised(mnist.x_train, mnist.x_test, axes=(0, 1, 2))
    x, x_test = (np.asarray(array).reshape(len(array), -1) for array in images)
    data = x, mnist.y_train, x_test, mnist.y_test
    structure = network(arguments.hidden, arguments.eta, arguments.steps)
    directions.print_times(timed(structure, data, arguments))
    if arguments.time:
        return
    for name in CONTENDERS:
        found = np.array([accuracies(structure, name, data, arguments, seed) for seed in arguments.seeds])
        epochs = zip(found.mean(axis=0), found.std(axis=0), strict=True)
        print(f"{name:9}" + "".join(f"  {mean:.2f} +- {spread:.2f}" for mean, spread in epochs), flush=True)


if __name__ == "__main__":
    main()
