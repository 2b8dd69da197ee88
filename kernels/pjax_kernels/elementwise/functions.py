"""The functions of :func:`pjax_kernels.project_elementwise`, by name or as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jax import Array

from pjax_kernels.elementwise import curves, pieces
from pjax_kernels.elementwise.curves import Curve
from pjax_kernels.elementwise.pieces import Pieces

KERNEL = "project_elementwise"
ELEMENTWISE = tuple(sorted((*curves.NAMED, *pieces.NAMED)))
"""The functions that have names."""


def elementwise_function(
    f: str | Callable[..., Array], constants: Sequence[Array], settings: dict[str, Any]
) -> Curve | Pieces:
    """The graph of a function, by its name or as it is."""
    if callable(f):
        if settings:
            raise TypeError(f"{KERNEL}: {', '.join(settings)} given with a function; settings belong to a name")
        return curves.of_function(lambda x: f(x, *constants))
    named: dict[str, Callable[..., Curve | Pieces]] = {**curves.NAMED, **pieces.NAMED}
    make = named.get(f)
    if make is None:
        raise ValueError(f"{KERNEL}: there is no function {f!r}; pass one of {', '.join(ELEMENTWISE)}, or a function")
    if constants:
        raise TypeError(f"{KERNEL}: {f!r} takes no constants, but settings")
    try:
        inspect.signature(make).bind(**settings)
    except TypeError as error:
        raise TypeError(f"{KERNEL}: {f!r} does not take these settings: {error}") from None
    return make(**settings)
