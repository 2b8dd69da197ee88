"""benchmarks/train.py learns, writes the learning curve, and refuses arguments that do not fit."""

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import datasets
import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = train.Settings(hidden=(24,), batch_size=96, steps=20, updates=12, evaluate_every=5)
TINY_OPTIONS = "--hidden 24 --batch-size 96 --steps 20 --updates 12 --evaluate-every 5"


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def training(digits):
    return train.train(digits, TINY)


def random_params(hidden, inputs, outputs):
    params = train.initialise(jax.random.key(1), (inputs, *hidden, outputs))
    keys = iter(jax.random.split(jax.random.key(2), len(params)))
    return {name: 0.3 * jax.random.normal(next(keys), array.shape) for name, array in params.items()}


def test_network_without_skips():
    params = random_params((6, 6), 5, 3)
    x = jax.random.normal(jax.random.key(3), (4, 5))
    h = jax.nn.relu(x @ params["w0"] + params["b0"])
    h = jax.nn.relu(h @ params["w1"] + params["b1"])
    np.testing.assert_allclose(train.make_network((6, 6))(params, x), h @ params["w2"], rtol=1e-5, atol=1e-6)


def test_network_with_skips_between_equal_widths():
    params = random_params((5, 7, 7), 5, 3)
    x = jax.random.normal(jax.random.key(4), (4, 5))
    h = jax.nn.relu(x @ params["w0"] + params["b0"])
    h = jax.nn.relu(h @ params["w1"] + params["b1"])
    h = jax.nn.relu(h @ params["w2"] + params["b2"] + h)
    network = train.make_network((5, 7, 7), skip=True)
    np.testing.assert_allclose(network(params, x), h @ params["w3"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [(8,), (8, 9, 8)])
def test_skip_without_equal_widths(hidden):
    with pytest.raises(train.SettingsError, match="skip needs two hidden layers of equal width"):
        train.make_network(hidden, skip=True)


def test_network_without_hidden_layers():
    with pytest.raises(train.SettingsError, match="hidden is empty"):
        train.make_network(())


def test_initialisation_keeps_the_scale_of_relu_layers():
    params = train.initialise(jax.random.key(0), (400, 300, 200))
    assert {name: array.shape for name, array in params.items()} == {
        "w0": (400, 300),
        "b0": (300,),
        "w1": (300, 200),
    }
    assert float(jnp.var(params["w0"])) == pytest.approx(2 / 400, rel=0.05)
    assert float(jnp.var(params["w1"])) == pytest.approx(2 / 300, rel=0.05)
    assert not np.any(params["b0"])
    assert all(array.dtype == jnp.float32 for array in params.values())


def test_initialisation_depends_on_the_key():
    first, again, other = (train.initialise(jax.random.key(seed), (9, 8, 7)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["w1"], again["w1"])
    assert np.all(first["w1"] != other["w1"])


def test_an_epoch_of_batches_visits_each_sample_once(digits):
    stream = train.batches(digits, 479, seed=3)
    epochs = [np.concatenate([next(stream)[0] for _ in range(3)]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.unique(epoch, axis=0), np.unique(digits.x_train, axis=0))
    assert np.any(epochs[0] != epochs[1])


def test_batches_pair_images_with_labels(digits):
    label = {image.tobytes(): y.argmax() for image, y in zip(digits.x_train, digits.y_train, strict=True)}
    x, y = next(train.batches(digits, 200, seed=9))
    assert [label[np.asarray(image).tobytes()] for image in x] == jnp.argmax(y, 1).tolist()


def test_batch_larger_than_the_data(digits):
    with pytest.raises(train.SettingsError, match="batch_size is 1438, more than the 1437"):
        train.train(digits, replace(TINY, batch_size=1438))


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
    logits = train.make_network(TINY.hidden)(training.params, digits.x_test)
    accuracy = float(np.mean(np.argmax(logits, 1) == np.argmax(digits.y_test, 1)))
    assert training.curve[-1].test_accuracy == pytest.approx(accuracy, abs=1e-6)


def test_training_is_reproducible(training, digits):
    again = train.train(digits, TINY)
    for name, array in training.params.items():
        np.testing.assert_array_equal(array, again.params[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "cp"},
        {"algorithm": "dr", "copies": "2", "relaxation": 0.4},
        {"algorithm": "dm"},
        {"loss": "margin"},
        {"hidden": (24, 24), "skip": True},
    ],
    ids=["cyclic", "Douglas-Rachford", "difference map", "margin", "skip"],
)
def test_every_variant_learns(digits, changes):
    curve = train.train(digits, replace(TINY, **changes)).curve
    assert curve[-1].test_accuracy > 0.5  # chance is 0.1


def test_command_writes_table_and_picture(tmp_path, capsys):
    train.main(["--data", "digits", "--out", str(tmp_path / "new" / "folder"), *TINY_OPTIONS.split()])
    with (tmp_path / "new" / "folder" / "learning_curve.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["update", "seconds", "train_accuracy", "test_accuracy", "residual", "truncation"]
    assert [int(row["update"]) for row in table] == [5, 10, 12]
    best = max(float(row["test_accuracy"]) for row in table)
    assert (tmp_path / "new" / "folder" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"Best test accuracy: {best:.2%}" in printed
    assert f"Training time: {float(table[-1]['seconds']):.1f} s" in printed


def test_a_missing_file_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", "mnist", "--data-dir", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "mnist.npz does not exist: pass --data-dir or set PJAX_DATA" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data cifar", "invalid choice: 'cifar'"),
        ("--algorithm sgd", "invalid choice: 'sgd'"),
        ("--algorithm dr --copies few", "invalid copies value: 'few'"),
        ("--algorithm dr --copies 0", "0 is less than 1"),
        ("--copies dense", "--copies is a setting of ar, dr, dm, cdr: leave it out with ap"),
        ("--algorithm dm --relaxation 0.5", "--relaxation is a setting of dr"),
        ("--algorithm dr --relaxation 2", "relaxation is 2.0; pass a number in (0, 1]"),
        ("--algorithm dm --beta 0", "beta is 0.0; pass a finite number other than 0"),
        ("--loss mse", "invalid choice: 'mse'"),
        ("--hidden 0", "0 is less than 1"),
        ("--steps -3", "-3 is less than 1"),
        ("--batch-size many", "invalid integer value: 'many'"),
        ("--seed -1", "-1 is less than 0"),
        ("--strength 0", "0 is not a positive number"),
        ("--strength nan", "nan is not a positive number"),
        ("--loss margin --strength 2", "--strength is a setting of cross_entropy"),
        ("--hidden 8 16 --skip", "skip needs two hidden layers of equal width"),
        ("--batch-size 5000", "batch_size is 5000, more than the 1437 training samples"),
        ("--data mnist --data-dir nowhere", "does not exist: pass --data-dir"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments.split())
    assert message in capsys.readouterr().err
