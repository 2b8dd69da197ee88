"""Do float32 increments survive? The change of each weight matrix, float32 against float64.

A change can be 1e-7 of its weights or less: the rounding of a float32 number. pjax computes increments as
increments and keeps parameters as compensated (high, low) pairs; naive.py is the textbook form. `--cosines` prints for
networks and strengths the least cosine, over all weights, between the directions that float32 and float64 find from the
same start: one cyclic sweep, four alternating steps, and the default sweep. `--samples` prints how many samples of a
batch count in what constraints of single dot products ask of the first layer, by depth, where it is not evened out, as
`pj.direction` does.
"""

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

import pjax_core as pj
from benchmarks.measure import naive
from benchmarks.measure.networks import constraint
from benchmarks.train import datasets, models

ALGORITHMS = {
    "AP": pj.alternating_projections(),
    "AP in turn": pj.alternating_projections(in_turn=True),
    "CP": pj.cyclic_projections(),
    "DR": pj.douglas_rachford(),
    "DR stored": pj.douglas_rachford(copies="dense"),
    "DM": pj.difference_map(0.5),
    "CDR": pj.cyclic_douglas_rachford(),
}
NETWORKS = ((784, 256, 10), (784, 128, 128, 10), (784, *(64,) * 8, 10))

Params = dict[str, list[Array]]
Matrix = NDArray[np.float64]


def start_params(sizes: tuple[int, ...]) -> dict[str, list[NDArray[np.float32]]]:
    """He initialisation, exactly representable in float32."""
    generator = np.random.default_rng(0)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    weights = [generator.normal(size=shape) * np.sqrt(2 / shape[0]) for shape in shapes]
    return {
        "weights": [w.astype(np.float32) for w in weights],
        "biases": [np.zeros(size, np.float32) for size in sizes[1:-1]],
    }


def batch_of_data(size: int, data_dir: Path | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """MNIST images where a folder is known, else uniform random numbers; one-hot labels."""
    if data_dir or os.environ.get("PJAX_DATA"):
        data = datasets.load_mnist(data_dir)
        return data.x_train[:size].reshape(size, -1), data.y_train[:size]
    generator = np.random.default_rng(1)
    x = generator.uniform(size=(size, 784)).astype(np.float32)
    return x, np.eye(10, dtype=np.float32)[generator.integers(10, size=size)]


def pjax_changes(start: Any, x: Any, y: Any, dtype: Any, *, algorithm: pj.Algorithm, steps: int) -> list[Matrix]:
    """Change of each weight matrix, (high - start) + low in float64."""
    params, x, y = jax.tree.map(lambda a: jnp.asarray(a, dtype), (start, x, y))
    solution = pj.solve(pj.feasibility(constraint), params, x, y, algorithm=algorithm, steps=steps, tolerance=np.inf)
    pairs = zip(solution.params["weights"], solution.params_low["weights"], start["weights"], strict=True)
    return [double(high) - double(w) + double(low) for high, low, w in pairs]


def naive_changes(start: Any, x: Any, y: Any, dtype: Any, *, steps: int) -> list[Matrix]:
    """Change of each weight matrix with stored copies."""
    params, x, y = jax.tree.map(lambda a: jnp.asarray(a, dtype), (start, x, y))
    step = jax.jit(naive.alternating_projections, static_argnums=3, donate_argnums=0)
    state = naive.init(params["weights"], params["biases"], x)
    for _ in range(steps):
        state = step(state, x, y, naive.cross_entropy)
    weights, _ = naive.parameters(state)
    pairs = zip(weights, start["weights"], strict=True)
    return [double(new) - double(w) for new, w in pairs]


def double(array: Any) -> Matrix:
    """The same numbers in float64."""
    return np.asarray(array, np.float64)


def report(title: str, start: Any, float32: list[Matrix], float64: list[Matrix]) -> None:
    """One row a weight matrix; norms are Frobenius norms."""
    norm = np.linalg.norm
    print(f"  {title:24}{'|dW| / |W|':>12}{'error of float32 dW':>24}")
    for layer, (w, found, exact) in enumerate(zip(start["weights"], float32, float64, strict=True)):
        size, error = norm(exact) / norm(w), norm(found - exact) / norm(exact)
        print(f"    {f'layer {layer} {w.shape}':22}{size:12.1e}{error:24.1e}")


Run = Callable[..., Any]
"""Of a problem, parameters, samples and labels: the direction of the parameters."""


RUNS: dict[str, Run] = {
    "CP, 1 sweep": functools.partial(pj.direction, algorithm=pj.cyclic_projections()),
    "AP, 4 steps": functools.partial(pj.direction, algorithm=pj.alternating_projections(), steps=4),
    "direction": pj.direction,
}


def cosine_cases(arguments: argparse.Namespace) -> dict[str, tuple[Any, Any, Any, tuple[str, ...]]]:
    """Of each network: the model, samples, labels, and what is run."""
    x, y = batch_of_data(arguments.batch, arguments.data_dir)
    generator = np.random.default_rng(2)
    images = generator.uniform(size=(16, 12, 12, 1)).astype(np.float32)
    letters = np.eye(16, dtype=np.float32)[generator.integers(16, size=(16, 20))]
    steps = ("CP, 1 sweep", "AP, 4 steps", "direction")
    return {
        "784-256-256-10": (models.mlp((256, 256)), x, y, steps),
        "20 layers of 64": (models.mlp((64,) * 20), x[:64], y[:64], ("direction",)),
        "CNN 16-32": (models.cnn((16, 32)), images, y[:16], steps),
        "RNN 32": (models.rnn((32,)), letters, letters, steps),
    }


def print_cosines(arguments: argparse.Namespace) -> None:
    """One row a network, strength and run: the least cosine, and of which parameter."""
    print(f"{'network':18}{'strength':>9}  {'run':14}{'least cosine':>13}  of")
    for title, (model, x, y, runs) in cosine_cases(arguments).items():
        start = jax.tree.map(np.float32, model.init(jax.random.key(0), x.shape[1:], y.shape[-1]))
        for strength in (0.01, 0.3, 5.0):

            def constrained(params: Any, x: Any, y: Any, model: Any = model, strength: float = strength) -> Any:
                return pj.cross_entropy(model.apply(params, x), y, strength=strength)

            problem = pj.feasibility(constrained)
            for name in runs:
                rough, exact = (
                    RUNS[name](problem, *jax.tree.map(lambda a, dtype=dtype: jnp.asarray(a, dtype), (start, x, y)))
                    for dtype in (jnp.float32, jnp.float64)
                )
                cosines = {key: cosine(double(rough[key]), double(exact[key])) for key in exact}
                least = min(cosines, key=lambda key: cosines[key])
                print(f"{title:18}{strength:9}  {name:14}{cosines[least]:13.7f}  {least}", flush=True)


def cosine(a: Matrix, b: Matrix) -> float:
    """Of the angle between two arrays, whose squares may be too small for any number; 1 if neither moves."""
    scale = float(np.abs(np.stack([a, b])).max())
    if scale == 0:
        return 1.0
    a, b = a / scale, b / scale
    return float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def print_samples(arguments: argparse.Namespace) -> None:
    """Of what a layer asks of its inputs, a dot product hands on ``1 / (1 + |x|^2 + |w|^2)``: each sample its own part.

    With the product of these over the layers for a sample's weight, (sum of weights)^2 / (sum of their squares).
    """
    x, _ = batch_of_data(arguments.batch, arguments.data_dir)
    for depth in (2, 4, 8, 17, 32):
        first, *others = start_params((784, *(64,) * depth, 10))["weights"]
        h, logarithms = np.maximum(x @ first, 0), np.zeros(len(x))
        for w in others:
            logarithms -= np.log(1 + np.sum(h**2, axis=1) + np.mean(np.sum(w**2, axis=0)))
            h = np.maximum(h @ w, 0)
        weights = np.exp(logarithms - np.max(logarithms))
        print(f"{depth:2} layers of 64: {np.sum(weights) ** 2 / np.sum(weights**2):6.1f} of {len(x)} samples count")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz (else PJAX_DATA, else random)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--naive-batch", type=int, default=64, help="batch for naive.py (default: 64)")
    parser.add_argument("--algorithms", nargs="*", choices=ALGORITHMS, default=["AP", "AP in turn"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cosines", action="store_true", help="the table of cosines alone")
    parser.add_argument("--samples", action="store_true", help="how many samples count, alone")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    jax.config.update("jax_enable_x64", True)
    if arguments.cosines or arguments.samples:
        (print_samples if arguments.samples else print_cosines)(arguments)
        return
    runs: list[tuple[str, Run, int]] = [
        (name, functools.partial(pjax_changes, algorithm=ALGORITHMS[name]), arguments.batch)
        for name in arguments.algorithms
    ]
    runs.append(("naive AP", naive_changes, arguments.naive_batch))
    for sizes in NETWORKS:
        print(f"{'-'.join(map(str, sizes))}, {arguments.steps} steps")
        start = start_params(sizes)
        for name, changes, batch in runs:
            x, y = batch_of_data(batch, arguments.data_dir)
            float32, float64 = (
                changes(start, x, y, dtype, steps=arguments.steps) for dtype in (jnp.float32, jnp.float64)
            )
            report(f"{name}, batch {batch}", start, float32, float64)


if __name__ == "__main__":
    main()
