"""How a user adds an operation: from its function and its projection, or from a bilinear map alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pjax_core.arrays.messages import described
from pjax_core.operations.call import call
from pjax_core.operations.primitive import Primitive, Projected
from pjax_core.operations.primitive import bilinear as bilinear_primitive
from pjax_kernels.compose import computed


def primitive(name: str, *, forward: Callable[..., Array], project: Callable[..., Projected]) -> Callable[..., Array]:
    """An operation from the function that it computes and the projection onto its graph.

    The operation holds one copy of each element of its inputs.  Check ``project`` with :func:`check_projection`.

    Args:
        name: what error messages and profiles call it.
        forward: ``forward(*inputs, **settings)``, in ``jax.numpy``, returns one array.
        project: ``project(inputs, output, **settings)``, in ``jax.numpy``, returns the tuple of inputs and the
            output that are nearest to those given among all with ``output == forward(*inputs, **settings)``.

    Returns:
        The operation: a function of arrays, and of ``settings`` by keyword.

    Source: paper, section 3.
    """

    def project_changes(inputs: tuple[Array, ...], output: Array, residual: Array | None, **settings: Any) -> Projected:
        del residual  # a user's projection takes values: changes below their rounding are lost in it
        returned = project(inputs, output, **settings)
        _require_shapes(name, (inputs, output), returned)
        new_inputs, new_output = returned
        return tuple(new - old for new, old in zip(new_inputs, inputs, strict=True)), new_output - output

    return _operation(Primitive(name, forward, project_changes))


def bilinear(
    name: str,
    function: Callable[..., Array],
    *,
    spread: Callable[..., tuple[Array, Array]] | None = None,
) -> Callable[..., Array]:
    """An operation from a bilinear map alone, each of whose outputs is a dot product of entries of both operands.

    The projection follows from the map and its linear transposes (:func:`pjax_kernels.project_bilinear_map`).

    Args:
        name: what error messages and profiles call it.
        function: ``function(x, w, **settings)``, in ``jax.numpy``, linear in each operand with coefficients 0 and 1.
            Arrays that it captures must be known: under ``jax.jit`` those of NumPy, no argument.
        spread: ``spread(x, w, **settings)`` gives the entries of each dot product along the last axis of two arrays,
            and has zeros where a dot product has fewer.  Only algorithms that store copies need it; without, they
            keep them in factored form.

    Returns:
        The operation: a function of arrays, and of ``settings`` by keyword, which must be hashable.
        It raises ``ValueError`` where ``function`` is not linear, has other coefficients, or unknown ones.

    Source: paper, section 3.2, for the projection of a dot product.
    """
    operation = _operation(bilinear_primitive(name, function, spread=spread))
    # Kept with the operation, so that both are freed together.
    require_dot_products = functools.lru_cache(maxsize=256)(functools.partial(_require_dot_products, name, function))

    @functools.wraps(operation)
    def checked(x: ArrayLike, w: ArrayLike, **settings: Any) -> Array:
        if isinstance(x, jax.core.Tracer) or isinstance(w, jax.core.Tracer):
            require_dot_products((jnp.shape(x), jnp.shape(w)), tuple(sorted(settings.items())))
        return operation(x, w, **settings)

    return checked


def _require_dot_products(
    name: str,
    function: Callable[..., Array],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    settings: tuple[tuple[str, Any], ...],
) -> None:
    """Raise ``ValueError`` unless one output is linear in each operand, and a dot product where both hold signs."""
    of_both = functools.partial(function, **dict(settings))
    generator = np.random.default_rng(0)
    operands = [generator.choice([-1, 1], shape).astype(np.float32) for shape in shapes]
    output = jax.eval_shape(of_both, *operands)
    unit = np.zeros(output.shape, output.dtype)
    unit.flat[output.size // 2] = 1

    def coefficients(unit: Array, x: Array, w: Array, place: int) -> Array:
        of_one = (lambda x: of_both(x, w)) if place == 0 else (lambda w: of_both(x, w))
        (found,) = jax.linear_transpose(of_one, (x, w)[place])(unit)
        return found

    for place in (0, 1):
        try:
            found = computed(functools.partial(coefficients, place=place), unit, *operands)
        except (AssertionError, NotImplementedError, TypeError, ValueError) as error:  # as JAX finds it
            raise ValueError(f"{name}: the function is not linear in operand {place}") from error
        if found is None:
            raise ValueError(
                f"{name}: the function has captured an array whose values are not known yet, as under jax.jit; "
                "which entries a dot product has must be known: capture a NumPy array, or pass it as an operand"
            )
        wrong = abs(found)[~np.isin(abs(found), (0, 1))]
        if wrong.size:
            raise ValueError(
                f"{name}: an output has {wrong[0]:.4g} times a product of entries, or several products of one "
                "entry; each must be a dot product of different entries, with coefficients 0 and 1"
            )


def _operation(declared: Primitive) -> Callable[..., Array]:
    """The function that applies a primitive."""

    def operation(*operands: ArrayLike, **settings: Any) -> Array:
        return call(declared, *operands, **settings)

    operation.__name__ = operation.__qualname__ = declared.name
    operation.__doc__ = f"The operation {declared.name!r}."
    return operation


def _require_shapes(name: str, given: Projected, returned: Any) -> None:
    """Raise ``ValueError`` unless a projection returns what it was given: inputs and an output of the same shapes."""
    expected = [jnp.shape(array) for array in (*given[0], given[1])]
    is_pair = isinstance(returned, (tuple, list)) and len(returned) == 2 and isinstance(returned[0], (tuple, list))
    found = [jnp.shape(array) for array in (*returned[0], returned[1])] if is_pair else described(returned)
    if expected != found:
        raise ValueError(
            f"{name}: project was given inputs and an output of shapes {expected} and returned {found}; "
            "it must return the tuple of new inputs, then the new output, in the same shapes: ((x, ...), z)"
        )
