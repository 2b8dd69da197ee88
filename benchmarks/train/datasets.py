"""The data sets that the benchmarks train on.

digits comes with scikit-learn and MNIST is downloaded if need be; the others are read from a folder, which
`--data-dir` or the environment variable PJAX_DATA names. FILES says what it must hold.
"""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import sklearn.datasets
from numpy.typing import DTypeLike, NDArray
from sklearn.model_selection import train_test_split

MNIST_FILE = "mnist.npz"
MNIST_ADDRESS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
CIFAR10_FILE = "cifar10_subset.npz"
HIGGS_TRAIN_FILE, HIGGS_TEST_FILE = "higgs_train_10k.csv", "higgs_test_5k.csv"
HIGGS_FEATURES = 28
SHAKESPEARE_FILE = "tinyshakespeare.txt"
SEQUENCE_LENGTH = 64
HELD_OUT = 0.1  # of the text, its end

FILES = {
    MNIST_FILE: f"x_train (60000, 28, 28), x_test (10000, 28, 28), y_train and y_test, all uint8, from {MNIST_ADDRESS}",
    CIFAR10_FILE: "x_train and x_test (images, 32, 32, 3), y_train and y_test (images,) with labels 0 to 9, all uint8",
    HIGGS_TRAIN_FILE: f"a header, then rows of a response, 0 or 1, and {HIGGS_FEATURES} features, separated by commas",
    HIGGS_TEST_FILE: f"a header, then rows of a response, 0 or 1, and {HIGGS_FEATURES} features, separated by commas",
    SHAKESPEARE_FILE: "the text in UTF-8",
}
"""What each file holds, as error messages tell it."""

ImageShapes = Mapping[str, tuple[int | None, ...]]
"""The shape of each array of an archive; None stands for any number of images."""

MNIST_SHAPES: ImageShapes = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}
CIFAR10_SHAPES: ImageShapes = {
    "x_train": (None, 32, 32, 3),
    "y_train": (None,),
    "x_test": (None, 32, 32, 3),
    "y_test": (None,),
}
IMAGE_CLASSES = 10

FloatArray = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class DatasetError(ValueError):
    """The data cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Dataset:
    """Samples to train on and samples held out.

    Images are (samples, rows, columns, channels), features (samples, features), texts (samples, time, characters).
    Labels are one-hot: (samples, classes), of texts (samples, time, characters). Everything is float32, but for
    one-hot characters, which are uint8.
    """

    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]


NAMES = ("digits", "mnist", "cifar10", "higgs", "shakespeare")


def load(name: str, *, seed: int = 0, data_dir: Path | None = None, sequence_length: int = SEQUENCE_LENGTH) -> Dataset:
    """The data set `name`; `seed` splits digits, `data_dir` holds the others, `sequence_length` cuts shakespeare."""
    if name == "digits":
        return load_digits(seed)
    if name == "mnist":
        return load_mnist(data_dir)
    if name == "cifar10":
        return load_cifar10(data_dir)
    if name == "higgs":
        return load_higgs(data_dir)
    if name == "shakespeare":
        return load_shakespeare(data_dir, sequence_length)
    raise DatasetError(f"name is {name!r}: pass one of {', '.join(NAMES)}")


def load_digits(seed: int = 0) -> Dataset:
    """scikit-learn's 8 x 8 digits in [0, 1]: 1437 to train, 360 to test, classes in equal proportion."""
    digits = sklearn.datasets.load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.images[..., None] / 16, digits.target, test_size=360, random_state=seed, stratify=digits.target
    )
    return Dataset(
        x_train.astype(np.float32),
        one_hot(y_train, IMAGE_CLASSES),
        x_test.astype(np.float32),
        one_hot(y_test, IMAGE_CLASSES),
    )


def load_mnist(data_dir: Path | None = None) -> Dataset:
    """MNIST from `data_dir`, else from the folder PJAX_DATA, else downloaded and kept in the user's cache.

    Pixels are in [0, 1]. Raises DatasetError when the folder has no mnist.npz, the download fails, or the file is
    not MNIST.
    """
    path = find(MNIST_FILE, data_dir) if data_dir or os.environ.get("PJAX_DATA") else download_mnist()
    arrays = read_images(path, MNIST_SHAPES)
    return Dataset(
        x_train=pixels(arrays["x_train"])[..., None],
        y_train=one_hot(arrays["y_train"], IMAGE_CLASSES),
        x_test=pixels(arrays["x_test"])[..., None],
        y_test=one_hot(arrays["y_test"], IMAGE_CLASSES),
    )


def load_cifar10(data_dir: Path | None = None) -> Dataset:
    """CIFAR-10 or part of it; each channel standardised by its mean and deviation over the training images."""
    arrays = read_images(find(CIFAR10_FILE, data_dir), CIFAR10_SHAPES)
    x_train, x_test = standardised(pixels(arrays["x_train"]), pixels(arrays["x_test"]), axes=(0, 1, 2))
    return Dataset(x_train, one_hot(arrays["y_train"], IMAGE_CLASSES), x_test, one_hot(arrays["y_test"], IMAGE_CLASSES))


def load_higgs(data_dir: Path | None = None) -> Dataset:
    """HIGGS: collisions with (label 1) and without a Higgs boson; features standardised over the training rows."""
    x_train, y_train = read_higgs(find(HIGGS_TRAIN_FILE, data_dir))
    x_test, y_test = read_higgs(find(HIGGS_TEST_FILE, data_dir))
    x_train, x_test = standardised(x_train, x_test, axes=(0,))
    return Dataset(x_train, one_hot(y_train, 2), x_test, one_hot(y_test, 2))


def load_shakespeare(data_dir: Path | None = None, sequence_length: int = SEQUENCE_LENGTH) -> Dataset:
    """Sequences of characters, labelled with the character that follows each; the last tenth of the text is held out.

    The sequences of a part follow each other without overlap; what is too short for one more is left out.
    """
    path = find(SHAKESPEARE_FILE, data_dir)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise wrong_file(path, str(error)) from error
    alphabet, characters = np.unique(list(text), return_inverse=True)
    start_of_test = round(len(text) * (1 - HELD_OUT))
    train, test = characters[:start_of_test], characters[start_of_test:]
    if len(test) <= sequence_length:
        raise DatasetError(
            f"sequence_length is {sequence_length}, but {path} leaves {len(test)} characters to test on: pass less"
        )
    x_train, y_train = sequences(train, sequence_length)
    x_test, y_test = sequences(test, sequence_length)
    return Dataset(*(one_hot(array, len(alphabet), np.uint8) for array in (x_train, y_train, x_test, y_test)))


def find(name: str, data_dir: Path | None) -> Path:
    """The path of a file in `data_dir`, else in the folder PJAX_DATA."""
    folder = data_dir or os.environ.get("PJAX_DATA")
    if not folder:
        raise DatasetError(f"{name} is needed and no folder is named: {where_to_put(name)}")
    path = Path(folder) / name
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: {where_to_put(name)}")
    return path


def where_to_put(name: str) -> str:
    """The advice that ends every error about a file."""
    return f"pass --data-dir or set PJAX_DATA to a folder with a file {name} ({FILES[name]})"


def wrong_file(path: Path, problem: str) -> DatasetError:
    """The error about a file that is there but holds something else."""
    return DatasetError(f"{path} cannot be used, {problem}: {where_to_put(path.name)}")


def download_mnist() -> Path:
    """The path of the checked download in the user's cache."""
    try:
        return Path(pooch.retrieve(MNIST_ADDRESS, f"sha256:{MNIST_SHA256}", MNIST_FILE, pooch.os_cache("pjax")))
    except (OSError, ValueError) as error:
        # Not chained: the reader needs the remedy, and network libraries print pages.
        raise DatasetError(
            f"MNIST could not be downloaded ({type(error).__name__}): {where_to_put(MNIST_FILE)}"
        ) from None


def read_images(path: Path, shapes: ImageShapes) -> dict[str, Bytes]:
    """The four arrays of an archive of images and their labels, checked."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in shapes}
    except (AttributeError, EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise wrong_file(path, str(error)) from error
    for name, array in arrays.items():
        problem = array_problem(name, array, shapes[name])
        if problem:
            raise wrong_file(path, problem)
    for part in ("train", "test"):
        images, labels = len(arrays[f"x_{part}"]), len(arrays[f"y_{part}"])
        if images != labels or not images:
            raise wrong_file(path, f"x_{part} has {images} images and y_{part} {labels} labels")
    return arrays


def array_problem(name: str, array: NDArray[np.generic], shape: tuple[int | None, ...]) -> str | None:
    """What makes `array` something else than bytes of that shape, or than labels."""
    fits = array.ndim == len(shape) and all(wanted in (None, n) for n, wanted in zip(array.shape, shape, strict=True))
    if array.dtype != np.uint8 or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        return f"{name} is {array.dtype} {array.shape}, not uint8 ({wanted})"
    if name.startswith("y_") and array.size and array.max() >= IMAGE_CLASSES:
        return f"{name} holds the label {array.max()}, not only 0 to {IMAGE_CLASSES - 1}"
    return None


def read_higgs(path: Path) -> tuple[FloatArray, NDArray[np.intp]]:
    """The features and the responses of a table, checked."""
    try:
        table = np.loadtxt(path, np.float32, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise wrong_file(path, str(error)) from error
    if table.shape[1] != 1 + HIGGS_FEATURES or not len(table):
        raise wrong_file(path, f"it has {table.shape[0]} rows of {table.shape[1]} numbers")
    response, features = table[:, 0], table[:, 1:]
    if not np.all(np.isin(response, (0, 1))):
        raise wrong_file(path, "a response is neither 0 nor 1")
    if not np.all(np.isfinite(features)):
        raise wrong_file(path, "a feature is not finite")
    return features, response.astype(np.intp)


def pixels(images: Bytes) -> FloatArray:
    """0 to 255 scaled to [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def standardised(train: FloatArray, test: FloatArray, axes: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Both less the mean and over the deviation of `train` along `axes`; what is constant there is only shifted."""
    mean = train.mean(axes, np.float64).astype(np.float32)
    deviation = train.std(axes, np.float64).astype(np.float32)
    scale = np.where(deviation > 0, deviation, np.float32(1))
    return (train - mean) / scale, (test - mean) / scale


def sequences(characters: NDArray[np.intp], length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The text cut into sequences, and the character after each one of theirs."""
    used = (len(characters) - 1) // length * length
    return characters[:used].reshape(-1, length), characters[1 : used + 1].reshape(-1, length)


def one_hot(labels: NDArray[np.integer], classes: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """1 at the label and 0 elsewhere along a new last axis."""
    return np.eye(classes, dtype=dtype)[labels]
