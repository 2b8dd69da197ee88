"""How error messages name what came: never by the content of arrays."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array

_LONGEST = 200
"""Characters of a value that a message shows."""


def described(value: Any) -> str:
    """What came: numbers and other short values as they are, arrays and what holds some by shape, dtype and type."""
    if _has_content(value):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if any(map(_has_content, jax.tree.leaves(value))):
        return f"a {type(value).__name__} of arrays"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"of type {type(value).__name__}"


def _has_content(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Array)) and not isinstance(value, jax.core.Tracer)


def is_known(operand: Any) -> bool:
    """Whether the operand is an array of known content."""
    return not isinstance(operand, jax.core.Tracer)
