"""The data sets have the right contents, and a missing or wrong file gives one clear error."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest

from benchmarks.train import datasets

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def random_mnist(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Arrays of the shapes of MNIST with random contents; `changes` replace some, None removes one."""
    generator = np.random.default_rng(3)
    arrays = {
        name: generator.integers(0, 256 if name.startswith("x") else 10, shape, np.uint8)
        for name, shape in datasets.MNIST_SHAPES.items()
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def write_mnist(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(folder / datasets.MNIST_FILE, **arrays)


@pytest.fixture
def no_folder_no_network(monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionResetError("the network is unreachable")

    monkeypatch.delenv("PJAX_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", fail)


def rows(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


def test_digits_shapes_and_values():
    data = datasets.load("digits")
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.y_train.shape == (1437, 10)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert data.y_test.shape == (360, 10)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == y.dtype == np.float32
        assert x.min() == 0
        assert x.max() == 1
        np.testing.assert_array_equal(np.sort(y, axis=1)[:, :-1], 0)
        np.testing.assert_array_equal(y.sum(axis=1), 1)


def test_digits_split_is_a_partition():
    data = datasets.load("digits")
    assert not rows(data.x_train) & rows(data.x_test)
    every = datasets.sklearn.datasets.load_digits().data / 16
    assert rows(data.x_train) | rows(data.x_test) == rows(every.astype(np.float32))


def test_digits_split_follows_the_seed():
    first, again, other = (datasets.load("digits", seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert rows(first.x_test) != rows(other.x_test)


def test_digits_labels_belong_to_the_images():
    data = datasets.load("digits", seed=2)
    images, targets = datasets.sklearn.datasets.load_digits(return_X_y=True)
    label = {image.tobytes(): target for image, target in zip(images.astype(np.float32), targets, strict=True)}
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert [label[(16 * row).tobytes()] for row in x] == y.argmax(axis=1).tolist()


def test_unknown_name():
    with pytest.raises(ValueError, match="name is 'cifar': pass one of digits, mnist, cifar10, higgs, shakespeare"):
        datasets.load("cifar")


@pytest.mark.parametrize("by_environment", [False, True])
def test_mnist_from_a_folder(tmp_path, monkeypatch, no_folder_no_network, by_environment):
    arrays = random_mnist()
    write_mnist(tmp_path, arrays)
    if by_environment:
        monkeypatch.setenv("PJAX_DATA", str(tmp_path))
    data = datasets.load("mnist", data_dir=None if by_environment else tmp_path)
    for part in ("train", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(np.rint(255 * x), arrays[f"x_{part}"][..., None])
        np.testing.assert_array_equal(y.argmax(axis=1), arrays[f"y_{part}"])
        np.testing.assert_array_equal(y.sum(axis=1), 1)


def test_the_argument_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PJAX_DATA", str(tmp_path / "environment"))
    with pytest.raises(datasets.DatasetError, match="argument"):
        datasets.load("mnist", data_dir=tmp_path / "argument")


def test_mnist_download_is_checked(tmp_path, monkeypatch):
    asked = []

    def retrieve(address, known_hash, name, folder):
        asked.append((address, known_hash))
        write_mnist(tmp_path, random_mnist())
        return str(tmp_path / name)

    monkeypatch.delenv("PJAX_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert datasets.load("mnist").x_test.shape == (10000, 28, 28, 1)
    assert asked == [(datasets.MNIST_ADDRESS, f"sha256:{datasets.MNIST_SHA256}")]


def test_no_folder_and_no_network(no_folder_no_network):
    with pytest.raises(datasets.DatasetError, match=r"pass --data-dir or set PJAX_DATA") as caught:
        datasets.load("mnist")
    assert "ConnectionResetError" in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_empty_variable_names_no_folder(monkeypatch, no_folder_no_network):
    monkeypatch.setenv("PJAX_DATA", "")
    with pytest.raises(datasets.DatasetError, match="could not be downloaded"):
        datasets.load("mnist")


def test_a_folder_without_the_file_does_not_download(tmp_path, no_folder_no_network):
    with pytest.raises(datasets.DatasetError, match=r"mnist\.npz does not exist: pass --data-dir"):
        datasets.load("mnist", data_dir=tmp_path)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / datasets.MNIST_FILE).write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(datasets.DatasetError, match="cannot be used"):
        datasets.load("mnist", data_dir=tmp_path)


def test_a_truncated_archive(tmp_path):
    write_mnist(tmp_path, random_mnist())
    path = tmp_path / datasets.MNIST_FILE
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(datasets.DatasetError, match="cannot be used"):
        datasets.load("mnist", data_dir=tmp_path)


def test_an_archive_of_something_else(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme.txt", "no arrays here")
    (tmp_path / datasets.MNIST_FILE).write_bytes(content.getvalue())
    with pytest.raises(datasets.DatasetError, match="x_train"):
        datasets.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("y_test", None),
        ("x_train", np.ones((60000, 784), np.uint8)),
        ("x_test", np.ones((10000, 28, 28), np.float32)),
    ],
)
def test_wrong_arrays(tmp_path, name, array):
    write_mnist(tmp_path, random_mnist(**{name: array}))
    with pytest.raises(datasets.DatasetError, match=name):
        datasets.load("mnist", data_dir=tmp_path)


def test_labels_out_of_range(tmp_path):
    labels = np.random.default_rng(1).integers(0, 10, 10000).astype(np.uint8)
    labels[77] = 10
    write_mnist(tmp_path, random_mnist(y_test=labels))
    with pytest.raises(datasets.DatasetError, match="y_test holds the label 10, not only 0 to 9"):
        datasets.load("mnist", data_dir=tmp_path)


NEEDS_A_FOLDER = {
    "cifar10": [datasets.CIFAR10_FILE],
    "higgs": [datasets.HIGGS_TRAIN_FILE, datasets.HIGGS_TEST_FILE],
    "shakespeare": [datasets.SHAKESPEARE_FILE],
}


@pytest.mark.parametrize(
    ("name", "missing"), [(name, file) for name, files in NEEDS_A_FOLDER.items() for file in files]
)
def test_a_missing_file_is_named_with_its_layout(tmp_path, name, missing):
    write_everything(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(datasets.DatasetError, match=f"{missing} does not exist: pass --data-dir") as caught:
        datasets.load(name, data_dir=tmp_path)
    assert datasets.FILES[missing] in str(caught.value)


@pytest.mark.parametrize("name", NEEDS_A_FOLDER)
def test_no_folder_is_named(name, no_folder_no_network):
    with pytest.raises(datasets.DatasetError, match="no folder is named: pass --data-dir or set PJAX_DATA"):
        datasets.load(name)


@pytest.mark.parametrize("name", NEEDS_A_FOLDER)
def test_a_file_of_random_bytes(tmp_path, name):
    write_everything(tmp_path)
    (tmp_path / NEEDS_A_FOLDER[name][0]).write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(datasets.DatasetError, match="cannot be used"):
        datasets.load(name, data_dir=tmp_path)


def write_everything(folder: Path) -> None:
    """Tiny files of every layout but MNIST's, with random contents."""
    generator = np.random.default_rng(5)
    np.savez(folder / datasets.CIFAR10_FILE, **random_cifar10())
    for name, rows_of_table in ((datasets.HIGGS_TRAIN_FILE, 30), (datasets.HIGGS_TEST_FILE, 20)):
        write_higgs(folder / name, random_higgs(generator, rows_of_table))
    (folder / datasets.SHAKESPEARE_FILE).write_text("".join(generator.choice(list("abc é\n"), 1000)), encoding="utf-8")


def random_cifar10(**changes: np.ndarray) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(4)
    arrays = {f"x_{part}": generator.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in PARTS.items()}
    arrays |= {f"y_{part}": generator.integers(0, 10, n, np.uint8) for part, n in PARTS.items()}
    return arrays | changes


PARTS = {"train": 12, "test": 5}


def test_cifar10_is_standardised_by_channel(tmp_path):
    arrays = random_cifar10()
    np.savez(tmp_path / datasets.CIFAR10_FILE, **arrays)
    data = datasets.load("cifar10", data_dir=tmp_path)
    np.testing.assert_allclose(data.x_train.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std((0, 1, 2)), 1, rtol=1e-5)
    images = arrays["x_train"].astype(float)
    expected = (arrays["x_test"] - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    np.testing.assert_allclose(data.x_test, expected, rtol=1e-4, atol=1e-5)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    np.testing.assert_array_equal(data.y_train.argmax(1), arrays["y_train"])
    np.testing.assert_array_equal(data.y_test.argmax(1), arrays["y_test"])
    assert data.y_test.shape == (5, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_test": np.ones((5, 3, 32, 32), np.uint8)},
            r"x_test is uint8 \(5, 3, 32, 32\), not uint8 \(any, 32, 32, 3",
        ),
        ({"x_train": np.ones((12, 32, 32, 3))}, "x_train is float64"),
        ({"y_train": np.ones(11, np.uint8)}, "x_train has 12 images and y_train 11 labels"),
        ({"y_test": np.full(5, 10, np.uint8)}, "y_test holds the label 10"),
    ],
)
def test_wrong_cifar10(tmp_path, changes, message):
    np.savez(tmp_path / datasets.CIFAR10_FILE, **random_cifar10(**changes))
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load("cifar10", data_dir=tmp_path)


def random_higgs(generator: np.random.Generator, n: int) -> np.ndarray:
    """A table of responses and features of different means and scales."""
    features = generator.normal(size=(n, 28)) * np.arange(1, 29) + np.arange(28)
    return np.column_stack([generator.integers(0, 2, n), features])


def write_higgs(path: Path, table: np.ndarray) -> None:
    header = ",".join(["response", *(f"x{k}" for k in range(1, table.shape[1]))])
    np.savetxt(path, table, delimiter=",", header=header, comments="")


def test_higgs_is_standardised_by_the_training_rows(tmp_path):
    generator = np.random.default_rng(6)
    train, test = random_higgs(generator, 40), random_higgs(generator, 15)
    train[:, 7] = 3.5  # a constant feature must not divide by zero
    write_higgs(tmp_path / datasets.HIGGS_TRAIN_FILE, train)
    write_higgs(tmp_path / datasets.HIGGS_TEST_FILE, test)
    data = datasets.load("higgs", data_dir=tmp_path)
    deviation = train[:, 1:].std(0)
    deviation[6] = 1
    for x, y, table in ((data.x_train, data.y_train, train), (data.x_test, data.y_test, test)):
        np.testing.assert_allclose(x, (table[:, 1:] - train[:, 1:].mean(0)) / deviation, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(y, np.column_stack([table[:, 0] == 0, table[:, 0] == 1]))
        assert x.dtype == y.dtype == np.float32


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [(3, 0, 2, "neither 0 nor 1"), (4, 5, np.nan, "not finite"), (slice(None), 0, 0.5, "neither 0 nor 1")],
)
def test_wrong_higgs(tmp_path, row, column, value, message):
    write_everything(tmp_path)
    table = random_higgs(np.random.default_rng(7), 9)
    table[row, column] = value
    write_higgs(tmp_path / datasets.HIGGS_TEST_FILE, table)
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.load("higgs", data_dir=tmp_path)


def test_higgs_with_a_column_too_few(tmp_path):
    write_everything(tmp_path)
    write_higgs(tmp_path / datasets.HIGGS_TRAIN_FILE, random_higgs(np.random.default_rng(8), 9)[:, :-1])
    with pytest.raises(datasets.DatasetError, match="it has 9 rows of 28 numbers"):
        datasets.load("higgs", data_dir=tmp_path)


def test_shakespeare_labels_are_the_next_characters(tmp_path):
    generator = np.random.default_rng(9)
    text = "".join(generator.choice(list("abc é\n"), 1003))
    (tmp_path / datasets.SHAKESPEARE_FILE).write_text(text, encoding="utf-8")
    data = datasets.load("shakespeare", data_dir=tmp_path, sequence_length=8)
    alphabet = np.array(sorted(set(text)))
    for x, y, part in ((data.x_train, data.y_train, text[:903]), (data.x_test, data.y_test, text[903:])):
        used = (len(part) - 1) // 8 * 8
        assert x.shape == y.shape == (used // 8, 8, 6)
        assert "".join(alphabet[x.argmax(-1).ravel()]) == part[:used]
        assert "".join(alphabet[y.argmax(-1).ravel()]) == part[1 : used + 1]
        np.testing.assert_array_equal(x.sum(-1), 1)
        np.testing.assert_array_equal(y.sum(-1), 1)


def test_sequences_longer_than_the_text(tmp_path):
    write_everything(tmp_path)
    with pytest.raises(datasets.DatasetError, match=r"sequence_length is 100, but .* leaves 100 characters"):
        datasets.load("shakespeare", data_dir=tmp_path, sequence_length=100)
    assert len(datasets.load("shakespeare", data_dir=tmp_path, sequence_length=99).x_test) == 1


@pytest.fixture
def real_data():
    folder = Path(os.environ.get("PJAX_DATA") or SHARED_DATA)
    missing = [name for name in datasets.FILES if not (folder / name).is_file()]
    if missing:
        pytest.skip(f"set PJAX_DATA to a folder that holds {', '.join(missing)}")
    return folder


def test_real_cifar10(real_data):
    data = datasets.load("cifar10", data_dir=real_data)
    assert data.x_train.shape[1:] == (32, 32, 3)
    assert data.y_train.sum(0).min() > 0.09 * len(data.y_train)
    assert np.abs(data.x_test.mean((0, 1, 2))).max() < 0.1
    # Neighbouring pixels of photographs are alike, and these are not if the layout is wrong.
    down, along = (np.mean((data.x_test - np.roll(data.x_test, 1, axis)) ** 2) for axis in (1, 2))
    assert max(down, along) < 0.3


def test_real_higgs(real_data):
    data = datasets.load("higgs", data_dir=real_data)
    assert data.x_train.shape == (10000, 28)
    assert data.x_test.shape == (5000, 28)
    # 53 % of all collisions of this set have a Higgs boson.
    assert data.y_train[:, 1].mean() == pytest.approx(0.53, abs=0.02)
    assert data.y_test[:, 1].mean() == pytest.approx(0.53, abs=0.02)


def test_real_shakespeare(real_data):
    data = datasets.load("shakespeare", data_dir=real_data, sequence_length=32)
    assert data.x_test.shape[1:] == (32, 65)
    assert len(data.x_test) / (len(data.x_train) + len(data.x_test)) == pytest.approx(0.1, abs=1e-3)
    # The space is the commonest character of English.
    assert data.y_train[:1000].sum((0, 1)).argmax() == 1


def test_real_mnist():
    folder = Path(os.environ.get("PJAX_DATA") or SHARED_DATA)
    if not (folder / datasets.MNIST_FILE).is_file():
        pytest.skip("set PJAX_DATA to a folder that holds mnist.npz")
    data = datasets.load("mnist", data_dir=folder)
    assert data.y_test.sum(axis=0).min() > 800
    # The mean pixel of MNIST, 0.1307, is what every normalisation of it uses.
    assert data.x_train.mean() == pytest.approx(0.1307, abs=5e-5)
