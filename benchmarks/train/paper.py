"""Every network of the paper: python -m benchmarks.train.paper mnist_skip --data-dir FOLDER.

Learning curves go to docs/results, into the folder named.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from benchmarks import RESULTS
from benchmarks.train import __main__ as command


class Run(NamedTuple):
    """A network, the arguments of benchmarks.train, and the test accuracy that is wanted, in percent."""

    what: str
    arguments: str
    target: float


CNN = "--model cnn --hidden 32 128 --strides 4 3 --batch-size 128"
RNN = "--data shakespeare --sequence-length 30 --model rnn --hidden 128"
DIRECTION = "--algorithm cp --steps 1 --dot-products layer --strength 0.05"

RUNS = {
    "mnist_skip": Run(
        "MNIST, MLP with a skip connection",
        "--data mnist --algorithm dr --hidden 128 128 --skip --updates 600",
        95.8,
    ),
    "higgs_mlp": Run(
        "HIGGS, 10,000 rows, MLP",
        "--data higgs --algorithm ap --hidden 512 --batch-size 1000 --strength 1 --updates 100",
        64.0,
    ),
    "mnist_quantized": Run(
        "MNIST, 2-level activations",
        "--data mnist --quantize 2 --hidden 512 --algorithm ap --updates 300",
        90.0,
    ),
    "mnist_cnn_adam": Run(
        "MNIST, CNN of two 3 x 3 convolutions",
        f"--data mnist {CNN} {DIRECTION} --adam 3e-3 --updates 2000 --evaluate-every 50",
        95.0,
    ),
    "mnist_cnn": Run(
        "the same without Adam",
        f"--data mnist {CNN} --algorithm dr --strength 2 --updates 160",
        95.0,
    ),
    "cifar10_cnn_adam": Run(
        "CIFAR-10, 10,000 images, CNN",
        f"--data cifar10 {CNN} {DIRECTION} --adam 3e-3 --updates 1500 --evaluate-every 50",
        33.7,
    ),
    "cifar10_cnn": Run(
        "the same without Adam",
        f"--data cifar10 {CNN} --algorithm dr --strength 2 --updates 80",
        33.7,
    ),
    "shakespeare_rnn_adam": Run(
        "tiny Shakespeare, next character, RNN",
        f"{RNN} {DIRECTION} --batch-size 32 --adam 2e-3 --updates 2500 --evaluate-every 50",
        32.4,
    ),
    "shakespeare_rnn": Run(
        "the same without Adam",
        f"{RNN} --strength 1 --algorithm dr --batch-size 8 --steps 20 --updates 300 --evaluate-every 25",
        32.4,
    ),
}


def main() -> None:
    """Train those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=RUNS, metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--data-dir", type=Path, help="folder with the data; if not given PJAX_DATA")
    options = parser.parse_args()
    folder = ["--data-dir", str(options.data_dir)] if options.data_dir else []
    for name in options.names:
        command.main([*RUNS[name].arguments.split(), *folder, "--out", str(RESULTS / name)])


if __name__ == "__main__":
    main()
