"""Ordinary losses where an output constraint is expected: which one stands for each, by the equations of the loss."""

from __future__ import annotations

from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from pjax_core.trace import names

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
"""What comes before the last of these is the network."""

_OF_CLASSES = "pj.cross_entropy(logits, labels), with labels as integers or probabilities"
_OF_TWO = "pj.cross_entropy(jnp.stack([jnp.zeros_like(logits), logits], -1), labels.astype(int)), of two classes"
_CONSTRAINTS = {
    "log1p": _OF_TWO,
    "log": _OF_CLASSES,
    "square": "pj.squared_error(prediction, target)",
    "abs": "pj.absolute_error(prediction, target)",
    "max": "pj.margin_loss(logits, labels), with labels 1 where a logit must be positive, and 0",
}
"""For the equation that tells a loss, the one nearest to the output: the output constraint."""


def constraint_instead(jaxpr: Jaxpr) -> str | None:
    """The output constraint to write in the place of what the jaxpr returns; None where that is no common loss."""
    kinds = list(map(_kind, _after_products(jaxpr)[0]))
    found = next((kind for kind in kinds if kind in _CONSTRAINTS), None)
    if found == "log" and "logistic" in kinds:
        return _OF_TWO
    return None if found is None else _CONSTRAINTS[found]


def _kind(eqn: Any) -> str:
    is_square = (
        eqn.primitive.name == "integer_pow"
        and eqn.params["y"] == 2
        or eqn.primitive.name == "mul"
        and eqn.invars[0] is eqn.invars[1]
    )
    return "square" if is_square else eqn.primitive.name


def _after_products(jaxpr: Jaxpr) -> tuple[list[Any], bool]:
    """The equations from the output back to the last products, and whether there are such."""
    wanted, found, ends = _variables(jaxpr.outvars), [], False
    for eqn in reversed(jaxpr.eqns):
        if wanted.isdisjoint(eqn.outvars):
            continue
        inner = next((eqn.params[name] for name in names.JAXPR_PARAMETERS if name in eqn.params), None)
        equations, is_end = [eqn], eqn.primitive.name in _PRODUCTS
        if inner is not None:
            equations, is_end = _after_products(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
        found += equations
        ends |= is_end
        if not is_end:
            wanted |= _variables(eqn.invars)
    return found, ends


def _variables(variables: Any) -> set[Any]:
    return {var for var in variables if not isinstance(var, Literal)}
