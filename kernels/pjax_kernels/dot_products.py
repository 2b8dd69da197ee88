"""How the entries of two operands meet in dot products: all that a projection needs to know of a bilinear map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jax import Array
from jax.typing import ArrayLike

Tree: TypeAlias = Any
"""An array, or a pytree of arrays."""

BilinearMap: TypeAlias = Callable[[Tree, Tree], Array]


class DotProducts(NamedTuple):
    """A bilinear map ``F(x, w)``, each of whose outputs is the dot product of entries selected from ``x`` and ``w``.

    ``F_x^T(c; w)`` is the transpose of ``F`` in ``x``: it adds up, for every entry of ``x``, what the outputs in ``c``
    send to it.  1 stands for operands, or outputs, full of ones.  What is the same along an axis may have length 1
    there.

    Attributes:
        product: ``F(x, w)``.
        of_x: ``F(x, 1)``.
        of_w: ``F(1, w)``.
        to_x: ``F_x^T(c; w)``, as a function of ``c`` and ``w``.
        to_w: ``F_w^T(c; x)``, as a function of ``c`` and ``x``.
        spread_x: ``F_x^T(c; 1)``.
        spread_w: ``F_w^T(c; 1)``.
        length: ``F(1, 1)``, the number of entries of each dot product.
        x_copies: ``F_x^T(1; 1)``, the number of dot products that hold each entry of ``x``.
        w_copies: ``F_w^T(1; 1)``.
        hold_products: whether products are held, or formed anew where one step is not enough for a root: for large
            outputs.
    """

    product: Callable[[Tree, Tree], Array]
    of_x: Callable[[Tree], Array]
    of_w: Callable[[Tree], Array]
    to_x: Callable[[Array, Tree], Tree]
    to_w: Callable[[Array, Tree], Tree]
    spread_x: Callable[[Array], Tree]
    spread_w: Callable[[Array], Tree]
    length: ArrayLike
    x_copies: Tree
    w_copies: Tree
    hold_products: bool = True
