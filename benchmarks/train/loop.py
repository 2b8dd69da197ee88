"""Training of a network by projections, its record, and its learning curve."""

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

import pjax_core as pj
from benchmarks.train import models
from benchmarks.train.datasets import Dataset
from benchmarks.train.models import Model, Network, Params, SettingsError

ALGORITHM_NAMES = {
    "ap": "alternating projections",
    "cp": "cyclic projections",
    "ar": "alternating reflections",
    "dr": "Douglas-Rachford",
    "dm": "difference map",
    "cdr": "cyclic Douglas-Rachford",
}
HIDDEN = {"mlp": (128,), "cnn": (32, 128), "rnn": (128,)}
"""The hidden layers of each model that the command line trains if not told otherwise."""
SETTINGS_OF = {"skip": ("mlp",), "strides": ("cnn",), "quantize": ("mlp", "cnn")}
"""The models that have these settings."""
ALGORITHMS_WITH = {"in_turn": ("ap",), "copies": ("ar", "dr", "dm", "cdr"), "relaxation": ("dr",), "beta": ("dm",)}
"""The algorithms that have these settings."""
PROFILED_STEPS = 3
EVALUATED_AT_ONCE = 1000  # samples: the hidden values of all of them need much memory


@dataclass(frozen=True)
class Settings:
    """What is trained, and how."""

    model: str = "mlp"
    hidden: tuple[int, ...] = (128,)
    skip: bool = False  # of mlp
    strides: tuple[int, ...] | None = None  # of the convolutions of cnn
    quantize: int | None = None  # levels of the activations of mlp and cnn, which are else rectified
    algorithm: str = "ap"
    in_turn: bool = False  # ap: one layer after the other
    copies: str = "auto"  # or dense, or the history of factored copies
    relaxation: float = 0.5  # of dr
    beta: float = 1.0  # of dm
    dot_products: str = "each"  # a constraint for each, or for all of a "layer"
    margin: bool = False  # else cross-entropy
    strength: float = 5.0  # of cross-entropy
    batch_size: int = 256
    steps: int = 50  # of the algorithm, in an update
    updates: int = 100
    adam: float | None = None  # rate of Adam, for which the change in an update is a direction, else it is added
    evaluate_every: int = 10  # updates
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """One row of the learning curve."""

    update: int
    seconds: float  # of training so far, without compilation and evaluation
    train_accuracy: float  # on the batch of this update
    test_accuracy: float
    residual: float  # RMS change in the last step of this update; with Adam, of the direction
    truncation: float  # largest bound, over all updates so far, on what factored copies left out of an update


@dataclass(frozen=True)
class Training:
    """What `train` returns."""

    params: Params
    curve: list[Record]
    compile_seconds: float  # the first call, thrown away


def make_model(settings: Settings) -> Model:
    """The model of the settings."""
    if settings.model == "cnn":
        return models.cnn(settings.hidden, settings.strides, settings.quantize)
    if settings.model == "rnn":
        return models.rnn(settings.hidden)
    return models.mlp(settings.hidden, settings.skip, settings.quantize)


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
            yield as_floats(data.x_train[chosen]), as_floats(data.y_train[chosen])


def as_floats(array: NDArray[Any]) -> Array:
    """Samples or labels as networks take them."""
    return jnp.asarray(array, jnp.float32)


def make_algorithm(settings: Settings) -> pj.Algorithm:
    """The algorithm of the settings."""
    if settings.algorithm == "ap":
        return pj.alternating_projections(in_turn=settings.in_turn)
    if settings.algorithm == "cp":
        return pj.cyclic_projections()
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


class Outcome(NamedTuple):
    """What an update found, before the parameters are moved."""

    params: Params  # as iterations have moved them; with Adam, as they were
    params_low: Params
    direction: Params | None  # for Adam
    residual: Array  # RMS change in the last iteration; with Adam, of the direction
    truncation: Array  # the largest bound on what factored copies left out


def make_update(network: Network, settings: Settings) -> Callable[[Params, Params, Array, Array], Outcome]:
    """One update: `settings.steps` iterations on a minibatch, from given parameters and their low parts."""

    def constraint(params: Params, x: Any, y: Any) -> Any:
        if settings.margin:
            return pj.margin_loss(network(params, x), y)
        return pj.cross_entropy(network(params, x), y, strength=settings.strength)

    problem = pj.feasibility(constraint, dot_products=settings.dot_products)
    algorithm = make_algorithm(settings)

    def direct(params: Params, params_low: Params, x: Array, y: Array) -> Outcome:
        one_sweep = settings.algorithm == "cp" and settings.steps == 1
        given = None if one_sweep else algorithm
        direction = pj.direction(problem, params, x, y, algorithm=given, steps=settings.steps)
        leaves = jax.tree.leaves(direction)
        residual = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves) / sum(leaf.size for leaf in leaves))
        return jax.block_until_ready(Outcome(params, params_low, direction, residual, jnp.zeros(())))

    def update(params: Params, params_low: Params, x: Array, y: Array) -> Outcome:
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
        left_out = [jnp.sum(left) for left in solution.info.truncation.values()]
        truncation = jnp.max(jnp.stack([jnp.zeros(()), *left_out]))
        residual = solution.info.residual[-1]
        return jax.block_until_ready(Outcome(solution.params, solution.params_low, None, residual, truncation))

    return update if settings.adam is None else direct


def make_advance(settings: Settings, params: Params) -> Callable[[Params, Outcome], tuple[Params, Params]]:
    """The parameters that follow from those before an update and its outcome, and their low parts."""
    if settings.adam is None:
        return lambda before, outcome: (outcome.params, outcome.params_low)
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.adam, settings.updates))
    state = optimizer.init(params)
    nothing = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(before: Params, direction: Params, state: optax.OptState) -> tuple[Params, optax.OptState]:
        updates, state = optimizer.update(direction, state)
        return optax.apply_updates(before, updates), state

    def advance(before: Params, outcome: Outcome) -> tuple[Params, Params]:
        nonlocal state
        assert outcome.direction is not None
        after, state = jax.block_until_ready(step(before, outcome.direction, state))
        return after, nothing

    return advance


def make_accuracy(network: Network) -> Callable[[Params, NDArray[Any], NDArray[Any]], float]:
    """The share of labels at which the largest logit is, a part of the samples at a time."""

    @jax.jit
    def hits(params: Params, x: Array, y: Array) -> Array:
        predictions = pj.evaluate(network, params, x)
        return jnp.sum(jnp.argmax(predictions, -1) == jnp.argmax(y, -1))

    def accuracy(params: Params, x: NDArray[Any], y: NDArray[Any]) -> float:
        starts = range(0, len(x), EVALUATED_AT_ONCE)
        parts = [slice(start, start + EVALUATED_AT_ONCE) for start in starts]
        total = sum(int(hits(params, as_floats(x[part]), as_floats(y[part]))) for part in parts)
        return total / math.prod(y.shape[:-1])

    return accuracy


def train(
    data: Dataset,
    settings: Settings,
    *,
    progress: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Training:
    """Trains on one minibatch an update, the parameters carried on from update to update.

    `on_record` is called with each row of the learning curve as soon as it is known.
    """
    model = make_model(settings)
    update = make_update(model.apply, settings)
    accuracy = make_accuracy(model.apply)
    params = model.init(jax.random.key(settings.seed), data.x_train.shape[1:], data.y_train.shape[-1])
    begin = params
    # An increment can be smaller than the rounding of its parameter: the low parts keep it.
    params_low = jax.tree.map(jnp.zeros_like, params)
    advance = make_advance(settings, params)

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
            outcome = update(params, params_low, x, y)
            params, params_low = advance(params, outcome)
            seconds += time.perf_counter() - start
            truncation = float(np.max([truncation, float(outcome.truncation)]))
            if number % settings.evaluate_every == 0 or number == settings.updates:
                record = Record(
                    update=number,
                    seconds=seconds,
                    train_accuracy=accuracy(params, np.asarray(x), np.asarray(y)),
                    test_accuracy=accuracy(params, data.x_test, data.y_test),
                    residual=float(outcome.residual),
                    truncation=truncation,
                )
                curve.append(record)
                on_record(record)
                bar.set_postfix_str(f"test accuracy {record.test_accuracy:.1%}, {least_moved(begin, params)}")
    return Training(params, curve, compile_seconds)


def least_moved(before: Params, after: Params) -> str:
    """Which weights have moved least, and by what part of their size: whether layers learn."""
    moved = {
        name: float(jnp.linalg.norm(after[name] - w) / jnp.linalg.norm(w)) for name, w in before.items() if w.ndim > 1
    }
    least = min(moved, key=lambda name: moved[name])
    return f"{least} moved by {moved[least]:.0e}"


def profile(data: Dataset, settings: Settings, folder: Path) -> None:
    """Writes a trace of a few steps on the first batch, whose result is thrown away, for Perfetto or XProf."""
    settings = replace(settings, steps=min(settings.steps, PROFILED_STEPS))
    model = make_model(settings)
    update = make_update(model.apply, settings)
    params = model.init(jax.random.key(settings.seed), data.x_train.shape[1:], data.y_train.shape[-1])
    arguments = params, jax.tree.map(jnp.zeros_like, params), *next(batches(data, settings.batch_size, settings.seed))
    update(*arguments)  # compiles
    with jax.profiler.trace(folder):
        update(*arguments)


def row_writer(path: Path) -> Callable[[Record], None]:
    """A function that writes a record to a table, which a run that is cut off leaves as far as it got.

    The first call makes the folder, replaces an older table and writes the field names as header.
    """
    begun = False

    def write(record: Record) -> None:
        nonlocal begun
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if begun else "w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Record)])
            if not begun:
                writer.writeheader()
            writer.writerow(asdict(record))
        begun = True

    return write


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
