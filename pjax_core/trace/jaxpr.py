"""The walk over the equations of a jaxpr, which makes the graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from pjax_core.arrays.meshes import is_open, shape_of_aval, shape_of_type, varying_axes, without_manual_axes
from pjax_core.graph.colour import two_colour
from pjax_core.graph.graph import Graph, Loop
from pjax_core.graph.loops import in_order, with_states
from pjax_core.graph.nodes import STOPPED, Computed, Data, Node, Parameter, Slot, of_node, ordered, select
from pjax_core.graph.rewrite import in_stored_layout, rewritten
from pjax_core.graph.sets import of_parameters
from pjax_core.trace import names
from pjax_core.trace.arraywise import arraywise, as_a_whole, goes_on
from pjax_core.trace.conditions import is_condition, viewed
from pjax_core.trace.elementwise import elementwise, stopped, with_own_slope
from pjax_core.trace.equation import Equation
from pjax_core.trace.equations import CALLS, RULES, average, has_rule, refusal, with_data
from pjax_core.trace.indices import with_indices
from pjax_core.trace.instead import INSTEAD
from pjax_core.trace.loops import CONTROL, warn_of_python_loops
from pjax_core.trace.named.ordinary import without_constraint
from pjax_core.trace.operations import constant, slot_of
from pjax_core.trace.values import Arraywise, Elementwise, Indices, Loss, Value, is_fixed, known
from pjax_kernels.compose import as_array, exact_outputs


def trace(function: Callable[..., Any], params: Any, data: tuple[Any, ...], apart: bool = False) -> Graph:
    """The two-coloured graph of ``function(params, *data)``, from the shapes of its arguments."""
    params, data = jax.tree.map(shape_of_type, (params, data))
    found: list[Graph] = []
    # While JAX traces, what is computed of known arrays is known; in shard_map outside jit it would not be.
    with jax.debug_nans(False):  # which constants may be where nothing takes them, and functions outside their domain
        jax.eval_shape(lambda: found.append(_traced(function, params, data, apart)))
    return found[0]


def _traced(function: Callable[..., Any], params: Any, data: tuple[Any, ...], apart: bool) -> Graph:
    parameters, constants = _leaves(Parameter, "params", params), _leaves(Data, "data", data)
    closed = jax.make_jaxpr(function)(*jax.tree.map(without_manual_axes, (params, *data)))
    # Without what nothing reads, such as outputs of loops: nothing is asked of it.
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    loops: list[Loop] = []
    returned = run(jaxpr, closed.consts, [of_node(node) for node in (*parameters, *constants)], loops)
    losses = [value for value in returned if isinstance(value, Loss)]
    if not losses or len(losses) < len(returned):
        raise ValueError(without_constraint(closed.jaxpr, returned))
    constraints = list(dict.fromkeys(node for loss in losses for node in loss.nodes))
    needed, loops = with_states(constraints, loops)
    outputs, regions = of_parameters(needed)
    nodes = [in_stored_layout(node) for node in in_order(ordered(rewritten(outputs, loops)), loops)]
    for parameter in parameters:
        if parameter not in nodes:
            raise ValueError(
                f"parameter {parameter.name} is never used on the way to the output constraint; remove it, or use it"
            )
    graph = two_colour(nodes, len(constants), apart, loops)
    warn_of_python_loops(nodes)
    return replace(
        graph, regions=regions, holds_tracers=any(isinstance(const, jax.core.Tracer) for const in closed.consts)
    )


def values_of(function: Callable[..., Any], shapes: Sequence[Any], nodes: Sequence[Node]) -> list[Value]:
    """What ``function`` returns for arguments of these shapes, whose leaves are the outputs of ``nodes``."""
    closed = jax.make_jaxpr(function)(*shapes)
    return run(closed.jaxpr, closed.consts, list(map(of_node, nodes)), [])


def _leaves(kind: type[Parameter] | type[Data], name: str, tree: Any) -> list[Node]:
    """A node for each leaf of a tree of shapes."""
    return [
        kind(name + jax.tree_util.keystr(path), leaf, index)
        for index, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree))
    ]


def run(
    jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Value], loops: list[Loop], caller: Any = None
) -> list[Value]:
    """What the outputs of a jaxpr stand for, whose loops are added to ``loops``; ``caller`` is what calls it."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    values |= {var: constant(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(var: Any) -> Value:
        if not isinstance(var, Literal):
            return values[var]
        return constant(np.asarray(var.val, np.dtype(getattr(var.aval, "dtype", None))))

    for eqn in jaxpr.eqns:
        inputs = [read(var) for var in eqn.invars]
        shapes = tuple(shape_of_aval(var.aval) for var in eqn.outvars)
        equation = Equation(eqn.primitive.name, eqn.params, shapes, eqn, caller or eqn, loops)
        try:
            outputs = _applied(equation, inputs)
        except _OURS as error:
            raise _with_line(error, equation) from error.__cause__
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


_OURS = (NotImplementedError, TypeError, ValueError)


def _with_line(error: Exception, equation: Equation) -> Exception:
    """The error with the line of the user's that it is from, if it has none and is no special one of JAX's."""
    where = equation.where()
    return error if type(error) not in _OURS or where in str(error) else type(error)(f"{where}: {error}")


def _run_inside(equation: Equation, inner: Any, inputs: Sequence[Value]) -> list[Value]:
    """The outputs of a jaxpr in an equation."""
    jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
    return run(jaxpr, consts, inputs, equation.loops, equation.caller)


def _called(equation: Equation, inputs: Sequence[Value]) -> list[Value]:
    """The outputs of a call, as those of its equations, or as a whole where these have no projection or no slope."""
    known_loops = len(equation.loops)
    if equation.has_own_derivative and names.occurs(names.CALLBACKS, equation.inner):
        found = as_a_whole(equation, inputs)
        if found is not None:
            return found
    try:
        outputs = _run_inside(equation, equation.inner, inputs)
        if not equation.has_own_derivative:
            return outputs
        if len(inputs) == len(outputs) == 1:
            outputs = [with_own_slope(equation, inputs[0], outputs[0])]
            if isinstance(outputs[0], Elementwise) and outputs[0].free:
                return outputs
        # Only now is it known whether what is inside, such as a kernel, has a derivative.
        outputs = [slot_of(value) if isinstance(value, Arraywise) else value for value in outputs]
        return (as_a_whole(equation, inputs) if names.occurs(names.STEPS, equation.inner) else None) or outputs
    except NotImplementedError:
        found = as_a_whole(equation, inputs) if equation.calls_jax or equation.has_own_derivative else None
        if found is None:
            raise
        del equation.loops[known_loops:]
        return found


def _applied(equation: Equation, inputs: Sequence[Value]) -> list[Value]:
    """The outputs of an equation."""
    if equation.name in names.INLINED:
        return _called(equation, inputs)
    if equation.name in names.PRINTED and not all(map(is_fixed, inputs)):
        warnings.warn(
            f"{equation.where()}: what depends on parameters is not printed; print in the function called outside of "
            "feasibility",
            stacklevel=2,
        )
        return []
    if any(isinstance(value, Loss) for value in inputs):
        return [average(equation, inputs)]
    if goes_on(equation, inputs):
        found = arraywise(equation, inputs)
        if found is not None:
            return found
    inputs = [slot_of(value) if isinstance(value, Arraywise) else value for value in inputs]
    if any(isinstance(value, Indices) for value in inputs):
        if equation.name == "cond":
            return CONTROL["cond"](equation, inputs, _run_inside)
        return [with_indices(equation, inputs)]
    if all(map(is_fixed, inputs)) and equation.name not in CALLS:
        return _fixed(equation.for_types(value.shape for value in inputs), [slot_of(value) for value in inputs])
    of_elements = elementwise(equation, inputs)
    if of_elements is not None:
        return [of_elements]
    if equation.name == STOPPED and not equation.is_stopped_by_jax:
        return [stopped(inputs[0])]
    if equation.name in names.IDENTITIES:
        return list(inputs)
    if has_rule(equation):
        result = RULES[equation.name](equation, *inputs)
        return result if isinstance(result, list) else [result]
    if equation.name in CONTROL:
        return CONTROL[equation.name](equation, inputs, _run_inside)
    are_numbers = all(is_fixed(value) or jnp.issubdtype(value.shape.dtype, jnp.floating) for value in inputs)
    instead = INSTEAD[equation.name](equation.params) if equation.name in INSTEAD and are_numbers else None
    if instead is not None:
        shapes = (without_manual_axes(value.shape) for value in inputs)
        return _run_inside(equation, jax.make_jaxpr(instead)(*shapes), inputs)
    if equation.name in names.VIEWS:
        if any(map(is_condition, inputs)):
            return [viewed(equation, inputs)]
        if are_numbers:
            return _views(equation, [slot_of(value) for value in inputs])
    of_one = with_data(equation, inputs)
    found = arraywise(equation, inputs) if of_one is None else [of_one]
    if found is None:
        raise NotImplementedError(f"{equation.where()}: {refusal(equation)}")
    return found


def _views(equation: Equation, slots: Sequence[Slot]) -> list[Value]:
    """Selections of elements."""
    return [
        select(equation.name, function, equation.params, shape, *slots)
        for function, shape in zip(equation.of_outputs(), equation.shapes, strict=True)
    ]


def _fixed(equation: Equation, slots: Sequence[Slot]) -> list[Value]:
    """The outputs of an equation of data and constants: constants if it can be, views, or functions of data."""
    arrays = list(map(known, slots))
    depends_on_sizes = equation.name == names.SIZE or is_open(*equation.shapes)
    if all(array is not None for array in arrays) and not depends_on_sizes:
        found: Any = exact_outputs(equation.of, arrays)
        if found is None:
            with jax.ensure_compile_time_eval():
                outputs = equation.bind()(*map(as_array, arrays))
            found = outputs if equation.of.primitive.multiple_results else [outputs]
        return list(map(constant, found))
    if equation.name == "scan" and varying_axes(equation.shapes):  # whose step was traced for other types
        return CONTROL["scan"](equation, slots, _run_inside)
    if equation.name in names.VIEWS:
        return _views(equation, slots)
    return [
        of_node(Computed(f"{equation.name} of data", shape, -1, function, tuple(slots)))
        for function, shape in zip(equation.of_outputs(), equation.shapes, strict=True)
    ]
