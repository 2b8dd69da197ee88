"""A projection of a convolution or a recurrence against forward pass and gradients of the same operation.

Convolutions: z = conv(x, w), 3 x 3 windows; the gradients are those of a squared error, in x and w.
Recurrence: h_t = relu(x_t w_x + h_{t-1} w_h + b); the gradients are those of a squared error of all h_t, in the
weights and the bias, by back-propagation through lax.scan. A projection is one of all dot products and one of all
rectified sums. Vmap: the dot products of a recurrence by jax.vmap over groups of sequences, which share weights,
against one call for all sequences. Contenders are functions state -> state, that add changes, or gradients times a
rate, to their arguments. float32, random data; medians, of ratios with quartiles, of interleaved rounds.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import pjax_kernels as pk
from benchmarks.measure.baselines import convolve, hidden_states
from benchmarks.measure.machine import machine
from benchmarks.measure.timing import prepare

RATE = 1e-4
SCAN_LENGTH = 5
CONVOLUTIONS = [(64, 28, 1, 16), (64, 28, 16, 32), (64, 14, 32, 64)]
GROUPS = [(4, 8, 64, 64, 128), (32, 1, 64, 64, 128), (8, 4, 32, 64, 64)]
RECURRENCES = [(32, 64, 64, 128), (64, 64, 128, 256)]

State = tuple[Array, ...]


class Case(NamedTuple):
    """An operation: the state, and a step of each contender."""

    name: str
    state: State
    baseline: Callable[[State], State]
    projection: Callable[[State], State]


def normal(generator: np.random.Generator, *shape: int) -> Array:
    return jnp.asarray(generator.normal(size=shape), jnp.float32)


def convolution(batch: int, size: int, channels: int, width: int, padding: str, noise: float) -> Case:
    """3 x 3 windows; the outputs are off by ``noise``."""
    generator = np.random.default_rng(0)
    x = normal(generator, batch, size, size, channels)
    w = normal(generator, 3, 3, channels, width) * (2 / (9 * channels)) ** 0.5

    def loss(x: Array, w: Array, z: Array) -> Array:
        return jnp.sum((convolve(x, w, padding) - z) ** 2)

    def descend(state: State) -> State:
        x, w, z = state
        of_x, of_w = jax.grad(loss, (0, 1))(x, w, z)
        return x - RATE * of_x, w - RATE * of_w, z

    def project(state: State) -> State:
        return pk.project_conv2d(*state, padding=padding)

    z = convolve(x, w, padding)
    z = z + noise * normal(generator, *z.shape)
    return Case(f"{batch} x {size} x {size}, {channels} -> {width}, {padding}", (x, w, z), descend, project)


def recurrence(batch: int, steps: int, inputs: int, hidden: int, noise: float) -> Case:
    """A projection has all hidden states in its state; back-propagation computes them from the first, zero."""
    generator = np.random.default_rng(0)
    x = normal(generator, batch, steps, inputs)
    w_x = normal(generator, inputs, hidden) * (2 / (inputs + hidden)) ** 0.5
    w_h = normal(generator, hidden, hidden) * (2 / (inputs + hidden)) ** 0.5
    bias = normal(generator, hidden) * 0.1

    def loss(weights: State, x: Array, h: Array) -> Array:
        return jnp.sum((hidden_states(x, *weights) - h) ** 2)

    def descend(state: State) -> State:
        x, w_x, w_h, bias, h, *rest = state
        gradients = jax.grad(loss)((w_x, w_h, bias), x, h)
        w_x, w_h, bias = (old - RATE * of for old, of in zip((w_x, w_h, bias), gradients, strict=True))
        return x, w_x, w_h, bias, h, *rest

    def project(state: State) -> State:
        x, w_x, w_h, bias, h, previous, z, sums = state
        _, previous, w_x, w_h, z = pk.project_recurrence(x, previous, w_x, w_h, z)
        (sums, bias), h = pk.project_sum_relu((sums, bias), h)
        return x, w_x, w_h, bias, h, previous, z, sums

    h = hidden_states(x, w_x, w_h, bias)
    previous = jnp.concatenate([jnp.zeros((batch, 1, hidden)), h[:, :-1]], axis=1)
    z = x @ w_x + previous @ w_h
    h, previous, z, sums = (array + noise * normal(generator, *array.shape) for array in (h, previous, z, z))
    state = (x, w_x, w_h, bias, h, previous, z, sums)
    return Case(f"{batch} x {steps} steps, {inputs} -> {hidden}", state, descend, project)


def groups(count: int, batch: int, steps: int, inputs: int, hidden: int, noise: float) -> Case:
    """So many groups of ``batch`` sequences each; the weights are the means over all of them in both forms."""
    generator = np.random.default_rng(0)
    x, h = normal(generator, count, batch, steps, inputs), normal(generator, count, batch, steps, hidden)
    w_x, w_h = (normal(generator, size, hidden) * (2 / (inputs + hidden)) ** 0.5 for size in (inputs, hidden))
    z = x @ w_x + h @ w_h

    def at_once(state: State) -> State:
        x, h, w_x, w_h, z = state
        joined_x, joined_h, joined_z = (array.reshape(-1, *array.shape[2:]) for array in (x, h, z))
        new_x, new_h, w_x, w_h, new_z = pk.project_recurrence(joined_x, joined_h, w_x, w_h, joined_z)
        return new_x.reshape(x.shape), new_h.reshape(h.shape), w_x, w_h, new_z.reshape(z.shape)

    def mapped(state: State) -> State:
        x, h, w_x, w_h, z = jax.vmap(pk.project_recurrence, (0, 0, None, None, 0))(*state)
        return x, h, jnp.mean(w_x, axis=0), jnp.mean(w_h, axis=0), z

    state = (x, h, w_x, w_h, z + noise * normal(generator, *z.shape))
    return Case(f"vmap, {count} x {batch} x {steps} steps, {inputs} -> {hidden}", state, at_once, mapped)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Milliseconds of both in single calls and in a scan, and their ratios."""
    contenders = [
        prepare(name, 0, step, case.state, SCAN_LENGTH, calls=SCAN_LENGTH)
        for name, step in (("baseline", case.baseline), ("projection", case.projection))
    ]
    for _ in range(rounds):
        for contender in contenders:
            contender.measure()
    row: dict[str, Any] = {"name": case.name}
    for form in ("single", "scan"):
        baseline, projection = (contender.milliseconds(form) for contender in contenders)
        row |= {f"{form}_baseline_ms": baseline, f"{form}_projection_ms": projection}
        of_rounds = np.divide(*(np.reshape(contender.seconds[form], (rounds, -1)) for contender in contenders[::-1]))
        low, row[f"{form}_ratio"], high = np.quantile(np.median(of_rounds, axis=1), (0.25, 0.5, 0.75)).tolist()
        row[f"{form}_quartiles"] = low, high
    return row


def print_row(row: dict[str, Any]) -> None:
    forms = "".join(
        f"{row[f'{form}_baseline_ms']:11.2f} ms{row[f'{form}_projection_ms']:10.2f} ms{row[f'{form}_ratio']:8.2f}"
        + " ({:.2f}-{:.2f})".format(*row[f"{form}_quartiles"])
        for form in ("single", "scan")
    )
    print(f"{row['name']:36}{forms}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.01, help="by how much outputs are off (default: 0.01)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    described = machine()
    print(f"float32, jax {described['jax']}, {described['cores']} x {described['cpu']}, noise {arguments.noise}")
    print(f"{'':36}{'baseline':>14}{'one call':>13}{'ratio':>8}{'baseline':>26}{'in a scan':>13}{'ratio':>8}")
    cases = [
        *(convolution(*shape, padding, arguments.noise) for shape in CONVOLUTIONS for padding in ("VALID", "SAME")),
        *(recurrence(*shape, arguments.noise) for shape in RECURRENCES),
        *(groups(*shape, arguments.noise) for shape in GROUPS),
    ]
    rows = []
    for case in (case for case in cases if arguments.only in case.name):
        rows.append(measure(case, arguments.rounds))
        print_row(rows[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(described | {"noise": arguments.noise, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
