"""Which implementation of a kernel runs, and why another one cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jax import lax

from pjax_kernels import gpu, tpu
from pjax_kernels.meshes import on_automatic_axes

NAMES = ("reference", "xla", "triton", "tpu")

_DEVICES = {"triton": gpu, "tpu": tpu}
"""What knows whether the implementations run here that run on some devices only."""

_PLATFORMS = {"triton": ("cuda", "rocm"), "tpu": ("tpu",)}


def choose(
    kernel: str,
    implementation: str | None,
    available: Mapping[str, Callable[..., Any]],
    *,
    unsupported: Mapping[str, str | None] | None = None,
    like: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The named implementation of ``kernel``, a function of arrays and keywords, or for None the best that runs here.

    ``like`` says how its results are sharded, see :func:`pjax_kernels.meshes.on_automatic_axes`.

    ``unsupported`` says why the "triton" and "tpu" kernels do not take the arguments, or None where they do.  On a GPU
    the best is "triton", and on a TPU "tpu", where it is available, installed and takes them; elsewhere it is "xla".
    """
    # The arguments come first: that they do not fit is true on every machine.
    impediments = {
        name: (unsupported or {}).get(name) or device.obstacle()
        for name, device in _DEVICES.items()
        if name in available
    }
    if implementation is None:
        runs_here = [name for name, impediment in impediments.items() if impediment is None]
        return on_automatic_axes(_where_compiled(available, runs_here), like)
    impediment = impediments.get(implementation)
    if implementation in available and impediment is None:
        return on_automatic_axes(available[implementation], like)
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


def _where_compiled(available: Mapping[str, Callable[..., Any]], names: Sequence[str]) -> Callable[..., Any]:
    """The named kernels where the call is compiled for their platforms, XLA where it is for another device beside."""
    if not names:
        return available["xla"]

    def project(*arrays: Any, **settings: Any) -> Any:
        bound = {name: partial(available[name], **settings) for name in (*names, "xla")}
        on_platform = {platform: bound[name] for name in names for platform in _PLATFORMS[name]}
        return lax.platform_dependent(*arrays, **on_platform, default=bound["xla"])

    return project
