"""Which implementation of a kernel runs, and why another one cannot; how it is compiled, and its derivative."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import lax

from pjax_kernels import arguments, gpu, tpu
from pjax_kernels.meshes import on_automatic_axes

NAMES = ("reference", "xla", "triton", "tpu")

DEVICES = {"triton": gpu, "tpu": tpu}
"""What knows whether the implementations run here that run on some devices only."""

_PLATFORMS = {"triton": ("cuda", "rocm"), "tpu": ("tpu",)}


def run(
    project: Callable[..., Any],
    formula: Callable[..., Any],
    operands: Sequence[Any],
    increments: bool | None,
    like: Callable[..., Any] | None,
    known: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Any:
    """What the implementation ``project`` makes of the operands; the rest as in :meth:`pjax_kernels.kernel.Kernel.run`.

    It is compiled once for each of their shapes.
    """
    fixed = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in settings.items())
    call = _Call(project, formula, increments, fixed)
    of_operands = None if like is None else lambda *operands, **_: like(*operands)
    return on_automatic_axes(partial(_called, call), of_operands)(*operands, **known)


def _called(call: _Call, *operands: Any, **known: Any) -> Any:
    """The results, by compiled code where that can be found again."""
    as_it_is, compiled = (_told, _compiled_told) if known else (_projected, _compiled)
    # A function may have captured tracers, which no cache must keep.
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((operands, known)))
    if traced and any(callable(value) for _, value in call.fixed):
        return as_it_is(call, *operands, **known)
    try:
        call = replace(call, fixed=tuple((name, _held_weakly(value)) for name, value in call.fixed))
        hash(call)
    except TypeError:  # such a function cannot be found again
        return as_it_is(call, *operands, **known)
    return compiled(call, *operands, **known)


def choose(
    kernel: str,
    implementation: str | None,
    available: Mapping[str, Callable[..., Any]],
    *,
    unsupported: Mapping[str, str | None] | None = None,
) -> Callable[..., Any]:
    """The named implementation of ``kernel``, a function of arrays and keywords, or for None the best that runs here.

    ``unsupported`` says why the "triton" and "tpu" kernels do not take the arguments, or None where they do.  On a GPU
    the best is "triton", and on a TPU "tpu", where it is available, installed and takes them; elsewhere it is "xla".
    """
    # The arguments come first: that they do not fit is true on every machine.
    impediments = {
        name: (unsupported or {}).get(name) or device.obstacle()
        for name, device in DEVICES.items()
        if name in available
    }
    if implementation is None:
        compiled = [(name, available[name]) for name, impediment in impediments.items() if impediment is None]
        return _WhereCompiled(tuple(compiled), available["xla"]) if compiled else available["xla"]
    impediment = impediments.get(implementation)
    if implementation in available and impediment is None:
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


@dataclass(frozen=True)
class _WhereCompiled:
    """The kernels where the call is compiled for their platforms, XLA where it is for another device beside."""

    kernels: tuple[tuple[str, Callable[..., Any]], ...]
    xla: Callable[..., Any]

    def __call__(self, *operands: Any, **settings: Any) -> Any:
        on_platform = {
            platform: partial(project, **settings) for name, project in self.kernels for platform in _PLATFORMS[name]
        }
        return lax.platform_dependent(*operands, **on_platform, default=partial(self.xla, **settings))


@dataclass(frozen=True)
class _Call:
    """All that is known of a call when it is traced."""

    project: Callable[..., Any]
    formula: Callable[..., Any]
    increments: bool | None
    fixed: tuple[tuple[str, Any], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """As they were given."""
        return {name: value() if isinstance(value, weakref.ref) else value for name, value in self.fixed}

    def results(self, changes: Any, operands: Sequence[Any]) -> Any:
        """What is returned, from what it would be with ``increments``."""
        return arguments.changed(operands, changes) if self.increments is False else changes


def _told(call: _Call, *operands: Any, **known: Any) -> Any:
    """The results, with what is known of them; it has the derivative of how they are computed."""
    told = {} if call.increments is None else {"increments": call.increments}
    # The shapes and dtypes that meet inside are right: what a user forbids is promotion in the user's own program.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return call.project(*operands, **told, **call.settings, **known)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _projected(call: _Call, *operands: Any) -> Any:
    return _told(call, *operands)


@_projected.defjvp
def _(call: _Call, operands: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """For every implementation: what it has found, a root or a branch, stays; how the rest moves, the formula says."""
    changes = _projected(call if call.increments is None else replace(call, increments=True), *operands)

    def results_by_formula(*operands: Any) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return call.results(call.formula(changes, *arguments.widened(operands), **call.settings), operands)

    return call.results(changes, operands), jax.jvp(results_by_formula, operands, tangents)[1]


# Inlined into programs that call kernels: to these it makes no difference.
_compiled = jax.jit(_projected, static_argnums=0, inline=True)
_compiled_told = jax.jit(_told, static_argnums=0, inline=True)


def _held_weakly(setting: Any) -> Any:
    """Of a function a reference that compiled code may keep: equal for the same one, and keeping nothing alive."""
    if not callable(setting):
        return setting
    return weakref.WeakMethod(setting) if isinstance(setting, types.MethodType) else weakref.ref(setting)
