"""Bad input gives one clear error that names what came and what to do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj

ALGORITHM = pj.alternating_projections()
Function = Callable[..., Any]


def linear(params: Any, x: Any) -> Any:
    return pj.matmul(x, params["w"])


def margin(params: Any, x: Any, y: Any) -> Any:
    return pj.margin_loss(linear(params, x), y)


@pytest.fixture
def params(generator: np.random.Generator) -> dict[str, Any]:
    return {"w": np.float32(generator.normal(size=(4, 3)))}


@pytest.fixture
def data(generator: np.random.Generator, one_hot: Any) -> tuple[Any, Any]:
    return np.float32(generator.normal(size=(5, 4))), np.float32(one_hot(5, 3))


def solve(function: Function, params: Any, *data: Any, steps: int = 1, **options: Any) -> Any:
    return pj.solve(pj.feasibility(function), params, *data, algorithm=ALGORITHM, steps=steps, **options)


def test_the_problem_of_these_tests_is_well_posed(params: Any, data: Any) -> None:
    assert np.all(np.isfinite(solve(margin, params, *data).params["w"]))


def test_shapes_that_do_not_fit(params: Any, data: Any) -> None:
    x, y = data
    with pytest.raises(TypeError, match=r"contracting dimensions .* got \(3,\) and \(4,\)"):
        solve(margin, params, x[:, 1:], y)
    with pytest.raises(ValueError, match=r"margin_loss: logits have shape \(5, 3\) and labels \(5, 2\)"):
        solve(margin, params, x, y[:, 1:])
    with pytest.raises(TypeError, match=r"incompatible shapes for broadcasting: \(5, 3\), \(5, 4\)"):
        solve(lambda p, x, y: pj.margin_loss(x @ p["w"] + x, y), params, x, y)


def test_integers_that_parameters_choose_twice_are_refused(params: Any, data: Any) -> None:
    def signed(params: Any, x: Any, y: Any) -> Any:
        scores = linear(params, x)
        sign = jnp.where(scores[0, 0] > 0, 1, -1)
        return pj.margin_loss(jnp.where(scores.sum() > 1, -sign, sign) * scores, y)

    with pytest.raises(NotImplementedError, match=r"test_errors.py, line .* such as 1.0 and -1.0"):
        solve(signed, params, *data)


def test_a_problem_is_no_network(params: Any, data: Any) -> None:
    with pytest.raises(TypeError, match="function is a Problem; pass the network, a function of params and data"):
        pj.evaluate(pj.feasibility(margin), params, *data)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64])
def test_arrays_that_are_not_floating_point(params: Any, data: Any, dtype: Any) -> None:
    x, y = data
    with pytest.raises(TypeError, match=rf"params\['w'\] has dtype {np.dtype(dtype)}.*floating-point"):
        solve(margin, {"w": params["w"].astype(dtype)}, x, y)
    if dtype is np.complex64:  # others may be labels
        with pytest.raises(TypeError, match=rf"data\[1\] has dtype {np.dtype(dtype)}.*floating-point"):
            solve(margin, params, x, y.astype(dtype))


@pytest.mark.parametrize(
    ("function", "returned"),
    [
        (lambda p, x, y: linear(p, x), r"float32\[5,3\], computed from matmul"),
        (lambda p, x, y: jnp.ones(3), r"float32\[3\]"),
        (lambda p, x, y: 2.5, r"float32\[\]"),
        (lambda p, x, y: None, "nothing"),
        (lambda p, x, y: [], "nothing"),
        (lambda p, x, y: (margin(p, x, y), linear(p, x)), r"float32\[5,3\], computed from matmul"),
    ],
    ids=["logits", "array", "number", "None", "empty", "mixture"],
)
def test_a_loss_that_is_no_output_constraint(params: Any, data: Any, function: Function, returned: str) -> None:
    with pytest.raises(ValueError, match=rf"must return an output constraint, such as .*returned.*{returned}"):
        solve(function, params, *data)


def test_a_parameter_that_is_never_used(params: Any, data: Any) -> None:
    more = params | {"biases": [np.float32([1.0, 2.0])]}
    with pytest.raises(ValueError, match=r"params\['biases'\]\[0\] is never used .*remove it, or use it"):
        solve(margin, more, *data)

    def computed_for_nothing(p: Any, x: Any, y: Any) -> Any:
        pj.relu(p["biases"][0])
        return margin(p, x, y)

    with pytest.raises(ValueError, match=r"params\['biases'\]\[0\] is never used"):
        solve(computed_for_nothing, more, *data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(params: Any, data: Any, bad: float) -> None:
    x, y = data
    broken = np.array(params["w"])
    broken[2, 1] = broken[3, 0] = bad
    with pytest.raises(ValueError, match=r"params\['w'\] of shape \(4, 3\) has 2 entries that are NaN or inf"):
        solve(margin, {"w": broken}, x, y)
    broken = np.array(x)
    broken[4, 1] = bad
    with pytest.raises(ValueError, match=r"data\[0\] of shape \(5, 4\) has 1 entries that are NaN or inf"):
        solve(margin, params, broken, y)
    with pytest.raises(ValueError, match=r"data\[0\]"):
        ALGORITHM.init(pj.feasibility(margin), params, broken, y)


def test_numbers_of_unknown_content_are_not_checked(params: Any, data: Any) -> None:
    found = jax.jit(lambda p, x, y: solve(margin, p, x, y).params)(params, *data)
    np.testing.assert_allclose(found["w"], solve(margin, params, *data).params["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [pj.margin_loss, pj.cross_entropy])
def test_labels_that_come_from_parameters(params: Any, data: Any, loss: Function) -> None:
    with pytest.raises(ValueError, match=r"labels come from params\['t'\]; they must be data"):
        solve(lambda p, x, y: loss(linear(p, x), p["t"]), params | {"t": data[1]}, *data)
    with pytest.raises(ValueError, match="labels come from sum_relu; they must be data"):
        solve(lambda p, x, y: loss(linear(p, x), jax.nn.relu(linear(p, x))[:, ::-1]), params, *data)


def test_functions_without_a_projection_are_named_with_their_line(params: Any, data: Any) -> None:
    def network(p: Any, x: Any, y: Any) -> Any:
        return pj.margin_loss(jax.scipy.linalg.sqrtm(jnp.outer(*linear(p, x)[:2])).real, y[:3])  # this line

    with pytest.raises(
        NotImplementedError, match=r"test_errors.py, line \d+ .*this line.*schur of values .*has no projection"
    ):
        solve(network, params, *data)


def test_traced_values_are_neither_true_nor_false(params: Any, data: Any) -> None:
    with pytest.raises(TypeError, match="boolean conversion"):
        solve(lambda p, x, y: margin(p, x, y) if p["w"][0, 0] else margin(p, x, y), params, *data)


@pytest.mark.parametrize("problem", [margin, {"w": np.ones(3)}, None])
def test_what_is_no_problem(params: Any, data: Any, problem: Any) -> None:
    message = rf"problem is of type {type(problem).__name__}; pass pj.feasibility"
    for call in (ALGORITHM.init, ALGORITHM.describe, pj.douglas_rachford().init):
        with pytest.raises(TypeError, match=message):
            call(problem, params, *data)
    with pytest.raises(TypeError, match=message):
        pj.solve(problem, params, *data, algorithm=ALGORITHM, steps=1)


@pytest.mark.parametrize("algorithm", [pj.alternating_projections, "ap", None])
def test_what_is_no_algorithm(params: Any, data: Any, algorithm: Any) -> None:
    with pytest.raises(TypeError, match=r"algorithm is .*pass one, such as pj.alternating_projections\(\)"):
        pj.solve(pj.feasibility(margin), params, *data, algorithm=algorithm, steps=1)


def test_data_before_params(params: Any, data: Any) -> None:
    x, y = data
    with pytest.raises((TypeError, IndexError), match="w"):
        solve(margin, x, params, y)


def test_settings_among_params(params: Any, data: Any) -> None:
    with pytest.raises(TypeError, match=r"params\['name'\] is 'net', of type str; .*trees of arrays"):
        solve(margin, params | {"name": "net"}, *data)


def test_class_numbers_in_the_place_of_probabilities(params: Any, data: Any) -> None:
    x, y = data
    with pytest.raises(ValueError, match=r"labels \(5,\); .*jax.nn.one_hot"):
        solve(margin, params, x, y.argmax(1))


@pytest.mark.parametrize("factor", [7.0, 0.5, -1.0])
@pytest.mark.parametrize("place", ["data", "constant", "view"])
def test_labels_that_are_no_probabilities(params: Any, data: Any, factor: float, place: str) -> None:
    x, y = data
    wrong = factor * y
    losses: dict[str, Function] = {
        "data": lambda p, x, y: pj.cross_entropy(linear(p, x), y),
        "constant": lambda p, x, _: pj.cross_entropy(linear(p, x), wrong),
        "view": lambda p, x, y: pj.cross_entropy(linear(p, x).T.T[::-1], y[::-1]),
    }
    with pytest.raises(ValueError, match=r"cross_entropy: labels, from (data\[1\]|constant), are from .*one_hot"):
        solve(losses[place], params, x, wrong)
    with pytest.raises(ValueError, match="cross_entropy: labels"):
        ALGORITHM.init(pj.feasibility(losses[place]), params, x, wrong)


@pytest.mark.parametrize("loss", [pj.margin_loss, pj.cross_entropy, pj.squared_error, pj.absolute_error])
def test_weights_below_zero(params: Any, data: Any, loss: Function) -> None:
    x, y = data
    weights = np.where(np.arange(5) == 3, -0.5, 1.0).astype(np.float32)
    weights = weights[:, None] if loss in (pj.squared_error, pj.absolute_error) else weights
    with pytest.raises(
        ValueError, match=rf"{loss.__name__}: weights, from data\[2\], are as low as -0.5; pass numbers"
    ):
        solve(lambda p, x, y, w: loss(linear(p, x), y, weights=w), params, x, y, weights)


def test_sets_without_points(params: Any, data: Any) -> None:
    with pytest.raises(ValueError, match=r"within: low is 1.0 and high is -1.0; pass a low that is at most high"):
        solve(lambda p, x, y: pj.within(linear(p, x), pj.Box(1.0, -1.0)), params, *data)


def test_arrays_among_settings(params: Any, data: Any) -> None:
    pulled = pj.output("pulled", loss=lambda z, y: jnp.mean((z - y) ** 2), prox=lambda z, y, part: z + part * (y - z))
    with pytest.raises(TypeError, match=r"pulled: the setting part is .*; pass arrays as data, by position"):
        solve(lambda p, x, y, part: pulled(linear(p, x), y, part=part), params, *data, np.float32(0.5))


def test_settings_that_an_algorithm_has_not() -> None:
    with pytest.raises(TypeError, match=r"alternating_projections\(\) got an unexpected keyword argument 'gamma'"):
        pj.alternating_projections(gamma=1e-3)  # type: ignore[call-arg]


def test_labels_need_not_be_one_hot(params: Any, data: Any) -> None:
    x, y = data
    found = solve(lambda p, x, y: pj.cross_entropy(linear(p, x), y), params, x, np.full_like(y, 1 / 3))
    assert np.all(np.isfinite(found.params["w"]))


def test_margins_below_zero(params: Any, data: Any) -> None:
    x, y = data
    with pytest.raises(ValueError, match=r"margin_loss: labels, from data\[1\], are from -1 to 1; pass 0, or"):
        solve(margin, params, x, 2 * y - 1)
    assert np.all(np.isfinite(solve(margin, params, x, 7 * y).params["w"]))


@pytest.mark.parametrize("operator", ["add", "matmul"])
def test_operators_with_numpy_arrays_on_the_left(params: Any, data: Any, operator: str) -> None:
    x, y = data
    with_array: dict[str, Function] = {
        "add": lambda p, _, y: pj.margin_loss(y + linear(p, x), y),
        "matmul": lambda p, _, y: pj.margin_loss(x @ p["w"], y),
    }
    with_operation: dict[str, Function] = {
        "add": lambda p, _, y: pj.margin_loss(jnp.add(y, linear(p, x)), y),
        "matmul": lambda p, _, y: pj.margin_loss(jnp.matmul(x, p["w"]), y),
    }
    found, expected = (
        solve(lambda p, x, _, f=functions[operator]: f(p, x, y), params, *data).params["w"]
        for functions in (with_array, with_operation)
    )
    np.testing.assert_array_equal(found, expected)


def test_functions_of_numpy_on_traced_values(params: Any, data: Any) -> None:
    with pytest.raises(jax.errors.TracerArrayConversionError):
        solve(lambda p, x, y: pj.margin_loss(np.tanh(linear(p, x)), y), params, *data)


def test_rows_of_a_traced_value_end(params: Any, data: Any) -> None:
    counts = []

    def function(p: Any, x: Any, y: Any) -> Any:
        counts.append(len(list(itertools.islice(p["w"], 10))))
        return margin(p, x, y)

    solve(function, params, *data, steps=0)
    assert set(counts) == {4}


def test_indices_out_of_bounds(params: Any, data: Any) -> None:
    with pytest.raises(IndexError, match="4"):
        solve(lambda p, x, y: pj.margin_loss(pj.index(linear(p, x).T, 4), y[:, 0]), params, *data)


@pytest.mark.parametrize("steps", [-1, -50])
def test_negative_steps(params: Any, data: Any, steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}; pass a number that is not negative"):
        solve(margin, params, *data, steps=steps)


@pytest.mark.parametrize("steps", [1.5, "3", None])
def test_steps_that_are_no_integer(params: Any, data: Any, steps: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="steps is"):
        solve(margin, params, *data, steps=steps)


@pytest.mark.parametrize("strength", [0, -1.0, np.nan, True])
def test_strength_that_is_not_positive(params: Any, data: Any, strength: float) -> None:
    message = f"cross_entropy: strength is {strength!r}; pass a positive number"
    with pytest.raises(ValueError, match=message):
        solve(lambda p, x, y: pj.cross_entropy(linear(p, x), y, strength=strength), params, *data)
    with pytest.raises(ValueError, match=message):
        pj.cross_entropy(*data[1:], data[1], strength=strength)


@pytest.mark.parametrize("empty", [{}, [], None, {"w": None}])
def test_empty_params(data: Any, empty: Any) -> None:
    with pytest.raises(ValueError, match="params holds no array"):
        solve(margin, empty, *data)


def test_params_low_of_another_structure(params: Any, data: Any) -> None:
    for low in ({"v": params["w"]}, {"w": params["w"][1:]}):
        with pytest.raises(ValueError, match="params_low"):
            solve(margin, params, *data, params_low=low)


def test_problems_of_one_function_are_one(params: Any, data: Any) -> None:
    """So that a loop that makes them anew traces, and compiles, nothing anew."""
    traces = []

    def counted(p: Any, x: Any, y: Any) -> Any:
        traces.append(1)
        return margin(p, x, y)

    class Network:
        """Compares by content, so has no hash."""

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Network)

        def __call__(self, p: Any, x: Any, y: Any) -> Any:
            return margin(p, x, y)

    solve(counted, params, *data)
    before = len(traces)
    solve(counted, params, *data)
    assert before > 0
    assert len(traces) == before
    assert pj.feasibility(counted) != pj.feasibility(margin)
    assert np.all(np.isfinite(solve(Network(), params, *data).params["w"]))
