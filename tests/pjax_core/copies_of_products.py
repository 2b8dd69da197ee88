"""What operations made of dot products say of the copies that they hold, against these laid out."""

from __future__ import annotations

from typing import Any

import numpy as np

from pjax_core.operations.primitive import Primitive, side_of


def require_norms_of_copies(primitive: Primitive, inputs: Any, settings: Any) -> None:
    """The squared norms of both sides are those of the entries of each dot product."""
    assert primitive.bilinear is not None
    assert primitive.spread is not None
    inputs = [np.float32(x) for x in inputs]
    copies, shape = primitive.spread(*inputs, **settings), primitive.forward(*inputs, **settings).shape
    sides = primitive.bilinear.sides
    norms = primitive.bilinear.squared_norms(*(side_of(inputs, side) for side in sides), **settings)
    for norm, side in zip(norms, sides, strict=True):
        expected = sum(np.sum(np.square(copies[place]), axis=-1) for place in side)
        np.testing.assert_allclose(np.broadcast_to(norm, shape), expected, rtol=1e-5, atol=1e-6)
