"""Names of equations in jaxprs, as JAX 0.10 to 0.12 have them: all that depends on the release is here."""

from __future__ import annotations

from typing import Any

import jax.extend.core

INLINED = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
     "remat", "remat2", "checkpoint", "custom_lin"}
)  # fmt: skip
"""Calls of a jaxpr that is one of their parameters."""

WITH_OWN_DERIVATIVES = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
"""Calls whose derivatives are given beside them."""

IN_REVERSE_ALONE = "custom_lin"
"""What JAX leaves of a derivative forwards that there is not."""

CALLBACKS = frozenset({"io_callback", "pure_callback"})
"""Functions of Python, which are not called but where the program calls them."""

STEPS = frozenset({"argmax", "argmin", "ceil", "floor", "round", "sign"})
"""Functions with no slope, to which some other derivative is given on purpose."""

JAXPR_PARAMETERS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Where these keep it."""

VIEWS = frozenset(
    {"reshape", "transpose", "broadcast_in_dim", "slice", "concatenate", "stack", "gather", "pad", "rev", "squeeze",
     "expand_dims", "select_n", "dynamic_slice", "dynamic_update_slice", "split", "unstack", "scatter",
     "convert_element_type", "tile"}
)  # fmt: skip
"""Selections of elements, linear in what is selected from; integers and truth values say which."""

RESHAPED = frozenset({"broadcast_in_dim", "expand_dims", "reshape", "slice", "squeeze", "transpose"})
"""Views of one array that leave nothing else in."""

IDENTITIES = frozenset(
    {"copy", "copy_p", "name", "stop_gradient", "optimization_barrier", "sharding_constraint", "pvary", "pcast",
     "mesh_cast", "reshard"}
)  # fmt: skip
"""What leaves values as they are; ``stop_gradient`` where JAX itself stops, to keep numbers finite."""

LOOPS = frozenset({"scan", "while"})
"""What repeats a jaxpr."""

SHARD_MAP = "shard_map"
"""A function of the part of each device."""

PRINTED = frozenset({"debug_callback", "debug_print"})
"""What only looks at values."""

SIZE = "dim_as_value"
"""A size that is a variable, as a number."""

UNARY = frozenset(
    {"abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bessel_i0e", "bessel_i1e",
     "cbrt", "ceil", "cos", "cosh", "digamma", "erf", "erfc",
     "erf_inv", "exp", "exp2", "expm1", "floor", "integer_pow", "lgamma", "log", "log1p", "logistic",
     "neg", "not", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh"}
)  # fmt: skip
"""Functions of one number."""

BINARY = frozenset(
    {"add", "add_any", "and", "atan2", "div", "eq", "ge", "gt", "igamma", "igammac", "le",
     "lt", "max", "min", "mul", "ne", "nextafter",
     "or", "polygamma", "pow", "regularized_incomplete_beta", "rem", "select_n", "sub", "xor", "clamp"}
)  # fmt: skip
"""Functions of several numbers, of one where the others are constants."""

WORDS = {
    "acos": "jnp.arccos", "add": "+", "and": "&", "argmax": "jnp.argmax", "argmin": "jnp.argmin",
    "atan2": "jnp.arctan2", "concatenate": "jnp.concatenate", "convert_element_type": "astype", "cond": "lax.cond",
    "cumsum": "jnp.cumsum", "div": "/", "dynamic_slice": "lax.dynamic_slice",
    "dynamic_update_slice": "lax.dynamic_update_slice", "eq": "==", "gather": "indexing", "ge": ">=", "gt": ">",
    "le": "<=", "lt": "<", "max": "jnp.maximum", "min": "jnp.minimum", "mul": "*", "ne": "!=", "neg": "-", "not": "~",
    "or": "|", "pow": "**", "reduce_and": "jnp.all", "reduce_max": "jnp.max", "reduce_or": "jnp.any",
    "reduce_sum": "jnp.sum", "rem": "%", "scan": "lax.scan", "scatter": ".at[].set", "scatter-add": ".at[].add",
    "scatter-max": ".at[].max or jax.ops.segment_max", "scatter-min": ".at[].min or jax.ops.segment_min",
    "scatter-mul": ".at[].multiply", "select_n": "jnp.where", "sort": "jnp.sort or argsort", "sub": "-",
    "top_k": "lax.top_k", "while": "lax.while_loop", "xor": "^",
}  # fmt: skip
"""What users call the equations that are named otherwise."""


def occurs(names: frozenset[str], jaxpr: Any) -> bool:
    """Whether equations of such names are in a jaxpr, or in one that it calls."""
    return any(
        eqn.primitive.name in names
        or any(occurs(names, inner) for inner in jax.extend.core.jaxprs_in_params(eqn.params))
        for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )
