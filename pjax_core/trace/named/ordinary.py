"""Ordinary losses where an output constraint is expected: which one stands for each, by the equations of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from pjax_core.trace import names
from pjax_core.trace.equation import Equation
from pjax_core.trace.values import Arraywise, Elementwise, Indices, Loss, Truth, Value

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
"""What comes before the last of these is the network."""

_LOGADDEXP = "custom_jvp_call"
"""What ``jnp.logaddexp`` is called by, with a logarithm of ``1 + x`` inside."""

_OF_CLASSES = "pj.cross_entropy(logits, labels), with labels as integers or probabilities"
_OF_TWO = "pj.cross_entropy(jnp.stack([jnp.zeros_like(logits), logits], -1), labels.astype(int)), of two classes"
_OF_ANGLES = (
    "pj.squared_error(h / jnp.linalg.norm(h, axis=-1, keepdims=True), target), with targets of norm 1: a "
    "multiple of the cosine distance"
)
_CONSTRAINTS = {
    "log_cosh": "pj.absolute_error(prediction, target), or pj.squared_error where errors are small",
    "log1p": _OF_TWO,
    "log": _OF_CLASSES,
    "square": "pj.squared_error(prediction, target)",
    "abs": "pj.absolute_error(prediction, target)",
    "max": "pj.margin_loss(logits, labels), with labels 1 where a logit must be positive, and 0",
}
"""For the equation that tells a loss, the one nearest to the output: the output constraint."""


def without_constraint(jaxpr: Jaxpr, returned: Sequence[Value]) -> str:
    """What is returned in the place of an output constraint, by which line, and what to write there."""
    found = ", ".join(_described(value) for value in returned) or "nothing"
    others = [var for var, value in zip(jaxpr.outvars, returned, strict=True) if not isinstance(value, Loss)]
    eqn = next((eqn for eqn in jaxpr.eqns if others and others[0] in eqn.outvars), None)
    where = "" if eqn is None else f"{Equation(eqn.primitive.name, eqn.params, (), eqn, eqn).where()}: "
    of_losses = any(isinstance(value, Loss) for value in returned)
    of_arrays = any(value.shape.shape for value in returned if not isinstance(value, Loss))
    instead = None if of_losses and of_arrays else _constraint_instead(jaxpr)
    such = (
        f"in the place of this loss {instead}"
        if instead
        else (
            "such as pj.cross_entropy(logits, labels), pj.margin_loss(logits, labels) or "
            "pj.squared_error(prediction, target)"
        )
    )
    return (
        f"{where}the function given to feasibility must return an output constraint, {such}; a mean or a sum of "
        f"several, or a tree of them, but it returned {found}; any other loss of a prediction is "
        "pj.output(name, loss=...)(prediction, *data)"
        + ("; pj.feasibility(function, has_aux=True) takes a pair of one and anything else" if of_losses else "")
    )


def _described(value: Value) -> str:
    """What came in the place of an output constraint."""
    if isinstance(value, Loss):
        return value.nodes[0].name
    shape = ",".join(map(str, value.shape.shape))
    if isinstance(value, (Arraywise, Truth, Indices)):
        return f"{np.dtype(value.shape.dtype).name}[{shape}]"
    sources = value.base.sources if isinstance(value, Elementwise) else value.sources
    return f"{np.dtype(value.shape.dtype).name}[{shape}], computed from {', '.join(n.name for n in sources)}"


def _constraint_instead(jaxpr: Jaxpr) -> str | None:
    """The output constraint to write in the place of what the jaxpr returns; None where that is no common loss."""
    kinds = list(map(_kind, _after_products(jaxpr)[0]))
    place, found = next(((i, kind) for i, kind in enumerate(kinds) if kind in _CONSTRAINTS), (0, None))
    if {"product", "sqrt"} <= set(kinds[:place]):
        return _OF_ANGLES
    if found == "log" and "logistic" in kinds:
        return _OF_TWO
    return None if found is None else _CONSTRAINTS["log_cosh" if found == "log" and "cosh" in kinds else found]


def _kind(eqn: Any) -> str:
    name, variables = eqn.primitive.name, _variables(eqn.invars)
    if name == "integer_pow" and eqn.params["y"] == 2 or name == "mul" and eqn.invars[0] is eqn.invars[1]:
        return "square"
    if name == "mul" and len(variables) == 2:
        return "product"
    if name == "log" and not variables:
        return "constant"
    # log(exp(a) + exp(b)) of two values is no softplus.
    return "log_cosh" if name == _LOGADDEXP and len(variables) == 2 else name


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
            if _kind(eqn) == "log_cosh" and any(inside.primitive.name == "log1p" for inside in equations):
                equations = [eqn]
        found += equations
        ends |= is_end
        if not is_end:
            wanted |= _variables(eqn.invars)
    return found, ends


def _variables(variables: Any) -> set[Any]:
    return {var for var in variables if not isinstance(var, Literal)}
