"""Which implementation of a kernel runs, and why another one cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NAMES = ("reference", "xla", "triton", "tpu")


def choose(kernel: str, implementation: str | None, available: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The named implementation of ``kernel``, or for None the best one that runs here."""
    if implementation is None:
        return available["xla"]
    if implementation in available:
        return available[implementation]
    choices = ", ".join(repr(name) for name in available)
    if implementation in NAMES:
        raise NotImplementedError(
            f"{kernel}: there is no {implementation!r} implementation; pass implementation=None or one of {choices}"
        )
    raise ValueError(
        f"{kernel}: unknown implementation {implementation!r}; pass implementation=None or one of {choices}"
    )
