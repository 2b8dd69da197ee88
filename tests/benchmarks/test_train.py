"""benchmarks/train learns, writes the learning curve, and refuses arguments that do not fit."""

import csv
import itertools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.train import datasets, loop
from benchmarks.train.__main__ import main as train_main

TINY = loop.Settings(hidden=(24,), batch_size=96, steps=20, updates=12, evaluate_every=5)
TINY_OPTIONS = "--hidden 24 --batch-size 96 --steps 20 --updates 12 --evaluate-every 5"


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def training(digits):
    return loop.train(digits, TINY)


def test_an_epoch_of_batches_visits_each_sample_once(digits):
    stream = loop.batches(digits, 479, seed=3)
    epochs = [np.concatenate([next(stream)[0] for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.unique(epoch, axis=0), np.unique(digits.x_train, axis=0))
    assert np.any(epochs[0] != epochs[1])


def test_batches_pair_images_with_labels(digits):
    label = {image.tobytes(): y.argmax() for image, y in zip(digits.x_train, digits.y_train, strict=True)}
    x, y = next(loop.batches(digits, 200, seed=9))
    assert [label[np.asarray(image).tobytes()] for image in x] == jnp.argmax(y, 1).tolist()


def test_batch_larger_than_the_data(digits):
    with pytest.raises(loop.SettingsError, match="batch_size is 1438, more than the 1437"):
        loop.train(digits, replace(TINY, batch_size=1438))


def test_training_learns(training):
    assert training.curve[-1].test_accuracy > 0.5  # chance is 0.1
    assert all(np.all(np.isfinite(array)) for array in training.params.values())


def test_training_records_the_curve(training):
    assert [record.update for record in training.curve] == [5, 10, 12]
    seconds = [record.seconds for record in training.curve]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert training.compile_seconds > seconds[0] / 5  # one update more than compilation
    assert all(record.residual > 0 for record in training.curve)


def test_recorded_accuracy_is_that_of_the_params(training, digits):
    logits = loop.make_model(TINY).apply(training.params, digits.x_test)
    accuracy = float(np.mean(np.argmax(logits, 1) == np.argmax(digits.y_test, 1)))
    assert training.curve[-1].test_accuracy == pytest.approx(accuracy, abs=1e-6)


def test_training_is_reproducible(training, digits):
    again = loop.train(digits, TINY)
    for name, array in training.params.items():
        np.testing.assert_array_equal(array, again.params[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "cp"},
        {"algorithm": "dr", "copies": "2", "relaxation": 0.4},
        {"algorithm": "dm"},
        {"margin": True},
        {"hidden": (24, 24), "skip": True},
        {"hidden": (64,), "quantize": 2},
        {"adam": 1e-2, "steps": 4, "updates": 40, "dot_products": "layer"},
    ],
    ids=["cyclic", "Douglas-Rachford", "difference map", "margin", "skip", "quantized", "Adam"],
)
def test_every_variant_learns(digits, changes):
    curve = loop.train(digits, replace(TINY, **changes)).curve
    assert curve[-1].test_accuracy > 0.5  # chance is 0.1


def test_command_writes_table_and_picture(tmp_path, capsys):
    train_main(["--data", "digits", "--out", str(tmp_path / "new" / "folder"), *TINY_OPTIONS.split()])
    with (tmp_path / "new" / "folder" / "learning_curve.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["update", "seconds", "train_accuracy", "test_accuracy", "residual", "truncation"]
    assert [int(row["update"]) for row in table] == [5, 10, 12]
    best = max(float(row["test_accuracy"]) for row in table)
    assert (tmp_path / "new" / "folder" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"Best test accuracy: {best:.2%}" in printed
    assert f"Training time: {float(table[-1]['seconds']):.1f} s" in printed


def test_a_run_that_is_cut_off_leaves_its_curve(tmp_path, monkeypatch):
    folder, batches = tmp_path / "results", loop.batches

    def ending_batches(*arguments):
        yield from itertools.islice(batches(*arguments), 11)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "batches", ending_batches)
    with pytest.raises(KeyboardInterrupt):
        train_main(["--data", "digits", "--out", str(folder), *TINY_OPTIONS.split()])
    with (folder / "learning_curve.csv").open(newline="") as file:
        assert [int(row["update"]) for row in csv.DictReader(file)] == [5, 10]
    assert not (folder / "learning_curve.png").exists()


def test_a_profile_names_the_projections(tmp_path, digits):
    """Of a few steps, and without a trace of their compilation."""
    loop.profile(digits, TINY, tmp_path)
    (trace,) = tmp_path.rglob("*.xplane.pb")
    content = trace.read_bytes()
    assert b"/matmul 1/" in content
    assert b"/cross_entropy/" in content


def test_a_missing_file_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        train_main(["--data", "mnist", "--data-dir", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "mnist.npz does not exist: pass --data-dir or set PJAX_DATA" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data cifar", "invalid choice: 'cifar'"),
        ("--model rnn --quantize 2", "--quantize is a setting of mlp, cnn: leave it out with rnn"),
        ("--model cnn --skip", "--skip is a setting of mlp"),
        ("--strides 2", "--strides is a setting of cnn"),
        ("--quantize 1", "1 is less than 2"),
        ("--model cnn --strides 2", "strides are (2,) for 2 convolutions"),
        ("--model rnn", "rnn takes sequences, but a sample has shape (8, 8, 1)"),
        ("--model transformer", "invalid choice: 'transformer'"),
        ("--sequence-length 8", "--sequence-length is a setting of shakespeare: leave it out with digits"),
        ("--algorithm sgd", "invalid choice: 'sgd'"),
        ("--algorithm dr --copies few", "invalid copies value: 'few'"),
        ("--algorithm dr --copies 0", "0 is less than 1"),
        ("--copies dense", "--copies is a setting of ar, dr, dm, cdr: leave it out with ap"),
        ("--algorithm dr --in-turn", "--in-turn is a setting of ap: leave it out with dr"),
        ("--algorithm dm --relaxation 0.5", "--relaxation is a setting of dr"),
        ("--algorithm dr --relaxation 2", "relaxation is 2.0; pass a number in (0, 1]"),
        ("--algorithm dm --beta 0", "beta is 0.0; pass a finite number other than 0"),
        ("--hidden 0", "0 is less than 1"),
        ("--steps -3", "-3 is less than 1"),
        ("--batch-size many", "invalid integer value: 'many'"),
        ("--seed -1", "-1 is less than 0"),
        ("--strength 0", "0 is not a positive number"),
        ("--strength nan", "nan is not a positive number"),
        ("--margin --strength 2", "--strength is a setting of cross-entropy"),
        ("--hidden 8 16 --skip", "skip needs two hidden layers of equal width"),
        ("--batch-size 5000", "batch_size is 5000, more than the 1437 training samples"),
        ("--data mnist --data-dir nowhere", "does not exist: pass --data-dir"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        train_main(arguments.split())
    assert message in capsys.readouterr().err


def test_a_cnn_learns(digits):
    by_directions = {"algorithm": "cp", "steps": 1, "adam": 1e-2, "updates": 40}
    curve = loop.train(digits, replace(TINY, model="cnn", hidden=(8, 16), strides=(1, 3), **by_directions)).curve
    assert curve[-1].test_accuracy > 0.3  # chance is 0.1


def test_an_rnn_learns():
    """Sequences of a cycle through five characters, the next of which is certain."""
    generator = np.random.default_rng(0)
    starts = generator.integers(0, 5, 120)
    characters = (starts[:, None] + np.arange(7)) % 5
    x, y = (np.eye(5, dtype=np.uint8)[part] for part in (characters[:, :-1], characters[:, 1:]))
    data = datasets.Dataset(x[:100], y[:100], x[100:], y[100:])
    curve = loop.train(data, replace(TINY, model="rnn", batch_size=25)).curve
    assert curve[-1].test_accuracy > 0.6  # chance is 0.2
