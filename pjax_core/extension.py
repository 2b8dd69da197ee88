"""How a user adds an operation: from its function and its projection, or from a bilinear map alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from pjax_core.operand import Operand, Result, apply
from pjax_core.primitive import Primitive
from pjax_core.primitive import bilinear as bilinear_primitive


def primitive(
    name: str, *, forward: Callable[..., Array], project: Callable[..., tuple[tuple[Array, ...], Array]]
) -> Callable[..., Result]:
    """An operation from the function that it computes and the projection onto its graph.

    The operation holds one copy of each element of its inputs.  Check ``project`` with :func:`check_projection`.

    Args:
        name: what error messages and profiles call it.
        forward: ``forward(*inputs, **settings)``, in ``jax.numpy``, returns one array.
        project: ``project(inputs, output, **settings)``, in ``jax.numpy``, returns the tuple of inputs and the
            output that are nearest to those given among all with ``output == forward(*inputs, **settings)``.

    Returns:
        The operation: a function of traced values or arrays, and of ``settings`` by keyword.

    Source: paper, section 3.
    """

    def project_changes(inputs: tuple[Array, ...], output: Array, **settings: Any) -> tuple[tuple[Array, ...], Array]:
        new_inputs, new_output = project(inputs, output, **settings)
        _require_shapes(name, (*inputs, output), (*new_inputs, new_output))
        return tuple(new - old for new, old in zip(new_inputs, inputs, strict=True)), new_output

    return _operation(Primitive(name, forward, project_changes))


def bilinear(
    name: str,
    function: Callable[..., Array],
    *,
    spread: Callable[..., tuple[Array, Array]] | None = None,
) -> Callable[..., Result]:
    """An operation from a bilinear map alone, each of whose outputs is a dot product of entries of both operands.

    The projection follows from the map and its linear transposes (:func:`pjax_kernels.project_bilinear_map`).

    Args:
        name: what error messages and profiles call it.
        function: ``function(x, w, **settings)``, in ``jax.numpy``, linear in each operand with coefficients 0 and 1.
        spread: ``spread(x, w, **settings)`` gives the entries of each dot product along the last axis of two arrays,
            and has zeros where a dot product has fewer.  Only algorithms that store copies need it; without, they
            keep them in factored form.

    Returns:
        The operation: a function of traced values or arrays, and of ``settings`` by keyword.

    Source: paper, section 3.2, for the projection of a dot product.
    """
    return _operation(bilinear_primitive(name, function, spread=spread))


def _operation(declared: Primitive) -> Callable[..., Result]:
    """The function that applies a primitive."""

    def operation(*operands: Operand, **settings: Any) -> Result:
        return apply(declared, *operands, **settings)

    operation.__name__ = operation.__qualname__ = declared.name
    operation.__doc__ = f"The operation {declared.name!r}, of traced values or arrays."
    return operation


def _require_shapes(name: str, given: tuple[Any, ...], returned: tuple[Any, ...]) -> None:
    """Raise ``ValueError`` unless a projection returns the shapes that it was given."""
    expected, found = ([jnp.shape(array) for array in arrays] for arrays in (given, returned))
    if expected != found:
        raise ValueError(
            f"{name}: project was given inputs and an output of shapes {expected} and returned {found}; "
            "it must return the tuple of new inputs, then the new output, in the same shapes"
        )
