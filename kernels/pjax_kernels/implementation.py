"""Which implementation of a kernel runs, and why another one cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jax import lax

from pjax_kernels import gpu

NAMES = ("reference", "xla", "triton", "tpu")


def choose(
    kernel: str,
    implementation: str | None,
    available: Mapping[str, Callable[..., Any]],
    *,
    unsupported: str | None = None,
) -> Callable[..., Any]:
    """The named implementation of ``kernel``, a function of arrays and keywords, or for None the best that runs here.

    ``unsupported`` says why the Triton kernel does not take the arguments.  On a GPU the best is "triton" where it is
    available, installed and takes them; elsewhere it is "xla".
    """
    # The arguments come first: that they do not fit is true on every machine.
    impediment = (unsupported or gpu.obstacle()) if "triton" in available else None
    if implementation is None:
        return _on_gpu(available) if "triton" in available and impediment is None else available["xla"]
    if implementation in available and (implementation != "triton" or impediment is None):
        return available[implementation]
    choices = ", ".join(repr(name) for name in available if name != implementation)
    if implementation in available:
        raise NotImplementedError(
            f"{kernel}: {implementation!r} cannot run here: {impediment}; pass implementation=None or one of {choices}"
        )
    if implementation in NAMES:
        raise NotImplementedError(
            f"{kernel}: there is no {implementation!r} implementation; pass implementation=None or one of {choices}"
        )
    raise ValueError(
        f"{kernel}: unknown implementation {implementation!r}; pass implementation=None or one of {choices}"
    )


def _on_gpu(available: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The Triton kernel where the call is compiled for a GPU, XLA where it is compiled for another device beside it."""

    def project(*arrays: Any, **settings: Any) -> Any:
        on_gpu, elsewhere = (partial(available[name], **settings) for name in ("triton", "xla"))
        return lax.platform_dependent(*arrays, cuda=on_gpu, rocm=on_gpu, default=elsewhere)

    return project
