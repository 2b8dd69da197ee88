"""Bad input gets one error that says what came and what to do; empty input is no bad input."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

Array = np.ndarray
Call = Callable[..., Any]


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def project_factored(x: Array, w: Array, of_x: Array, of_w: Array, z: Array, **options: Any) -> pk.FactoredChanges:
    return pk.project_dense_factored((x,), (w,), ((1.0,), (of_w,)), ((of_x,), (1.0,)), z, **options)


def pool(x: Array, z: Array, **options: Any) -> tuple[jax.Array, jax.Array]:
    return pk.project_max_pool(x, z, **({"window": (2, 2)} | options))


def quantize(x: Array, z: Array, **options: Any) -> tuple[jax.Array, jax.Array]:
    return pk.project_quantize(x, z, **({"levels": 4, "scale": 1.0} | options))


def threshold(a: Array, b: Array, z: Array, **options: Any) -> tuple[jax.Array, ...]:
    return pk.project_threshold(a, b, z, margin=1.0, **options)


def threshold_dense(x: Array, w: Array, z: Array, **options: Any) -> tuple[jax.Array, ...]:
    return pk.project_threshold_dense(x, w, z, margin=1.0, **options)


def project_matmul(x: Array, w: Array, z: Array, **options: Any) -> tuple[jax.Array, ...]:
    return pk.project_bilinear_map(jnp.matmul, x, w, z, **options)


def project_matmul_factored(x: Array, w: Array, of_x: Array, of_w: Array, z: Array, **options: Any) -> Any:
    coefficients = ((1.0,), (of_w,)), ((of_x,), (1.0,))
    return pk.project_bilinear_map_factored(jnp.matmul, (x,), (w,), *coefficients, z, **options)


CALLS: dict[str, tuple[Call, tuple[Array, ...]]] = {
    "project_bilinear": (pk.project_bilinear, (ones(3, 4), ones(3, 4), ones(3))),
    "project_threshold": (threshold, (ones(3, 4), ones(3, 4), ones(3))),
    "project_threshold_dense": (threshold_dense, (ones(3, 4), ones(4, 5), ones(3, 5))),
    "project_dense": (pk.project_dense, (ones(3, 4), ones(4, 5), ones(3, 5))),
    "project_dense_copies": (
        pk.project_dense_copies,
        (ones(3, 4), ones(4, 5), ones(3, 5, 4), ones(3, 5, 4), ones(3, 5)),
    ),
    "project_dense_factored": (
        project_factored,
        (ones(3, 4), ones(4, 5), ones(3, 5), ones(3, 5), ones(3, 5)),
    ),
    "project_bilinear_map": (project_matmul, (ones(3, 4), ones(4, 5), ones(3, 5))),
    "project_bilinear_map_factored": (
        project_matmul_factored,
        (ones(3, 4), ones(4, 5), ones(3, 5), ones(3, 5), ones(3, 5)),
    ),
    "project_conv2d": (pk.project_conv2d, (ones(2, 3, 4, 2), ones(2, 2, 2, 3), ones(2, 2, 3, 3))),
    "project_recurrence": (
        pk.project_recurrence,
        (ones(2, 3, 4), ones(2, 3, 5), ones(4, 6), ones(5, 6), ones(2, 3, 6)),
    ),
    "project_sum": (lambda x, y, z, **options: pk.project_sum((x, y), z, **options), (ones(3, 4), ones(4), ones(3, 4))),
    "project_sum_relu": (
        lambda x, y, z, **options: pk.project_sum_relu((x, y), z, **options),
        (ones(3, 4), ones(4), ones(3, 4)),
    ),
    "project_max": (pk.project_max, (ones(3, 4), ones(3))),
    "project_max_pool": (pool, (ones(2, 4, 6, 3), ones(2, 2, 3, 3))),
    "project_quantize": (quantize, (ones(3, 4), ones(3, 4))),
    "project_affine": (pk.project_affine, (ones(3, 4), ones(3, 4))),
    "project_min": (pk.project_min, (ones(3, 4), ones(3))),
    "project_average_pool": (
        lambda x, z, **options: pk.project_average_pool(x, z, window=(1, 2), **options),
        (ones(3, 4), ones(3, 2)),
    ),
    "project_elementwise": (
        lambda x, z, **options: pk.project_elementwise("tanh", x, z, **options),
        (ones(3, 4), ones(3, 4)),
    ),
    "project_normalize": (pk.project_normalize, (ones(3, 4), ones(3, 4))),
    "prox_squared_error": (pk.prox_squared_error, (ones(3, 4), ones(3, 4))),
    "prox_absolute_error": (pk.prox_absolute_error, (ones(3, 4), ones(3, 4))),
    "project_sphere": (pk.project_sphere, (ones(3, 4),)),
    "project_levels": (lambda x, **options: pk.project_levels(x, levels=(0, 1), **options), (ones(3, 4),)),
    "project_sparse": (lambda x, **options: pk.project_sparse(x, count=1, **options), (ones(3, 4),)),
    "project_one_hot": (pk.project_one_hot, (ones(3, 4),)),
    "project_simplex": (pk.project_simplex, (ones(3, 4),)),
    "project_orthonormal": (pk.project_orthonormal, (ones(4, 3),)),
    "project_margin": (pk.project_margin, (ones(3, 4), ones(3, 4))),
    "prox_cross_entropy": (pk.prox_cross_entropy, (ones(3, 4), ones(3, 4) / 4)),
}

WRONG_SHAPES: list[tuple[Call, tuple[Array, ...], list[str]]] = [
    (pk.project_bilinear, (ones(3, 4), ones(3, 5), ones(3)), ["b", "(3, 5)", "(3, 4)"]),
    (pk.project_bilinear, (ones(3, 4), ones(4), ones(3)), ["b", "(4,)", "(3, 4)"]),
    (pk.project_bilinear, (ones(3, 4), ones(3, 4), ones(4)), ["z", "(4,)", "(3,)"]),
    (pk.project_bilinear, (ones(), ones(), ones()), ["a", "()"]),
    (pk.project_dense, (ones(3, 4), ones(5, 6), ones(3, 6)), ["w", "(5, 6)", "(3, 4)"]),
    (partial(pk.project_dense, transposed=True), (ones(3, 4), ones(5, 6), ones(3, 5)), ["w", "(5, 6)", "(5, 4)"]),
    (pk.project_dense, (ones(3, 6), ones(4, 6), ones(3, 4)), ["w", "(4, 6)", "needs (6, M)", "w.T"]),
    (pk.project_dense_copies, (ones(3, 6), ones(4, 6), *[ones(3, 4, 6)] * 2, ones(3, 4)), ["w", "needs (6, M)", "w.T"]),
    (project_factored, (ones(3, 6), ones(4, 6), *[ones(3, 4)] * 3), ["w[0]", "(4, 6)", "needs (6, M)", "w[0].T"]),
    (pk.project_dense, (ones(3, 4), ones(4, 6), ones(3, 5)), ["z", "(3, 5)", "(3, 6)"]),
    (pk.project_dense, (ones(2, 3, 4), ones(4, 6), ones(3, 6)), ["x", "(2, 3, 4)", "2 axes"]),
    *(
        (pk.project_dense_copies, tuple(ones(*shape) for shape in shapes), parts)
        for shapes, parts in [
            (((3, 4), (5, 6), (3, 6, 4), (3, 6, 4), (3, 6)), ["w", "(5, 6)", "(3, 4)"]),
            (((3, 4), (4,), (3, 6, 4), (3, 6, 4), (3, 6)), ["w", "(4,)", "2 axes"]),
            (((3, 4), (4, 6), (3, 4, 6), (3, 6, 4), (3, 6)), ["u", "(3, 4, 6)", "(3, 6, 4)"]),
            (((3, 4), (4, 6), (3, 6, 4), (6, 4), (3, 6)), ["v", "(6, 4)", "(3, 6, 4)"]),
            (((3, 4), (4, 6), (3, 6, 4), (3, 6, 4), (6, 3)), ["z", "(6, 3)", "(3, 6)"]),
        ]
    ),
    (project_factored, (ones(3, 4), ones(5, 6), *[ones(3, 6)] * 3), ["w[0]", "(5, 6)", "(3, 4)", "(4, M)"]),
    (project_factored, (ones(3, 4), ones(4, 6), *[ones(3, 6)] * 2, ones(3, 5)), ["z", "(3, 5)", "(3, 6)"]),
    (project_factored, (ones(3), ones(4, 6), *[ones(3, 6)] * 3), ["x[0]", "(3,)", "2 axes"]),
    (project_factored, (ones(3, 4), ones(4, 6), ones(3, 6), ones(3, 1), ones(3, 6)), ["u[1][0]", "(3, 1)", "(3, 6)"]),
    (project_matmul, (ones(3, 4), ones(4, 6), ones(3, 5)), ["z", "(3, 5)", "(3, 6)", "bilinear(x, w)"]),
    (project_matmul_factored, (ones(3, 4), ones(4, 6), *[ones(3, 6)] * 2, ones(3, 5)), ["u[1][0]", "(3, 6)", "(3, 5)"]),
    *(
        (pk.project_conv2d, tuple(ones(*shape) for shape in shapes), parts)
        for shapes, parts in [
            (((3, 4, 2), (2, 2, 2, 3), (2, 2, 3, 3)), ["x", "(3, 4, 2)", "4 axes"]),
            (((2, 3, 4, 2), (2, 2, 1, 3), (2, 2, 3, 3)), ["w", "(2, 2, 1, 3)", "(2, 3, 4, 2)", "(2, 2, 2, 3)"]),
            (((2, 3, 4, 2), (2, 2, 2, 3), (2, 3, 4, 3)), ["z", "(2, 3, 4, 3)", "(2, 2, 3, 3)", "strides (1, 1)"]),
            (((2, 3, 4, 2), (5, 2, 2, 3), (2, 2, 3, 3)), ["z", "(2, 2, 3, 3)", "(2, 0, 3, 3)"]),
        ]
    ),
    *(
        (pk.project_recurrence, tuple(ones(*shape) for shape in shapes), parts)
        for shapes, parts in [
            (((3, 4), (2, 3, 5), (4, 6), (5, 6), (2, 3, 6)), ["x", "(3, 4)", "3 axes"]),
            (((2, 3, 4), (2, 4, 5), (4, 6), (5, 6), (2, 3, 6)), ["h", "(2, 4, 5)", "(2, 3, 5)"]),
            (((2, 3, 4), (2, 3, 5), (5, 6), (5, 6), (2, 3, 6)), ["w_x", "(5, 6)", "(4, M)"]),
            (((2, 3, 4), (2, 3, 5), (4, 6), (6, 6), (2, 3, 6)), ["w_h", "(6, 6)", "(5, 6)"]),
            (((2, 3, 4), (2, 3, 5), (4, 6), (5, 6), (2, 3, 5)), ["z", "(2, 3, 5)", "(2, 3, 6)"]),
        ]
    ),
    (CALLS["project_sum"][0], (ones(3, 4), ones(5), ones(3, 4)), ["inputs[1]", "(5,)", "(3, 4)"]),
    (CALLS["project_sum"][0], (ones(3, 4), ones(2, 3, 4), ones(3, 4)), ["inputs[1]", "(2, 3, 4)", "(3, 4)"]),
    (CALLS["project_sum_relu"][0], (ones(3, 4), ones(3, 4), ones(3)), ["inputs[0]", "(3, 4)", "(3,)"]),
    (CALLS["project_sum_relu"][0], (ones(3, 4), ones(3, 4), ones(3, 1)), ["inputs[0]", "(3, 4)", "(3, 1)"]),
    (pk.project_max, (ones(3, 4), ones(4)), ["z", "(4,)", "(3, 4)", "(3,)"]),
    (pk.project_max, (ones(3, 4), ones(3, 1)), ["z", "(3, 1)", "(3, 4)", "(3,)"]),
    (pk.project_max, (ones(3, 0), ones(3)), ["x", "(3, 0)"]),
    (pk.project_max, (ones(), ones()), ["axis", "-1", "()"]),
    (pool, (ones(2, 4, 6, 3), ones(2, 2, 2, 3)), ["z", "(2, 2, 2, 3)", "(2, 2, 3, 3)"]),
    (pool, (ones(4, 6, 3), ones(2, 3, 3)), ["x", "(4, 6, 3)", "4 axes"]),
    (pool, (ones(2, 4, 1, 3), ones(2, 2, 0, 3)), ["window", "(2, 4, 1, 3)"]),
    (quantize, (ones(3, 4), ones(3)), ["z", "(3,)", "(3, 4)"]),
    (pk.project_margin, (ones(3, 4), ones(3)), ["labels", "(3,)", "(3, 4)"]),
    (pk.prox_cross_entropy, (ones(3, 4), ones(4)), ["labels", "(4,)", "(3, 4)"]),
    (pk.prox_cross_entropy, (ones(), ones()), ["logits", "()"]),
]


@pytest.mark.parametrize(("call", "arrays", "parts"), WRONG_SHAPES)
@pytest.mark.parametrize("traced", [False, True])
def test_wrong_shapes_name_the_argument_and_both_shapes(
    call: Call, arrays: tuple[Array, ...], parts: list[str], traced: bool
) -> None:
    with pytest.raises(ValueError, match="shape") as error:
        (jax.jit(call) if traced else call)(*arrays)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("kernel", CALLS)
def test_integer_arrays_are_refused(kernel: str) -> None:
    call, arrays = CALLS[kernel]
    for i, array in enumerate(arrays):
        for dtype in (np.int32, bool, np.complex64):
            changed = [*arrays[:i], array.astype(dtype), *arrays[i + 1 :]]
            with pytest.raises(TypeError, match=rf"^{kernel}: .*{np.dtype(dtype).name}.*float"):
                call(*changed)


@pytest.mark.parametrize("value", ["three", None, object(), [[1.0, 2.0], [3.0]], {"a": 1.0}, np.array(["three"])])
def test_what_is_no_array_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=f"project_box: value is a {type(value).__name__}; pass a floating-point array"):
        pk.project_box(value)


@pytest.mark.parametrize("kernel", CALLS)
def test_unknown_implementation_lists_the_choices(kernel: str) -> None:
    call, arrays = CALLS[kernel]
    with pytest.raises(ValueError, match=rf"^{kernel}: unknown implementation 'fast'.*'reference'.*'xla'"):
        call(*arrays, implementation="fast")


@pytest.mark.parametrize("kernel", CALLS)
@pytest.mark.parametrize("implementation", ["triton", "tpu"])
def test_missing_implementation_lists_the_choices(kernel: str, implementation: str) -> None:
    call, arrays = CALLS[kernel]
    with pytest.raises(NotImplementedError, match=rf"^{kernel}: .*'{implementation}'.*'reference'.*'xla'"):
        call(*arrays, implementation=implementation)


@pytest.mark.parametrize("kernel", CALLS)
def test_no_implementation_named_takes_the_best(kernel: str) -> None:
    call, arrays = CALLS[kernel]
    assert str(jax.make_jaxpr(call)(*arrays)) == str(jax.make_jaxpr(partial(call, implementation="xla"))(*arrays))


@pytest.mark.parametrize("kernel", [pk.project_sum, pk.project_sum_relu])
def test_a_sum_of_nothing_is_refused(kernel: Call) -> None:
    with pytest.raises(ValueError, match=rf"^{kernel.__name__}: inputs is empty"):
        kernel((), ones(3))


@pytest.mark.parametrize("kernel", [pk.project_sum, pk.project_sum_relu])
def test_an_array_in_the_place_of_several_is_refused(kernel: Call) -> None:
    with pytest.raises(TypeError, match=rf"^{kernel.__name__}: inputs is an array of shape \(3,\).*tuple"):
        kernel(ones(3), ones(3))


@pytest.mark.parametrize("strength", [0, 0.0, -1.0, float("nan"), "5", None])
def test_strength_must_be_positive(strength: Any) -> None:
    with pytest.raises(ValueError, match=r"^prox_cross_entropy: strength is .*positive"):
        pk.prox_cross_entropy(*CALLS["prox_cross_entropy"][1], strength=strength)


def test_cross_entropy_of_no_classes_is_refused(implementation: str) -> None:
    with pytest.raises(ValueError, match=r"^prox_cross_entropy: logits has shape \(3, 0\)"):
        pk.prox_cross_entropy(ones(3, 0), ones(3, 0), implementation=implementation)


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, -2), 0.5, "rows"])
def test_axis_must_be_of_x(axis: Any) -> None:
    with pytest.raises(ValueError, match=r"^project_max: axis is .*shape \(3, 4\)"):
        pk.project_max(ones(3, 4), ones(3), axis=axis)


@pytest.mark.parametrize("name", ["window", "strides"])
@pytest.mark.parametrize("value", [0, 2.0, True, (2,), (2, 0), (2, -1), (2, 2.0), (2, 2, 2), "22"])
def test_windows_and_strides_are_positive_pairs(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^project_max_pool: {name} is .*two positive integers"):
        pool(*CALLS["project_max_pool"][1], **{name: value})


@pytest.mark.parametrize("padding", [1, "FULL", (1, 1), ((0, 0), (0, -1)), ((0, 0), (0, 0.5)), ((0, 0),) * 4])
def test_padding_is_a_name_or_pairs(padding: Any) -> None:
    with pytest.raises(ValueError, match=r"^project_max_pool: padding is .*'VALID', 'SAME'"):
        pool(*CALLS["project_max_pool"][1], padding=padding)


@pytest.mark.parametrize("padding", [((2, 0), (0, 0)), ((0, 0), (0, 3)), ((0, 3), (2, 2))])
def test_windows_of_padding_are_refused(padding: Any) -> None:
    with pytest.raises(ValueError, match=r"^project_max_pool: some windows of \(2, 2\).* nothing but the padding"):
        pool(*CALLS["project_max_pool"][1], padding=padding)


@pytest.mark.parametrize("levels", [1, 0, -2, 2.0, "2", None])
def test_levels_must_be_two_or_more(levels: Any) -> None:
    with pytest.raises(ValueError, match=r"^project_quantize: levels is .*integer of at least 2"):
        quantize(*CALLS["project_quantize"][1], levels=levels)


@pytest.mark.parametrize("limits", [(1.0, -1.0), (float("nan"), 1.0), (np.float32([0, 2, 0]), 1)])
def test_a_box_has_points(limits: Any) -> None:
    with pytest.raises(ValueError, match=r"project_box: low is .* and high is .*; pass a low that is at most high"):
        pk.project_box(ones(2, 3), *limits)


def test_a_function_of_all_elements_is_refused() -> None:
    with pytest.raises(ValueError, match=r"f\(x\) has shape \(\) for x of shape \(2, 3\); pass a function of each"):
        pk.project_elementwise(lambda x: x.sum(), ones(2, 3), ones(2, 3))


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_scale_must_be_positive(scale: Any) -> None:
    with pytest.raises(ValueError, match=r"^project_quantize: scale is .*positive"):
        quantize(*CALLS["project_quantize"][1], scale=scale)


@pytest.mark.parametrize("kernel", ["project_dense_factored", "project_bilinear_map_factored"])
@pytest.mark.parametrize("name", ["x", "w"])
def test_an_array_for_a_list_is_refused_without_its_content(kernel: str, name: str) -> None:
    bilinear = (jnp.matmul,) if "map" in kernel else ()
    operands = {"x": (ones(3, 4),), "w": (ones(4, 5),)}
    operands[name] = operands[name][0] + 0.123
    coefficients = ((1.0,), (1.0,))
    with pytest.raises(TypeError, match=rf"^{kernel}: {name} is an array of shape.*list or tuple") as error:
        getattr(pk, kernel)(*bilinear, operands["x"], operands["w"], coefficients, coefficients, ones(3, 5))
    assert "1.123" not in str(error.value)


NO_SELECTIONS: dict[str, Call] = {
    "twice": lambda x, w: (2 * x) @ w,
    "negative": lambda x, w: -(x @ w),
    "half": lambda x, w: 0.5 * (x @ w),
    "added to itself": lambda x, w: x @ w + x @ w,
}


@pytest.mark.parametrize("name", NO_SELECTIONS)
@pytest.mark.parametrize("traced", [False, True])
def test_a_map_that_does_not_select_is_refused(name: str, traced: bool, implementation: str) -> None:
    call = partial(pk.project_bilinear_map, NO_SELECTIONS[name], implementation=implementation)
    with pytest.raises(ValueError, match=r"^project_bilinear_map: bilinear multiplies .*selected entries"):
        (jax.jit(call) if traced else call)(ones(3, 4), ones(4, 5), ones(3, 5))


@pytest.mark.parametrize("name", ["project_max_pool", "project_conv2d"])
def test_one_number_stands_for_rows_and_columns(name: str, rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(1, 4, 4, 1)), rng.normal(size=(2, 2, 1, 1))
    z = rng.normal(size=(1, 2, 2, 1))
    one, both = ({"strides": 2}, {"strides": (2, 2)})
    if name == "project_conv2d":
        results = [pk.project_conv2d(x, w, z, **settings) for settings in (one, both)]
    else:
        results = [pk.project_max_pool(x, z, window=s["strides"], **s) for s in (one, both)]
    jax.tree.map(np.testing.assert_array_equal, *results)


EMPTY: list[tuple[str, tuple[Array, ...]]] = [
    ("project_bilinear", (ones(0, 4), ones(0, 4), ones(0))),
    ("project_dense", (ones(0, 4), ones(4, 5), ones(0, 5))),
    ("project_dense", (ones(3, 4), ones(4, 0), ones(3, 0))),
    ("project_bilinear_map", (ones(0, 4), ones(4, 5), ones(0, 5))),
    ("project_conv2d", (ones(0, 3, 4, 2), ones(2, 2, 2, 3), ones(0, 2, 3, 3))),
    ("project_conv2d", (ones(2, 3, 4, 2), ones(5, 2, 2, 3), ones(2, 0, 3, 3))),
    ("project_recurrence", (ones(2, 0, 4), ones(2, 0, 5), ones(4, 6), ones(5, 6), ones(2, 0, 6))),
    ("project_sum", (ones(0, 4), ones(4), ones(0, 4))),
    ("project_sum_relu", (ones(0, 4), ones(4), ones(0, 4))),
    ("project_max", (ones(0, 4), ones(0))),
    ("project_max_pool", (ones(0, 4, 6, 3), ones(0, 2, 3, 3))),
    ("project_max_pool", (ones(2, 4, 6, 0), ones(2, 2, 3, 0))),
    ("project_quantize", (ones(0, 4), ones(0, 4))),
    ("project_affine", (ones(0, 4), ones(0, 4))),
    ("project_average_pool", (ones(0, 4), ones(0, 2))),
    ("project_elementwise", (ones(0, 4), ones(0, 4))),
    ("project_normalize", (ones(0, 4), ones(0, 4))),
    ("prox_squared_error", (ones(0, 4), ones(0, 4))),
    ("project_margin", (ones(0, 4), ones(0, 4))),
    ("prox_cross_entropy", (ones(0, 4), ones(0, 4))),
]


@pytest.mark.parametrize(("kernel", "arrays"), EMPTY)
def test_empty_inputs_go_through_and_what_is_not_empty_stays(
    kernel: str, arrays: tuple[Array, ...], implementation: str
) -> None:
    results = jax.tree.leaves(CALLS[kernel][0](*arrays, implementation=implementation))
    for result, array in zip(results, arrays, strict=len(results) == len(arrays)):
        np.testing.assert_array_equal(result, array)


def no_entries() -> dict[str, Call]:
    """Calls that return the new ``z`` of dot products of no entries."""
    empty_maps = {"project_bilinear_map": project_matmul, "project_dense": pk.project_dense}
    return {
        "project_bilinear": lambda z, **o: pk.project_bilinear(ones(3, 5, 0), ones(3, 5, 0), z, **o)[2],
        **{
            name: lambda z, call=call, **o: call(ones(3, 0), ones(0, 5), z, **o)[2]  # type: ignore[misc]
            for name, call in empty_maps.items()
        },
        "project_dense_copies": lambda z, **o: (
            z + pk.project_dense_copies(ones(3, 0), ones(0, 5), *[ones(3, 5, 0)] * 2, z, **o).z_change
        ),
        "project_dense_factored": lambda z, **o: (
            z + project_factored(ones(3, 0), ones(0, 5), ones(3, 5), ones(3, 5), z, **o).z_change
        ),
        "project_bilinear_map_factored": lambda z, **o: (
            z + project_matmul_factored(ones(3, 0), ones(0, 5), ones(3, 5), ones(3, 5), z, **o).z_change
        ),
        "project_recurrence": lambda z, **o: pk.project_recurrence(
            ones(3, 1, 0), ones(3, 1, 0), ones(0, 5), ones(0, 5), z[:, None], **o
        )[4][:, 0],
    }


@pytest.mark.parametrize("kernel", no_entries())
def test_dot_products_of_no_entries_have_one_point(kernel: str, implementation: str) -> None:
    """``z = 0`` is the only feasible point, however far it is."""
    z = np.array([[3, -0.5, 0.1, -7, 1e30]] * 3, np.float32)
    np.testing.assert_array_equal(no_entries()[kernel](z, implementation=implementation), np.zeros_like(z))


def test_windows_of_padding_alone_have_one_point(implementation: str) -> None:
    z = np.full((1, 3, 3, 1), 3, np.float32)
    padding = ((1, 1), (1, 1))
    new = pk.project_conv2d(ones(1, 1, 1, 1), ones(1, 1, 1, 1), z, padding=padding, implementation=implementation)
    assert (np.delete(np.asarray(new[2]).ravel(), 4) == 0).all()
