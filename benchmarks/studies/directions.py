"""Directions: projections and gradients with the same optimiser, update by update.

    python -m benchmarks.studies.directions --data-dir FOLDER --hidden 256 256 --epochs 3 --seeds 1 2 3
    python -m benchmarks.studies.directions --data-dir FOLDER --model rnn --data shakespeare --hidden 128 --batch 64

Each contender takes the same batches. Of several `--rates` the best is chosen on training samples that are held back
(the last tenth, at most 5,000), with seeds of their own. Test accuracy after each epoch; with `--time` the milliseconds
and the memory of an update with its optimiser, interleaved with that of gradients in the same process (so say on which
machine, and how busy it was). With `--within` weights are in a set: see `placed`.

    python -m benchmarks.studies.directions --data-dir FOLDER --hidden 256 --within ternary
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import pjax_core as pj
from benchmarks.train import datasets, models

Params = dict[str, Array]
OPTIMIZERS: dict[str, Any] = {
    "adam": optax.adam,
    "muon": optax.contrib.muon,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "none": optax.sgd,  # the direction times a rate
}


class Rule(NamedTuple):
    """How a direction is found: the constraints of dot products, and if not by one sweep, steps of an algorithm."""

    dot_products: str | pj.Layer
    algorithm: pj.Algorithm | None = None
    steps: int = 1


RULES: dict[str, Rule] = {
    "each": Rule("each"),
    "layer": Rule("layer"),
    "layer, b = 100": Rule(pj.Layer(b=100.0)),
    "layer, apart": Rule(pj.Layer("apart", steps=2)),
    "layer, coupled": Rule(pj.Layer("coupled")),
    "layer, coupled, b = 30, c = 3": Rule(pj.Layer("coupled", b=30.0, c=3.0)),
    "layer, coupled, b = 300": Rule(pj.Layer("coupled", b=300.0)),
    "alternating projections, 4 steps": Rule("each", pj.alternating_projections(), 4),
    "Douglas-Rachford, 4 steps": Rule("each", pj.douglas_rachford(copies=pj.Factored(3)), 4),
    "difference map, 4 steps": Rule("each", pj.difference_map(copies=pj.Factored(3)), 4),
}

MODELS: dict[str, Callable[[tuple[int, ...]], models.Model]] = {
    "mlp": models.mlp,
    "cnn": models.pooled_cnn,
    "resnet": models.resnet,
    "rnn": models.rnn,
    "transformer": models.transformer,
}


def initial(arguments: argparse.Namespace, samples: Array, labels: Array) -> Callable[[int], Params]:
    """The parameters of a seed, He initialisation; the hidden layers after the first of a residual MLP scaled.

    relu(scale (h W + b)) = scale relu(h W + b): the scale is in the weights, where it is exact; with `--scale outputs`
    it stays outside, and an optimiser's steps are smaller beside the weights.
    """
    depth = len(arguments.hidden)
    scale = residual_scale(arguments) if arguments.scale == "weights" else 1.0
    model = MODELS[arguments.model](tuple(arguments.hidden))

    def init(seed: int) -> Params:
        params = model.init(jax.random.key(seed), samples.shape[1:], labels.shape[-1])
        if arguments.model != "mlp":
            return params
        return {name: scale * a if name[0] == "w" and 0 < int(name[1:]) < depth else a for name, a in params.items()}

    return init


def residual_scale(arguments: argparse.Namespace) -> float:
    depth = len(arguments.hidden)
    return {"none": 1.0, "1/depth": 1 / depth, "1/sqrt": depth**-0.5}[arguments.residual]


def network_of(arguments: argparse.Namespace, rule: str) -> Callable[[Params, Any], Any]:
    """Of an MLP with `--residual` one whose hidden layers after the first are added to their inputs."""
    if arguments.model != "mlp":
        return MODELS[arguments.model](tuple(arguments.hidden)).apply
    depth = len(arguments.hidden)
    activation: Callable[..., Any] = jax.nn.relu
    if arguments.sign:
        relaxed = functools.partial(pj.quantize, levels=2, relaxed=arguments.sign == "relaxed")
        activation = straight_through if rule == "gradients" else relaxed

    def apply(params: Params, x: Any) -> Any:
        h = x
        for k in range(depth):
            new = activation(h @ params[f"w{k}"] + params[f"b{k}"])
            if arguments.scale == "outputs" and k:
                new = residual_scale(arguments) * new
            h = h + new if k and arguments.residual != "none" else new
        return h @ params[f"w{depth}"]

    return apply


def straight_through(x: Array) -> Array:
    """The sign, with the derivative of a line from -1 to 1."""
    line = jnp.clip(x, -1, 1)
    return line + jax.lax.stop_gradient(pj.quantize(x, levels=2) - line)


def contender(rule: str, network: Any, strength: float) -> Callable[..., Any]:
    """The direction of a rule, or the gradient of the mean cross-entropy."""
    if rule == "gradients":

        def loss(params: Params, x: Array, y: Array) -> Array:
            return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(network(params, x)), axis=-1))

        return jax.grad(loss)

    def constraint(params: Params, x: Any, y: Any) -> Any:
        return pj.cross_entropy(network(params, x), y, strength=strength)

    dot_products, algorithm, steps = RULES[rule]
    problem = pj.feasibility(constraint, dot_products=dot_products)
    return functools.partial(pj.direction, problem, algorithm=algorithm, steps=steps)


def regions(params: Params, kind: str) -> dict[str, pj.Levels | pj.Sparse]:
    """The set of each weight matrix: 0 and both signs of the deviation it starts with, or one of ten a unit not 0."""
    weights = {name: w for name, w in params.items() if w.ndim > 1}
    if kind == "ternary":
        deviations = {name: math.sqrt(2 / len(w)) for name, w in weights.items()}
        return {name: pj.Levels((-size, 0, size)) for name, size in deviations.items()}
    return {name: pj.Sparse(len(w) // 10, axis=0) for name, w in weights.items()} if kind == "sparse" else {}


def placed(params: Params, kind: str) -> Params:
    """The nearest point of the sets: what a network computes with.

    Directions are taken there, and an optimiser adds them up outside, in what is placed anew: nothing else gets from
    one level to the next by small changes. (Courbariaux, Bengio, David, BinaryConnect, arXiv 1511.00363.)
    """
    return params | {name: region.project(params[name]) for name, region in regions(params, kind).items()}


def require_in_sets(params: Params, kind: str) -> None:
    for name, region in regions(params, kind).items():
        distance = float(pj.within(params[name], region))
        if distance:
            raise AssertionError(f"{name} is not in its set: the mean squared distance is {distance}")


def make_update(direction: Callable[..., Any], optimizer: Any, kind: str) -> Callable[..., Any]:
    """One compiled update, of samples and labels that may be bytes."""

    @jax.jit
    def update(params: Params, state: Any, x: Array, y: Array) -> tuple[Params, Any]:
        floats = x.astype(jnp.float32), y.astype(jnp.float32)
        changes, state = optimizer.update(direction(placed(params, kind), *floats), state, params)
        return optax.apply_updates(params, changes), state

    return update


def optimizer_of(name: str) -> Any:
    """An optimiser whose rate is a number in its state, so that it is compiled once for all rates."""
    return optax.inject_hyperparams(OPTIMIZERS[name])(learning_rate=1e-3)


class Run(NamedTuple):
    """One training."""

    accuracies: list[float]  # in percent, after each epoch
    seconds: list[float]  # of the processors, in the updates until then
    least_movement: float  # of all weight matrices: the norm of the change over that of the start


def train(update: Any, params: Params, state: Any, data: Any, arguments: Any, seed: int, hits: Any) -> Run:
    """Train from the parameters."""
    (x, y), (x_test, y_test) = data
    generator, begin = np.random.default_rng(seed), params
    accuracies: list[float] = []
    seconds: list[float] = []
    for _ in range(arguments.epochs):
        order, before = generator.permutation(len(x)), time.process_time()
        for start in range(0, len(x) - arguments.batch + 1, arguments.batch):
            chosen = order[start : start + arguments.batch]
            params, state = update(params, state, x[chosen], y[chosen])
        jax.block_until_ready(params)
        seconds.append(time.process_time() - before + sum(seconds[-1:]))
        parts = range(0, len(x_test), EVALUATED_AT_ONCE)
        held = placed(params, arguments.within)
        found = [hits(held, *(array[i : i + EVALUATED_AT_ONCE] for array in (x_test, y_test))) for i in parts]
        accuracies.append(100 * float(jnp.mean(jnp.concatenate(found))))
    require_in_sets(placed(params, arguments.within), arguments.within)
    norms = [(jnp.linalg.norm(params[name] - w), jnp.linalg.norm(w)) for name, w in begin.items() if w.ndim > 1]
    return Run(accuracies, seconds, min(float(change / size) for change, size in norms if size > 0))


EVALUATED_AT_ONCE = 1000
"""Samples: the hidden values of all of them need much memory."""


class Timed(NamedTuple):
    """An update with its optimiser, where it begins, and its batch."""

    update: Any
    begin: Any
    batch: Any

    def __call__(self) -> Any:
        return self.update(*self.begin, *self.batch)


def milliseconds(contenders: dict[str, Timed]) -> dict[str, float]:
    """The median time of an update, one of each contender after the other."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(200):
        for name, update in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(update())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(of_one[10:])) for name, of_one in times.items()}


def mebibytes(timed: Timed) -> float:
    """What an update holds that replaces parameters and optimiser state in their places."""
    compiled = jax.jit(timed.update, donate_argnums=(0, 1)).lower(*timed.begin, *timed.batch).compile()
    used: Any = compiled.memory_analysis()
    held = used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes
    return (held + used.temp_size_in_bytes) / 2**20


def print_programs(contenders: dict[str, Timed]) -> None:
    """Instructions of the compiled update of each rule, and the processors' seconds from tracing to there."""
    for rule, timed in contenders.items():
        start = time.process_time()
        text = timed.update.lower(*timed.begin, *timed.batch).compile().as_text() or ""
        print(f"{rule:16} {text.count(' = '):8} instructions {time.process_time() - start:8.1f} s", flush=True)


class Split(NamedTuple):
    """Samples and labels to learn from, and what is tested on."""

    train: tuple[Array, Array]
    test: tuple[Array, Array]


class Found(NamedTuple):
    """Of one contender."""

    held_back: dict[float, float]  # the accuracy of each rate, where there are several
    rate: float
    runs: list[Run]


def find(rule: str, optimizer: Any, arguments: argparse.Namespace, data: tuple[Split, Split]) -> Found:
    """The runs of a rule and an optimiser, with the rate that is best on samples held back."""
    choosing, testing = data
    init, network = initial(arguments, *testing.train), network_of(arguments, rule)
    update = make_update(contender(rule, network, arguments.strength), optimizer, arguments.within)
    hits = jax.jit(lambda params, x, y: jnp.argmax(network(params, 1.0 * x), -1) == jnp.argmax(y, -1))

    def run(split: Split, seed: int, rate: float) -> Run:
        params = init(seed)
        state = optimizer.init(params)._replace(hyperparams={"learning_rate": jnp.asarray(rate)})
        return train(update, params, state, split, arguments, seed, hits)

    def runs(split: Split, seeds: list[int], rate: float) -> list[Run]:
        return [run(split, seed, rate) for seed in seeds]

    rate, held = arguments.rates[0], {}
    if len(arguments.rates) > 1:
        of_rates = {rate: runs(choosing, arguments.choosing_seeds, rate) for rate in arguments.rates}
        held = {rate: float(np.mean([run.accuracies[-1] for run in found])) for rate, found in of_rates.items()}
        rate = max(held, key=lambda rate: held[rate])
    return Found(held, rate, runs(testing, arguments.seeds, rate))


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz (else PJAX_DATA)")
    parser.add_argument("--rules", nargs="+", default=["gradients", "each", "layer"], choices=["gradients", *RULES])
    parser.add_argument("--model", choices=MODELS, default="mlp", help="described in models.py")
    parser.add_argument("--data", choices=["mnist", "cifar10", "shakespeare"], default="mnist")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--residual", default="none", choices=["none", "1/depth", "1/sqrt"])
    parser.add_argument("--scale", default="weights", choices=["weights", "outputs"], help="what residuals scale")
    parser.add_argument("--within", default="none", choices=["none", "ternary", "sparse"], help="sets of weights")
    parser.add_argument("--sign", choices=["relaxed", "exact"], help="signs for activations")
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1e-3], help="of several, the best on images held back"
    )
    parser.add_argument("--choosing-seeds", type=int, nargs="+", default=[11, 12])
    parser.add_argument("--strength", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, help="to learn from, the first; all if not given")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--raw", action="store_true", help="images from 0 to 1, not standardised")
    parser.add_argument("--time", action="store_true", help="time updates instead of training")
    parser.add_argument("--compile", action="store_true", help="compile updates instead of training")
    return parser.parse_args(given)


HELD = 5_000
"""Of the training samples the last, and at most a tenth, on which rates are chosen."""


def splits(arguments: argparse.Namespace) -> tuple[Split, Split]:
    """For choosing, without the samples that are held back, and for testing.

    Images of MNIST have mean 0 and standard deviation 1 over all training images, and are rows for an MLP.
    """
    data = datasets.load(arguments.data, data_dir=arguments.data_dir)
    images = data.x_train, data.x_test
    if arguments.data == "mnist" and not arguments.raw:
        images = datasets.standardised(*images, axes=(0, 1, 2))
    if arguments.model == "mlp":
        images = images[0].reshape(len(images[0]), -1), images[1].reshape(len(images[1]), -1)
    x, y, x_test, y_test = map(jnp.asarray, (images[0], data.y_train, images[1], data.y_test))
    rest = len(x) - min(HELD, len(x) // 10)
    fewer, every = (slice(0, min(arguments.samples or n, n)) for n in (rest, len(x)))
    return Split((x[fewer], y[fewer]), (x[rest:], y[rest:])), Split((x[every], y[every]), (x_test, y_test))


def timed(rules: Sequence[str], arguments: argparse.Namespace, x: Array, y: Array) -> dict[str, Timed]:
    """The update of each rule, from the same parameters."""
    optimizer, params = optimizer_of(arguments.optimizer), initial(arguments, x, y)(1)
    begin, batch = (params, optimizer.init(params)), (x[: arguments.batch], y[: arguments.batch])
    directions = {rule: contender(rule, network_of(arguments, rule), arguments.strength) for rule in rules}
    return {
        rule: Timed(make_update(found, optimizer, arguments.within), begin, batch) for rule, found in directions.items()
    }


def print_times(contenders: dict[str, Timed]) -> None:
    """Milliseconds and memory of an update of each contender, and how much that is of the first one."""
    times = milliseconds(contenders)
    memory = {name: mebibytes(update) for name, update in contenders.items()}
    for name in contenders:
        as_long, as_much = (of[name] / next(iter(of.values())) for of in (times, memory))
        print(f"{name:28} {times[name]:8.2f} ms {as_long:6.2f} {memory[name]:8.2f} MiB {as_much:6.2f}", flush=True)


def summary(runs: list[Run]) -> str:
    """The accuracies after each epoch, mean and spread, the last of each seed, and the least movement of weights."""
    accuracies = np.array([run.accuracies for run in runs])
    pairs = zip(accuracies.mean(axis=0), accuracies.std(axis=0), strict=True)
    epochs = "".join(f"  {mean:.2f} +- {spread:.2f}" for mean, spread in pairs)
    lasts = " ".join(f"{accuracy:.1f}" for accuracy in accuracies[:, -1])
    return f"{epochs} ({lasts})  weights moved by {min(run.least_movement for run in runs):.1e} or more"


def main() -> None:
    arguments = parse_arguments()
    optimizer, data = optimizer_of(arguments.optimizer), splits(arguments)
    if arguments.time or arguments.compile:
        show = print_times if arguments.time else print_programs
        show(timed(arguments.rules, arguments, *data[1].train))
        return
    for rule in arguments.rules:
        held_back, rate, runs = find(rule, optimizer, arguments, data)
        if held_back:
            print(f"{rule:16}  held back: " + "  ".join(f"{rate:g}: {found:.2f}" for rate, found in held_back.items()))
        print(f"{rule:16}  rate {rate:g}{summary(runs)}", flush=True)


if __name__ == "__main__":
    main()
