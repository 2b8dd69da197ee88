"""Operations that a user adds, and the numerical test of their projections."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from pjax_core.operations import primitives
from pjax_core.operations.primitive import bilinear

from .copies_of_products import require_norms_of_copies


def project_absolute(inputs: Any, z: Any) -> Any:
    """The nearer of the two half-lines of z = |x|."""
    (x,) = inputs
    sign = jnp.where(x * z >= 0, jnp.sign(x), jnp.where(jnp.abs(x) > jnp.abs(z), jnp.sign(x), jnp.sign(x)))
    sign = jnp.where(sign == 0, 1.0, sign)
    length = jnp.maximum((sign * x + z) / 2, 0)
    return (sign * length,), length


absolute = pj.primitive("absolute", forward=lambda x: jnp.abs(x), project=project_absolute)


def outer_columns(x: Any, w: Any) -> Any:
    return jnp.einsum("bi,bij->bj", x, w)


def spread_columns(x: Any, w: Any) -> Any:
    return jnp.broadcast_to(x[:, None], (x.shape[0], w.shape[2], x.shape[1])), jnp.swapaxes(w, 1, 2)


by_sample = pj.bilinear("by_sample", outer_columns)
by_sample_spread = pj.bilinear("by_sample", outer_columns, spread=spread_columns)

NORMAL = np.random.default_rng(0).normal


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (absolute, [(6,)]),
        (by_sample_spread, [(2, 3), (2, 3, 2)]),
        (pj.matmul, [(2, 3), (3, 2)]),
        (pj.relu, [(5,)]),
        (pj.add, [(2, 3), (3,)]),
        (pj.sum_relu, [(2, 3), (3,), (2, 1)]),
        (functools.partial(pj.sum, axis=1), [(3, 4)]),
        (functools.partial(jnp.cumsum, axis=1), [(2, 3)]),
        (functools.partial(pj.max, axis=1), [(3, 4)]),
        (functools.partial(pj.quantize, levels=3), [(6,)]),
        (functools.partial(pj.max_pool, window=2, strides=1, padding="SAME"), [(1, 3, 3, 1)]),
        (functools.partial(pj.conv2d, strides=2, padding="SAME"), [(1, 3, 3, 1), (2, 2, 1, 2)]),
        (functools.partial(jnp.einsum, "bij,bjk->bik"), [(2, 2, 3), (2, 3, 2)]),
    ],
)
def test_projections_pass_the_check(operation: Any, shapes: Any) -> None:
    pj.check_projection(operation, [NORMAL(size=shape) for shape in shapes], samples=50)


def test_a_given_estimate_of_the_output() -> None:
    pj.check_projection(pj.relu, [np.array([1.0, -2.0, 3.0])], np.array([-1.0, 5.0, 3.0]), samples=50)


def off(inputs: Any, z: Any) -> Any:
    return (inputs[0],), z


def far(inputs: Any, z: Any) -> Any:
    return (inputs[0],), inputs[0] ** 2


def restless(inputs: Any, z: Any) -> Any:
    (new,), output = project_absolute(inputs, z)
    return (new + jnp.where(jnp.abs(jnp.abs(inputs[0]) - z) < 1e-9, 1e-3, 0),), jnp.abs(
        new + jnp.where(jnp.abs(jnp.abs(inputs[0]) - z) < 1e-9, 1e-3, 0)
    )


@pytest.mark.parametrize(
    ("forward", "project", "message"),
    [
        (lambda x: x**2, off, r"wrong: the projected point is not feasible: output\[\d\] is .* which is .* away"),
        (
            lambda x: x**2,
            far,
            r"not the nearest: it is at distance .* found a feasible point at .* inputs\[0\]\[\d\], by",
        ),
        (lambda x: jnp.abs(x), restless, r"projecting the projected point again moves inputs\[0\]\[\d\] by 0.001"),
        (lambda x: x, lambda inputs, z: ((inputs[0] * jnp.nan,), z), "inputs that are not finite"),
    ],
)
def test_what_is_no_projection_fails_the_check(forward: Any, project: Any, message: str) -> None:
    wrong = pj.primitive("wrong", forward=forward, project=project)
    with pytest.raises(AssertionError, match=message):
        pj.check_projection(wrong, [np.array([0.5, -1.5, 2.0])], np.array([1.0, 1.0, 3.0]), samples=50)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: jax.nn.relu(jnp.tanh(x) @ np.eye(3)), "several constraints"),
        (lambda x: jnp.reshape(x, (3, 1)), "returned"),
        (lambda x: pj.margin_loss(x, np.ones(3)), "returned .*Loss"),
        (lambda x: by_sample(x[None], np.ones((1, 3, 2))), "give pj.bilinear a spread"),
    ],
)
def test_what_cannot_be_checked(operation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pj.check_projection(operation, [np.ones(3)])


def network(params: Any, x: Any, y: Any, product: Any = by_sample) -> Any:
    h = absolute(pj.matmul(x, params["w"]))
    return pj.margin_loss(pj.add(product(h, params["v"]), 0.1), y)


PARAMS = {"w": NORMAL(size=(4, 3)).astype(np.float32), "v": NORMAL(size=(6, 3, 2)).astype(np.float32)}
DATA = NORMAL(size=(6, 4)).astype(np.float32), np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]]


@pytest.mark.parametrize(
    "algorithm",
    [
        pj.alternating_projections(),
        pj.cyclic_projections(),
        pj.douglas_rachford(),
        pj.difference_map(),
    ],
)
def test_networks_of_added_operations_reach_their_labels(algorithm: pj.Algorithm) -> None:
    x, y = DATA
    problem = pj.feasibility(lambda params, x, y: network(params, x, y))
    solution = pj.solve(problem, PARAMS, x, y, algorithm=algorithm, steps=300, tolerance=np.inf)
    start, end = (float(pj.evaluate(network, params, x, y)) for params in (PARAMS, solution.params))
    assert end < 0.05 * start


def test_copies_cannot_be_stored_without_a_layout() -> None:
    x, y = DATA
    problem = pj.feasibility(lambda params, x, y: network(params, x, y))
    with pytest.raises(ValueError, match="by_sample: its copies cannot be stored"):
        pj.solve(problem, PARAMS, x, y, algorithm=pj.douglas_rachford(copies="dense"), steps=1)
    spread = pj.feasibility(lambda params, x, y: network(params, x, y, by_sample_spread))
    dense = pj.solve(spread, PARAMS, x, y, algorithm=pj.douglas_rachford(copies="dense"), steps=3)
    factored = pj.solve(problem, PARAMS, x, y, algorithm=pj.douglas_rachford(copies=pj.Factored(history=3)), steps=3)
    for key, start in PARAMS.items():
        change = np.asarray(dense.params[key]) - start
        assert np.linalg.norm(factored.params[key] - start - change) < 1e-4 * np.linalg.norm(change)


def test_a_projection_that_returns_other_shapes() -> None:
    wrong = pj.primitive("wrong", forward=lambda x: jnp.sum(x), project=lambda inputs, z: (inputs, inputs[0]))
    with pytest.raises(ValueError, match=r"wrong: project was given .* shapes \[\(3,\), \(\)\] and returned"):
        pj.check_projection(wrong, [np.ones(3)])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda inputs, z: (inputs[0], z), r"returned \(JitTracer.*\(\(x, ...\), z\)"),
        (lambda inputs, z: z, r"returned JitTracer.*\(\(x, ...\), z\)"),
        (lambda inputs, z: None, r"returned None; .*\(\(x, ...\), z\)"),
    ],
)
def test_a_projection_that_returns_no_pair(returned: Any, message: str) -> None:
    wrong = pj.primitive("wrong", forward=lambda x: jnp.abs(x), project=returned)
    with pytest.raises(ValueError, match=message):
        pj.check_projection(wrong, [np.ones(3)])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, w: 2 * x @ w, "wrong: an output has 2 times a product"),
        (lambda x, w: x @ w - x[:, ::-1] @ w, "wrong: an output has .* times a product"),
        (lambda x, w: (x @ w) * w[0], "wrong: the function is not linear in operand 1"),
        (lambda x, w: jnp.tanh(x) @ w, "wrong: the function is not linear in operand 0"),
    ],
    ids=["factor", "difference", "square", "tanh"],
)
def test_bilinear_operations_that_are_not_made_of_dot_products(function: Any, message: str) -> None:
    wrong = pj.bilinear("wrong", function)
    problem = pj.feasibility(lambda params, x, y: pj.margin_loss(wrong(x, params), y))
    params = NORMAL(size=(4, 3)).astype(np.float32)
    x, y = NORMAL(size=(6, 4)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    with pytest.raises(ValueError, match=message):
        pj.solve(problem, params, x, y, algorithm=pj.alternating_projections(), steps=1)


def test_what_a_bilinear_operation_captures_must_be_known() -> None:
    """No tracer is kept in it, then, from which it would leak as from a function under ``jax.custom_jvp``."""
    x, w, y = NORMAL(size=(4, 3)), NORMAL(size=(3, 2)), np.eye(2)[[0, 1, 0, 1]]

    def solve(mask: Any) -> Any:
        masked = pj.bilinear("masked", lambda x, w: (x @ w) * mask)
        problem = pj.feasibility(lambda w, x: pj.margin_loss(masked(x, w), y))
        return pj.solve(problem, w, x, algorithm=pj.alternating_projections(), steps=1, tolerance=np.inf).change

    known = np.eye(4, 2)
    with jax.checking_leaks():
        np.testing.assert_allclose(jax.jit(lambda: solve(known))(), solve(known), rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match="masked: the function has captured an array whose values are not known"):
            jax.jit(solve)(known)


def test_the_check_takes_a_list_of_inputs_and_an_operation() -> None:
    with pytest.raises(TypeError, match=r"inputs is an array of shape \(3,\); pass a list"):
        pj.check_projection(pj.relu, np.ones(3))
    with pytest.raises(NotImplementedError, match=r"schur .*has no projection.*pj.primitive"):
        pj.check_projection(lambda x: jax.scipy.linalg.sqrtm(x).real, [np.ones((3, 3))])


def test_squared_norms_of_bilinear_operations_add_up(generator: np.random.Generator) -> None:
    """Also where a compiler makes one kernel of their products with ones and of the sum."""
    products = bilinear("products", primitives.einsum.forward)
    assert products.bilinear is not None
    squared_norms = products.bilinear.squared_norms
    x, w = (generator.normal(size=shape).astype(np.float32) for shape in ((64, 1, 65), (65, 128)))

    def sums(x: Any, w: Any) -> Any:
        norms = squared_norms(x, w, equation="bti,ij->btj")
        return [jnp.sum(norm, axis=-1) for norm in norms]

    expected = 128 * (x * x).sum(axis=-1), np.broadcast_to((w * w).sum(), (64, 1))
    for found, right in zip(jax.jit(sums)(x, w), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize(
    ("primitive", "shapes", "settings"),
    [
        (primitives.matmul, [(4, 3), (3, 5)], {}),
        (primitives.matmul_transposed, [(4, 3), (5, 3)], {}),
        (primitives.einsum, [(2, 3, 4), (2, 5, 4)], {"equation": "bqd,bkd->kbq"}),
        (primitives.einsum, [(2, 3), (4, 5, 3)], {"equation": "ab,cdb->d"}),
        (primitives.einsum, [(3, 3, 2), (2, 4)], {"equation": "iij,jk->ik"}),
        (primitives.recurrence, [(2, 3, 4), (2, 3, 5), (4, 5), (5, 5)], {}),
        (primitives.recurrence.vmapped(), [(2, 2, 3, 4), (2, 2, 3, 5), (2, 4, 5), (2, 5, 5)], {}),
        (primitives.conv2d, [(2, 5, 4, 3), (3, 2, 3, 2)], {"strides": (2, 1), "padding": ((1, 2), (0, 1))}),
    ],
    ids=["matmul", "transposed", "batched", "sums", "diagonal", "recurrence", "mapped", "conv2d"],
)
def test_squared_norms_are_those_of_the_copies(
    primitive: Any, shapes: Any, settings: Any, generator: np.random.Generator
) -> None:
    require_norms_of_copies(primitive, [generator.normal(size=shape) for shape in shapes], settings)
