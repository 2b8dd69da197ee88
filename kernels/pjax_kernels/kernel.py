"""The declaration of a kernel, from which follow which implementation runs, its errors, derivatives and lists."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import jax
from jax import Array

import pjax_kernels
from pjax_kernels import arguments, implementation
from pjax_kernels.derivatives import of_formula

Function = Callable[..., Any]


@dataclass(frozen=True)
class Kernel:
    """A public kernel; most are declared by :func:`of_increments`.

    Attributes:
        name: of the public function.
        implementations: by name, functions of the operands and the settings.
        formula: ``formula(changes, *operands, **settings)`` is what the derivative of every implementation follows
            from: the changes once more, in the roots and branches that the known ``changes`` tell a differentiable
            function of the operands, which come in the dtype of the computation.
        limits: what the "triton" and "tpu" implementations do not take beside dtypes: ``limit(*operands, **settings)``
            says why, or None.
        takes_increments: whether the implementations are told if the changes of the first operands are wanted or their
            new values; otherwise there is no choice.
    """

    name: str
    implementations: Mapping[str, Function]
    formula: Function
    limits: Mapping[str, Function] = field(default_factory=dict)
    takes_increments: bool = True

    def run(
        self,
        named: str | None,
        operands: Sequence[Any],
        *,
        arrays: Mapping[str, Array] | None = None,
        increments: bool | None = None,
        known: Mapping[str, Any] | None = None,
        like: Function | None = None,
        **settings: Any,
    ) -> Any:
        """What the implementation ``named``, or the best that runs here, makes of the operands.

        It is compiled once for each of their shapes.

        Args:
            named: see :func:`pjax_kernels.implementation.choose`.
            operands: arrays, or trees of them.
            arrays: these by the names that errors give them, where there are implementations for GPUs or TPUs.
            increments: whether to return the changes of the first operands or their new values.
            known: a residual, see :func:`pjax_kernels.arguments.known_residual`, of any dtype; it moves with the rest.
            like: ``like(*operands)`` has the shardings of the results, see
                :func:`pjax_kernels.meshes.on_automatic_axes`.
            **settings: what else implementations and formula are given; equal settings share compiled code.  Of those
                that are functions the identity counts: they are the user's own.
        """
        unsupported = {
            name: device.unsupported(arrays or {})
            or (self.limits[name](*operands, **settings) if name in self.limits else None)
            for name, device in implementation.DEVICES.items()
            if name in self.implementations
        }
        project = implementation.choose(self.name, named, self.implementations, unsupported=unsupported)
        wanted = increments if self.takes_increments else None
        leaves = jax.tree.leaves(operands)
        told = {name: array.astype(arguments.compute_dtype(leaves)) for name, array in (known or {}).items()}
        return implementation.run(project, self.formula, operands, wanted, like, told, settings)


def of_increments(
    name: str,
    increments_of: Mapping[str, Function],
    *,
    formula: Function | None = None,
    others: Mapping[str, Function] | None = None,
    limits: Mapping[str, Function] | None = None,
) -> Kernel:
    """A kernel of functions that give the changes of operands of one dtype.

    Args:
        name: as in :class:`Kernel`.
        increments_of: by implementation.
        formula: as in :class:`Kernel`; by default the increments of "xla", where these are differentiable.
        others: implementations that take operands of any dtypes and ``increments=``, and add by themselves.
        limits: as in :class:`Kernel`.
    """
    projections = {which: arguments.from_increments(function) for which, function in increments_of.items()}
    return Kernel(name, projections | dict(others or {}), formula or of_formula(increments_of["xla"]), limits or {})


def deferred(module: str, function: str) -> Function:
    """A function of a module of this package that is imported when it is called: it may need Triton."""

    def call(*operands: Any, **settings: Any) -> Any:
        return getattr(import_module(f"pjax_kernels.{module}"), function)(*operands, **settings)

    return call


def declared() -> dict[str, Kernel]:
    """All public kernels, by name."""
    modules = [
        import_module(f"pjax_kernels.{folder.name}.api")
        for folder in pkgutil.iter_modules(pjax_kernels.__path__)
        if folder.ispkg
    ]
    kernels = [value for module in modules for value in vars(module).values() if isinstance(value, Kernel)]
    return {kernel.name: kernel for kernel in kernels}
