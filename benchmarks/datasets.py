"""The data sets that the benchmarks train on."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import sklearn.datasets
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

MNIST_FILE = "mnist.npz"
MNIST_ADDRESS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
MNIST_SHAPES = {
    "x_train": (60000, 28, 28),
    "y_train": (60000,),
    "x_test": (10000, 28, 28),
    "y_test": (10000,),
}
CLASSES = 10

FloatArray = NDArray[np.float32]


class DatasetError(ValueError):
    """The data cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Dataset:
    """Images as rows of pixels in [0, 1], labels one-hot; everything float32."""

    x_train: FloatArray  # (samples, pixels)
    y_train: FloatArray  # (samples, classes)
    x_test: FloatArray
    y_test: FloatArray


def load(name: str, *, seed: int = 0, data_dir: Path | None = None) -> Dataset:
    """The data set `name`, "digits" or "mnist"; `seed` splits digits, `data_dir` holds MNIST."""
    if name == "digits":
        return load_digits(seed)
    if name == "mnist":
        return load_mnist(data_dir)
    raise DatasetError(f'name is {name!r}: pass "digits" or "mnist"')


def load_digits(seed: int = 0) -> Dataset:
    """scikit-learn's 8 x 8 digits: 1437 to train, 360 to test, classes in equal proportion."""
    digits = sklearn.datasets.load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.data / 16, digits.target, test_size=360, random_state=seed, stratify=digits.target
    )
    return Dataset(x_train.astype(np.float32), one_hot(y_train), x_test.astype(np.float32), one_hot(y_test))


def load_mnist(data_dir: Path | None = None) -> Dataset:
    """MNIST from `data_dir`, else from the folder PJAX_DATA, else downloaded and kept in the user's cache.

    Raises DatasetError when the folder has no mnist.npz, the download fails, or the file is not MNIST.
    """
    path = find_mnist(data_dir)
    arrays = read_mnist(path)
    return Dataset(
        x_train=pixels(arrays["x_train"]),
        y_train=one_hot(arrays["y_train"]),
        x_test=pixels(arrays["x_test"]),
        y_test=one_hot(arrays["y_test"]),
    )


def find_mnist(data_dir: Path | None) -> Path:
    """The path of mnist.npz, which is downloaded when no folder is named."""
    folder = data_dir or os.environ.get("PJAX_DATA")
    if not folder:
        return download_mnist()
    path = Path(folder) / MNIST_FILE
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: {where_to_put_mnist()}")
    return path


def download_mnist() -> Path:
    """The path of the checked download in the user's cache."""
    try:
        return Path(pooch.retrieve(MNIST_ADDRESS, f"sha256:{MNIST_SHA256}", MNIST_FILE, pooch.os_cache("pjax")))
    except (OSError, ValueError) as error:
        # Not chained: the reader needs the remedy, and network libraries print pages.
        raise DatasetError(f"MNIST could not be downloaded ({type(error).__name__}): {where_to_put_mnist()}") from None


def where_to_put_mnist() -> str:
    """The advice that ends every error about a missing file."""
    return f"pass --data-dir or set PJAX_DATA to a folder that holds {MNIST_FILE} (from {MNIST_ADDRESS})"


def read_mnist(path: Path) -> dict[str, NDArray[np.uint8]]:
    """The four arrays of `path`, checked."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in MNIST_SHAPES}
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is not the MNIST archive ({error}): {where_to_put_mnist()}") from error
    for name, array in arrays.items():
        problem = mnist_problem(name, array)
        if problem:
            raise DatasetError(f"{path} is not the MNIST archive: {problem}; {where_to_put_mnist()}")
    return arrays


def mnist_problem(name: str, array: NDArray[np.generic]) -> str | None:
    """What makes `array` something else than MNIST's `name`."""
    if array.dtype != np.uint8 or array.shape != MNIST_SHAPES[name]:
        return f"{name} is {array.dtype} {array.shape}, not uint8 {MNIST_SHAPES[name]}"
    if name.startswith("y_") and array.max() >= CLASSES:
        return f"{name} holds the label {array.max()}, not only 0 to {CLASSES - 1}"
    return None


def pixels(images: NDArray[np.uint8]) -> FloatArray:
    """Rows of pixels, 0 to 255 scaled to [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def one_hot(labels: NDArray[np.integer]) -> FloatArray:
    """Row i is 1 at labels[i] and 0 elsewhere."""
    return np.eye(CLASSES, dtype=np.float32)[labels]
