"""Trains a network by projections and draws its learning curve.

python -m benchmarks.train --data digits --algorithm ap --hidden 128 128 --skip --out results/digits
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.train import datasets
from benchmarks.train.datasets import DatasetError
from benchmarks.train.loop import (
    ALGORITHM_NAMES,
    ALGORITHMS_WITH,
    HIDDEN,
    PROFILED_STEPS,
    SETTINGS_OF,
    Settings,
    Training,
    draw,
    profile,
    row_writer,
    train,
)
from benchmarks.train.models import SettingsError


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
        description="Train a network by projections. Writes learning_curve.csv as it goes, then learning_curve.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=HIDDEN, default=default.model, help="described in models.py")
    add("--data", choices=datasets.NAMES, default="digits", help="data set")
    add("--data-dir", type=Path, help="folder with the data; if not given PJAX_DATA, else mnist is downloaded")
    add("--sequence-length", type=at_least(1), default=argparse.SUPPRESS, help="of shakespeare (default: 64)")
    add("--algorithm", choices=ALGORITHM_NAMES, default=default.algorithm, help="described in the README")
    add("--copies", type=copies, default=argparse.SUPPRESS, help="auto, dense, or a history (default: auto)")
    add("--relaxation", type=positive_float, default=argparse.SUPPRESS, help="of dr, up to 1 (default: 0.5)")
    add("--in-turn", action="store_true", default=argparse.SUPPRESS, help="ap: in the least memory (default: False)")
    add("--beta", type=float, default=argparse.SUPPRESS, help="of dm, not 0 (default: 1)")
    widths = "; ".join(f"{' '.join(map(str, hidden))} for {model}" for model, hidden in HIDDEN.items())
    add(
        "--hidden",
        type=at_least(1),
        nargs="+",
        default=argparse.SUPPRESS,
        help=f"widths of the hidden layers, channels of the convolutions (default: {widths})",
    )
    add("--skip", action="store_true", help="skip connections between hidden layers of equal width")
    add("--strides", type=at_least(1), nargs="+", help="of each convolution of cnn (default: 1)")
    add("--quantize", type=at_least(2), metavar="LEVELS", help="round activations to levels, not rectify them")
    add(
        "--dot-products",
        choices=["each", "layer"],
        default=default.dot_products,
        help="in a constraint each, or a layer",
    )
    add("--margin", action="store_true", help="a margin as output constraint, else cross-entropy")
    add("--strength", type=positive_float, default=argparse.SUPPRESS, help="of cross-entropy (default: 5)")
    add("--batch-size", type=at_least(1), default=default.batch_size, help="samples in a minibatch")
    add("--steps", type=at_least(1), default=default.steps, help="iterations of the algorithm in an update")
    add("--updates", type=at_least(1), default=default.updates, help="minibatches to train on")
    add(
        "--adam",
        type=positive_float,
        metavar="RATE",
        help="take the change in an update for a direction and go there by Adam; the rate falls to zero along a cosine",
    )
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
    add("--profile", type=Path, metavar="DIR", help=f"first write a profiler's trace of {PROFILED_STEPS} steps")
    add("--out", type=Path, default=Path("results"), help="folder for the learning curve")
    return parser


def read_settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Settings:
    """The settings among the options."""
    given = vars(options)
    if options.margin and "strength" in given:
        parser.error("--strength is a setting of cross-entropy: leave it out with --margin")
    for name, having in SETTINGS_OF.items():
        if given[name] and options.model not in having:
            parser.error(f"--{name} is a setting of {', '.join(having)}: leave it out with {options.model}")
    if options.data != "shakespeare" and "sequence_length" in given:
        parser.error(f"--sequence-length is a setting of shakespeare: leave it out with {options.data}")
    for name, algorithms in ALGORITHMS_WITH.items():
        if name in given and options.algorithm not in algorithms:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} is a setting of {', '.join(algorithms)}: leave it out with {options.algorithm}")
    names = {field.name for field in fields(Settings)}
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in names}
    return Settings(**{"hidden": HIDDEN[options.model]} | chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    settings = read_settings(parser, options)
    table = options.out / "learning_curve.csv"
    try:
        length = getattr(options, "sequence_length", datasets.SEQUENCE_LENGTH)
        data = datasets.load(options.data, seed=options.seed, data_dir=options.data_dir, sequence_length=length)
        if options.profile:
            profile(data, settings, options.profile)
        training = train(data, settings, progress=True, on_record=row_writer(table))
    except (DatasetError, SettingsError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    report(training, f"{options.data}, {describe(settings)}", table)


def describe(settings: Settings) -> str:
    """One line for the title."""
    layers = "-".join(map(str, settings.hidden)) + (" with skips" if settings.skip else "")
    levels = "" if settings.quantize is None else f", activations of {settings.quantize} levels"
    algorithm = ALGORITHM_NAMES[settings.algorithm] + ("" if settings.adam is None else " and Adam")
    return f"{settings.model} {layers}{levels}, batch {settings.batch_size}: {algorithm}"


def report(training: Training, title: str, table: Path) -> None:
    """Draws the learning curve beside its `table` and prints what was reached."""
    picture = table.with_suffix(".png")
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
