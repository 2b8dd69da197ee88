"""How JAX compiles in tests, and how often."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What is lowered or compiled meanwhile."""
    seen: list[str] = []

    def record(event: str, duration: float, **_: Any) -> None:
        if "backend_compile" in event or "to_mlir" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(record)


@contextmanager
def optimized() -> Iterator[None]:
    """Compiles with most optimizations: for problems that take longer to run. What is compiled already stays so."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
