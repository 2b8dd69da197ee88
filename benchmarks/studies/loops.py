"""A gated recurrent unit: time to compile and time of an update, by the number of steps and how the loop is written.

Beside `jax.grad` of the same function stand `pj.direction`, both with Adam, and a step of alternating projections: of
the loop as it is, projected at all its steps at once, and where it is short, with `unroll=True`, of its steps one by
one.  Updates are timed in turn, so that those of one round give ratios.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import pjax_core as pj
from benchmarks.measure.machine import machine
from benchmarks.measure.timing import Contender, prepare

BATCH, INPUTS, CLASSES = 64, 16, 8
SHORT = 8
"""The most steps that are compiled one by one."""

Loss = Callable[[Any, Any], Any]


def gru(params: Any, x: jax.Array, y: jax.Array, loss: Loss, unroll: bool) -> Any:
    """The loss of what is read of the last state."""

    def step(h: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
        both = jnp.concatenate([rows, h], axis=1)
        update, reset = jnp.split(jax.nn.sigmoid(both @ params["gates"] + params["b"]), 2, axis=1)
        new = jnp.tanh(rows @ params["w"] + reset * (h @ params["u"]) + params["c"])
        return (1 - update) * new + update * h, None

    h = jnp.zeros((x.shape[1], params["u"].shape[0]))
    return loss(jax.lax.scan(step, h, x, unroll=unroll)[0] @ params["out"], y)


def arguments_of(steps: int, width: int) -> tuple[Any, jax.Array, jax.Array]:
    """Random parameters, sequences and classes."""
    shapes = {
        "gates": (INPUTS + width, 2 * width),
        "b": (2 * width,),
        "w": (INPUTS, width),
        "u": (width, width),
        "c": (width,),
        "out": (width, CLASSES),
    }
    keys = iter(jax.random.split(jax.random.key(0), len(shapes) + 2))
    params = {name: jax.random.normal(next(keys), shape) / shape[0] ** 0.5 for name, shape in shapes.items()}
    x = jax.random.normal(next(keys), (steps, BATCH, INPUTS))
    return params, x, jax.random.randint(next(keys), (BATCH,), 0, CLASSES)


def with_adam(change: Callable[..., Any], params: Any, *data: jax.Array) -> tuple[Callable[[Any], Any], Any]:
    """An update, and its first state, which holds the data."""
    optimizer = optax.adam(1e-3)

    def update(state: Any) -> Any:
        params, moments, data = state
        found, moments = optimizer.update(change(params, *data), moments, params)
        return optax.apply_updates(params, found), moments, data

    return update, (params, optimizer.init(params), data)


def contenders(steps: int, width: int) -> list[Contender]:
    """Gradients first."""
    arguments = arguments_of(steps, width)

    def mean_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        of_samples = optax.softmax_cross_entropy_with_integer_labels
        return gru(params, x, y, lambda logits, y: of_samples(logits, y).mean(), unroll=False)

    found = {"gradient": with_adam(jax.grad(mean_loss), *arguments)}
    algorithm = pj.alternating_projections()
    for unroll in (False, True) if steps <= SHORT else (False,):
        problem = pj.feasibility(functools.partial(gru, loss=pj.cross_entropy, unroll=unroll))
        name = ", unrolled" if unroll else ""
        found["direction" + name] = with_adam(functools.partial(pj.direction, problem), *arguments)
        start = jax.jit(functools.partial(algorithm.init, problem))(*arguments)
        found["AP" + name] = functools.partial(algorithm.step, problem), start
    return [prepare(name, steps, *contender, length=5, calls=3) for name, contender in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 32, 128])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    described = machine()
    print(f"float32, jax {described['jax']}, {described['cores']} x {described['cpu']}")
    print(f"{'steps':>6}  {'':22}{'compilation':>12}{'an update':>13}{'ratio':>8}{'spread':>13}{'memory':>9}")
    for steps in arguments.steps:
        compared = contenders(steps, arguments.width)
        for _ in range(arguments.rounds):
            for contender in compared:
                contender.measure()
        base = compared[0]
        for one in compared:
            pairs = zip(one.seconds["scan"], base.seconds["scan"], strict=True)
            ratios = sorted(own / other for own, other in pairs)
            low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
            print(
                f"{steps:6}  {one.name:22}{one.compile_seconds:10.2f} s{one.milliseconds('scan'):10.2f} ms"
                f"{statistics.median(ratios):8.2f}{low:7.2f}-{high:5.2f}{one.memory / base.memory:9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
