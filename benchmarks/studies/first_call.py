"""The first call of a direction beside that of a gradient: seconds to trace, lower and compile, for the ten networks.

Beside them stands how many programs are compiled while a direction is traced, each of which takes some 20 ms.  Every
row starts with all caches cleared.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax

import pjax_core as pj
from benchmarks.studies.ten_networks import NETWORKS, digits


def seconds(function: Callable[..., Any], *arguments: Any) -> tuple[list[float], int]:
    """To trace, lower and compile, and the programs that were compiled before the last of these."""
    compiled = []

    def record(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            compiled.append(duration_secs)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(record)
    times = [time.perf_counter()]
    traced = jax.jit(function).trace(*arguments)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    programs = len(compiled)
    lowered.compile()
    times.append(time.perf_counter())
    jax.monitoring.unregister_event_duration_listener(record)
    return [after - before for before, after in zip(times, times[1:], strict=False)], programs


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    print(
        "| network | gradient: trace, s | lower | compile | direction: trace, s | lower | compile | programs |",
        "| --- " * 8 + "|",
        sep="\n",
    )
    for name in options.only:
        network = NETWORKS[name](jax.random.key(0))
        x, y = (array[: options.batch] for array in digits(network)[0])
        direction = functools.partial(pj.value_and_direction, pj.feasibility(network.loss))
        gradient, _ = seconds(jax.value_and_grad(network.loss), network.params, x, y)
        ours, programs = seconds(direction, network.params, x, y)
        print("|", " | ".join([name, *(f"{s:.2f}" for s in (*gradient, *ours)), str(programs)]), "|", flush=True)


if __name__ == "__main__":
    main()
