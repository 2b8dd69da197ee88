"""The data sets have the right contents, and a missing or wrong file gives one clear error."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest

import datasets

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
    assert data.x_train.shape == (1437, 64)
    assert data.y_train.shape == (1437, 10)
    assert data.x_test.shape == (360, 64)
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
    with pytest.raises(ValueError, match='name is \'cifar\': pass "digits" or "mnist"'):
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
        np.testing.assert_array_equal(np.rint(255 * x), arrays[f"x_{part}"].reshape(len(x), 784))
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
    assert datasets.load("mnist").x_test.shape == (10000, 784)
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
    with pytest.raises(datasets.DatasetError, match="is not the MNIST archive"):
        datasets.load("mnist", data_dir=tmp_path)


def test_a_truncated_archive(tmp_path):
    write_mnist(tmp_path, random_mnist())
    path = tmp_path / datasets.MNIST_FILE
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(datasets.DatasetError, match="is not the MNIST archive"):
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


def test_real_mnist():
    folder = Path(os.environ.get("PJAX_DATA") or SHARED_DATA)
    if not (folder / datasets.MNIST_FILE).is_file():
        pytest.skip("set PJAX_DATA to a folder that holds mnist.npz")
    data = datasets.load("mnist", data_dir=folder)
    assert data.y_test.sum(axis=0).min() > 800
    # The mean pixel of MNIST, 0.1307, is what every normalisation of it uses.
    assert data.x_train.mean() == pytest.approx(0.1307, abs=5e-5)
