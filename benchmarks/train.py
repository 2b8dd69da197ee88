"""Trains an MLP by projections and draws its learning curve.

python benchmarks/train.py --data digits --algorithm ap --hidden 128 128 --skip --out results/digits
"""

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import datasets
import pjax_core as pj
from datasets import Dataset, DatasetError

Params = dict[str, Array]
Network = Callable[[Params, Array], Array]

ALGORITHM_NAMES = {
    "ap": "alternating projections",
    "cp": "cyclic projections",
    "ar": "alternating reflections",
    "dr": "Douglas-Rachford",
    "dm": "difference map",
    "cdr": "cyclic Douglas-Rachford",
}
WITHOUT_COPIES = {"ap": pj.alternating_projections, "cp": pj.cyclic_projections}


class SettingsError(ValueError):
    """The settings do not fit each other or the data."""


@dataclass(frozen=True)
class Settings:
    """What is trained, and how."""

    hidden: tuple[int, ...] = (128,)
    skip: bool = False
    algorithm: str = "ap"
    copies: str = "auto"  # or dense, or the history of factored copies
    relaxation: float = 0.5  # of dr
    beta: float = 1.0  # of dm
    loss: str = "cross_entropy"
    strength: float = 5.0  # of cross_entropy
    batch_size: int = 256
    steps: int = 50  # of the algorithm, in an update
    updates: int = 100
    evaluate_every: int = 10  # updates
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """One row of the learning curve."""

    update: int
    seconds: float  # of training so far, without compilation and evaluation
    train_accuracy: float  # on the batch of this update
    test_accuracy: float
    residual: float  # RMS change in the last step of this update
    truncation: float  # largest bound, over all updates so far, on what factored copies left out of an update


@dataclass(frozen=True)
class Training:
    """What `train` returns."""

    params: Params
    curve: list[Record]
    compile_seconds: float  # the first call, thrown away


def make_network(hidden: Sequence[int], skip: bool = False) -> Network:
    """An MLP: relu(h @ w + b) for each hidden layer, h @ w for the logits.

    With `skip`, a hidden layer that is as wide as the one before it is relu(h @ w + b + h).
    """
    if not hidden:
        raise SettingsError("hidden is empty: name the width of at least one hidden layer")
    widths = tuple(hidden)
    has_skip = [skip and before == width for before, width in pairwise((None, *widths))]
    if skip and not any(has_skip):
        raise SettingsError(
            f"skip needs two hidden layers of equal width in a row, but hidden is {widths}: "
            "repeat a width or leave skip out"
        )

    def network(params: Params, x: Array) -> Array:
        h = x
        for k, skips in enumerate(has_skip):
            terms = [pj.matmul(h, params[f"w{k}"]), params[f"b{k}"], *([h] if skips else [])]
            h = pj.sum_relu(*terms)
        return pj.matmul(h, params[f"w{len(widths)}"])

    return network


def initialise(key: Array, sizes: Sequence[int]) -> Params:
    """Weights by He et al. (arXiv 1502.01852), biases zero; `sizes` runs from the inputs to the logits."""
    params = {}
    for k, (rows, columns) in enumerate(pairwise(sizes)):
        key, subkey = jax.random.split(key)
        params[f"w{k}"] = jnp.sqrt(2 / rows) * jax.random.normal(subkey, (rows, columns))
        if k < len(sizes) - 2:
            params[f"b{k}"] = jnp.zeros(columns)
    return params


def batches(data: Dataset, batch_size: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Minibatches without end: a new permutation each epoch, its incomplete last batch left out."""
    samples = len(data.x_train)
    if batch_size > samples:
        raise SettingsError(f"batch_size is {batch_size}, more than the {samples} training samples: pass less")
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(samples)
        for start in range(0, samples - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield jnp.asarray(data.x_train[chosen]), jnp.asarray(data.y_train[chosen])


def make_algorithm(settings: Settings) -> pj.Algorithm:
    """The algorithm of the settings."""
    if settings.algorithm in WITHOUT_COPIES:
        return WITHOUT_COPIES[settings.algorithm]()
    # A history leaves narrow layers dense: there the factored form is not safe.
    copies = settings.copies if settings.copies in ("auto", "dense") else pj.Factored(history=int(settings.copies))
    budget = 0 if copies == "dense" else pj.DENSE_BUDGET
    try:
        if settings.algorithm == "dr":
            return pj.douglas_rachford(settings.relaxation, copies=copies, budget=budget)
        if settings.algorithm == "dm":
            return pj.difference_map(settings.beta, copies=copies, budget=budget)
        if settings.algorithm == "ar":
            return pj.alternating_reflections(copies=copies, budget=budget)
        return pj.cyclic_douglas_rachford(copies=copies, budget=budget)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def make_update(network: Network, settings: Settings) -> Callable[[Params, Params, Array, Array], pj.Solution]:
    """One update: `settings.steps` iterations on a minibatch, from given parameters and their low parts."""
    if settings.loss == "margin":
        problem = pj.feasibility(lambda params, x, y: pj.margin_loss(network(params, x), y))
    else:
        problem = pj.feasibility(
            lambda params, x, y: pj.cross_entropy(network(params, x), y, strength=settings.strength)
        )
    algorithm = make_algorithm(settings)

    def update(params: Params, params_low: Params, x: Array, y: Array) -> pj.Solution:
        solution = pj.solve(
            problem,
            params,
            x,
            y,
            algorithm=algorithm,
            steps=settings.steps,
            params_low=params_low,
            tolerance=math.inf,  # the learning curve reports what is left out
        )
        return jax.block_until_ready(solution)

    return update


def make_accuracy(network: Network) -> Callable[[Params, Array, Array], Array]:
    """The share of samples whose largest logit is at their label."""

    @jax.jit
    def accuracy(params: Params, x: Array, y: Array) -> Array:
        predictions = pj.evaluate(network, params, x)
        return jnp.mean(jnp.argmax(predictions, -1) == jnp.argmax(y, -1))

    return accuracy


def train(data: Dataset, settings: Settings, *, progress: bool = False) -> Training:
    """Trains on one minibatch an update, the parameters carried on from update to update."""
    network = make_network(settings.hidden, settings.skip)
    update = make_update(network, settings)
    accuracy = make_accuracy(network)
    sizes = (data.x_train.shape[1], *settings.hidden, data.y_train.shape[1])
    params = initialise(jax.random.key(settings.seed), sizes)
    # An increment can be smaller than the rounding of its parameter: the low parts keep it.
    params_low = jax.tree.map(jnp.zeros_like, params)
    x_test, y_test = jnp.asarray(data.x_test), jnp.asarray(data.y_test)

    start = time.perf_counter()
    update(params, params_low, *next(batches(data, settings.batch_size, settings.seed)))
    compile_seconds = time.perf_counter() - start

    curve: list[Record] = []
    seconds = truncation = 0.0
    stream = batches(data, settings.batch_size, settings.seed)
    with tqdm(range(1, settings.updates + 1), unit="update", disable=not progress) as bar:
        for number in bar:
            start = time.perf_counter()
            x, y = next(stream)
            solution = update(params, params_low, x, y)
            seconds += time.perf_counter() - start
            params, params_low = solution.params, solution.params_low
            truncation = float(np.max([truncation, *(jnp.sum(left) for left in solution.info.truncation.values())]))
            if number % settings.evaluate_every == 0 or number == settings.updates:
                record = Record(
                    update=number,
                    seconds=seconds,
                    train_accuracy=float(accuracy(params, x, y)),
                    test_accuracy=float(accuracy(params, x_test, y_test)),
                    residual=float(solution.info.residual[-1]),
                    truncation=truncation,
                )
                curve.append(record)
                bar.set_postfix_str(f"test accuracy {record.test_accuracy:.1%}")
    return Training(params, curve, compile_seconds)


def write_csv(curve: Sequence[Record], path: Path) -> None:
    """One row a record, the field names as header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Record)])
        writer.writeheader()
        writer.writerows(asdict(record) for record in curve)


def draw(curve: Sequence[Record], title: str) -> Figure:
    """Accuracies above, residual below, against updates."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    updates = [record.update for record in curve]
    above.plot(updates, [100 * r.train_accuracy for r in curve], "C7", lw=1, label="training batch")
    above.plot(updates, [100 * r.test_accuracy for r in curve], "C0", marker=".", label="test")
    above.set(title=title, ylabel="accuracy (%)")
    above.legend(loc="lower right")
    below.plot(updates, [r.residual for r in curve], "C3", marker=".")
    below.set(xlabel="updates", ylabel="residual (RMS change a step)", yscale="log")
    for panel in (above, below):
        panel.grid(alpha=0.3)
    return figure


def at_least(minimum: int) -> Callable[[str], int]:
    """Reads an argument that is an integer from `minimum` up."""

    def integer(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
        return number

    return integer


def positive_float(text: str) -> float:
    """The argument as a finite number above zero."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def copies(text: str) -> str:
    """Reads how copies are kept: auto, dense, or the history of factored ones."""
    return text if text in ("auto", "dense") else str(at_least(1)(text))


def make_parser() -> argparse.ArgumentParser:
    """The command line's arguments; the settings have the names and defaults of `Settings`."""
    default = Settings()
    parser = argparse.ArgumentParser(
        description="Train an MLP by projections. Writes learning_curve.csv and learning_curve.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", choices=["digits", "mnist"], default="digits", help="data set")
    add("--data-dir", type=Path, help="folder with mnist.npz; if not given PJAX_DATA, else a download")
    add("--algorithm", choices=ALGORITHM_NAMES, default=default.algorithm, help="described in the README")
    add("--copies", type=copies, default=argparse.SUPPRESS, help="auto, dense, or a history (default: auto)")
    add("--relaxation", type=positive_float, default=argparse.SUPPRESS, help="of dr, up to 1 (default: 0.5)")
    add("--beta", type=float, default=argparse.SUPPRESS, help="of dm, not 0 (default: 1)")
    add("--hidden", type=at_least(1), nargs="+", default=default.hidden, help="widths of the hidden layers")
    add("--skip", action="store_true", help="skip connections between hidden layers of equal width")
    add("--loss", choices=["cross_entropy", "margin"], default=default.loss, help="output constraint")
    add("--strength", type=positive_float, default=argparse.SUPPRESS, help="of cross_entropy (default: 5)")
    add("--batch-size", type=at_least(1), default=default.batch_size, help="samples in a minibatch")
    add("--steps", type=at_least(1), default=default.steps, help="iterations of the algorithm in an update")
    add("--updates", type=at_least(1), default=default.updates, help="minibatches to train on")
    add(
        "--evaluate-every",
        type=at_least(1),
        default=default.evaluate_every,
        help="updates between evaluations",
    )
    add(
        "--seed",
        type=at_least(0),
        default=default.seed,
        help="of parameters, batches and the split of digits",
    )
    add("--out", type=Path, default=Path("results"), help="folder for the learning curve")
    return parser


def read_settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Settings:
    """The settings among the options."""
    given = vars(options)
    if options.loss == "margin" and "strength" in given:
        parser.error("--strength is a setting of cross_entropy: leave it out with --loss margin")
    for name, algorithms in {"copies": ("ar", "dr", "dm", "cdr"), "relaxation": ("dr",), "beta": ("dm",)}.items():
        if name in given and options.algorithm not in algorithms:
            parser.error(f"--{name} is a setting of {', '.join(algorithms)}: leave it out with {options.algorithm}")
    names = {field.name for field in fields(Settings)}
    return Settings(**{k: v for k, v in given.items() if k in names} | {"hidden": tuple(options.hidden)})


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    settings = read_settings(parser, options)
    try:
        data = datasets.load(options.data, seed=options.seed, data_dir=options.data_dir)
        training = train(data, settings, progress=True)
    except (DatasetError, SettingsError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    report(training, f"{options.data}, {describe(settings)}", options.out)


def describe(settings: Settings) -> str:
    """One line for the title."""
    layers = "-".join(map(str, settings.hidden)) + (" with skips" if settings.skip else "")
    return f"hidden {layers}, batch {settings.batch_size}: {ALGORITHM_NAMES[settings.algorithm]}"


def report(training: Training, title: str, folder: Path) -> None:
    """Writes the learning curve into `folder` and prints what was reached."""
    folder.mkdir(parents=True, exist_ok=True)
    table, picture = folder / "learning_curve.csv", folder / "learning_curve.png"
    write_csv(training.curve, table)
    draw(training.curve, title).savefig(picture, dpi=150)
    best = max(training.curve, key=lambda record: record.test_accuracy)
    last = training.curve[-1]
    print(f"Best test accuracy: {best.test_accuracy:.2%} after {best.update} updates")
    print(f"Last test accuracy: {last.test_accuracy:.2%} after {last.update} updates")
    if last.truncation:
        print(f"Factored copies left out at most {last.truncation:.1e} of the change in an update")
    print(f"Training time: {last.seconds:.1f} s")
    print(f"Compilation and warm-up, before that: {training.compile_seconds:.1f} s")
    print(f"Learning curve: {picture} and {table}")


if __name__ == "__main__":
    main()
