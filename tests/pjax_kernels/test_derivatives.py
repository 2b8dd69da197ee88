"""Derivatives of every kernel: against finite differences of the reference, in both modes, twice, and at the poles."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_kernels as pk

from .cases import Case, attention, cases, cross_entropy, weighted_cross_entropy

STEP = 1e-5

CASES = cases(np.random.default_rng(20260618))


# The formula of a kernel's derivative serves all of its implementations: "reference" has it for every third.
of_all_kernels = pytest.mark.parametrize(
    ("name", "implementation"),
    [*((name, "xla") for name in CASES), *((name, "reference") for name in list(CASES)[::3])],
)


def random_like(rng: np.random.Generator, tree: Any) -> Any:
    """Arrays of NumPy, whose arithmetic is not compiled for each shape."""
    return jax.tree.map(lambda leaf: rng.normal(size=jnp.shape(leaf)), tree)


def moved(arrays: Any, direction: Any, by: float) -> Any:
    return jax.tree.map(lambda array, d: array + by * d, arrays, direction)


def leaves(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def difference(call: Any, arrays: Any, direction: Any) -> np.ndarray:
    """The central difference along a direction, of fourth order."""
    at = {k: leaves(call(*moved(arrays, direction, k * STEP))) for k in (-2, -1, 1, 2)}
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * STEP)


@cache
def compiled(kernel: Any, implementation: str) -> Any:
    """One function for all tests, so that what one compiles serves the next."""
    return jax.jit(partial(kernel, implementation=implementation))


@partial(jax.jit, static_argnums=0)
def forward_mode(call: Any, arrays: Any, direction: Any) -> Any:
    return jax.jvp(call, arrays, direction)[1]


@partial(jax.jit, static_argnums=0)
def reverse_mode(call: Any, arrays: Any, weights: Any) -> Any:
    return jax.vjp(call, *arrays)[1](weights)


def assert_near(left: np.ndarray, right: np.ndarray, tolerance: float) -> None:
    assert np.linalg.norm(left - right) <= tolerance * np.linalg.norm(right)


def allowed(case: Case, direction: Any) -> Any:
    """Labels stay labels: those of 0 are on a border, where the other branch begins; probabilities add up to 1."""
    if case.kernel is pk.project_margin:
        return direction[0], np.zeros_like(direction[1])
    if case.kernel in (cross_entropy, weighted_cross_entropy):
        return direction[0], direction[1] - np.mean(direction[1], axis=-1, keepdims=True), direction[2]
    return direction


@of_all_kernels
def test_forward_mode_is_the_limit_of_differences(name: str, implementation: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    call, reference = compiled(case.kernel, implementation), compiled(case.kernel, "reference")
    arrays = jax.tree.map(np.asarray, case.arrays)
    for _ in range(3):
        direction = allowed(case, random_like(rng, case.arrays))
        assert_near(leaves(forward_mode(call, arrays, direction)), difference(reference, arrays, direction), 1e-7)


@of_all_kernels
def test_each_result_by_each_argument(name: str, implementation: str, rng: np.random.Generator) -> None:
    """As above, but no large part hides a small one."""
    case = CASES[name]
    call = compiled(case.kernel, implementation)
    arrays, structure = jax.tree.flatten(jax.tree.map(np.asarray, case.arrays))
    for place, array in enumerate(arrays):
        direction = [np.zeros_like(other) for other in arrays]
        direction[place] = rng.normal(size=array.shape)
        along = allowed(case, structure.unflatten(direction))
        at = {k: jax.device_get(call(*moved(structure.unflatten(arrays), along, k * STEP))) for k in (-2, -1, 1, 2)}
        expected = jax.tree.map(lambda a, b, c, d: (8 * (c - b) - (d - a)) / (12 * STEP), *at.values())
        derivative = forward_mode(call, structure.unflatten(arrays), along)
        for got, right in zip(jax.tree.leaves(derivative), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, right, rtol=0, atol=1e-6 * np.abs(right).max(initial=1e-2))


@of_all_kernels
def test_reverse_mode_is_the_transpose(name: str, implementation: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    call = compiled(case.kernel, implementation)
    direction = random_like(rng, case.arrays)
    weights = random_like(rng, jax.eval_shape(call, *case.arrays))
    pulled = reverse_mode(call, case.arrays, weights)
    pushed = forward_mode(call, case.arrays, direction)  # which the tests above have compiled
    left, right = leaves(pulled) @ leaves(direction), leaves(weights) @ leaves(pushed)
    np.testing.assert_allclose(left, right, rtol=1e-10)


ON_DEVICES = [
    (device, name)
    for device, names in {
        "triton": [
            *("bilinear", "dense", "dense_copies", "dense_factored", "max", "max_pool", "recurrence"),
            *("threshold", "threshold_dense"),
        ],
        "tpu": ["bilinear", "dense", "max_pool", "recurrence", "sum_relu"],
    }.items()
    for name in names
]


@pytest.mark.parametrize(("device", "name"), ON_DEVICES)
def test_kernels_of_devices_have_the_same_derivatives(
    device: str, name: str, rng: np.random.Generator, request: pytest.FixtureRequest
) -> None:
    """In both modes, interpreted, in float32."""
    request.getfixturevalue(f"{device}_interpreted")
    case = CASES[f"project_{name}"]
    if name == "max":  # whose kernel takes the last axis
        case = Case(pk.project_max, (case.arrays[0][..., 0], case.arrays[1][:3]))
    weights = random_like(rng, jax.eval_shape(case.kernel, *case.arrays))
    arrays, direction, weights = jax.tree.map(jnp.float32, (case.arrays, random_like(rng, case.arrays), weights))

    def derivatives(implementation: str) -> Any:
        call = partial(case.kernel, implementation=implementation)
        return forward_mode(call, arrays, direction), reverse_mode(call, arrays, weights)

    for found, expected in zip(*map(jax.tree.leaves, map(derivatives, (device, "xla"))), strict=True):
        assert_near(np.float64(found), np.float64(expected), 1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "copies" not in name and "factored" not in name])
def test_increments_and_values_have_the_same_derivative(name: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    direction = random_like(rng, case.arrays)
    of_values = compiled(case.kernel, "xla")  # as in the tests above
    calls = of_values, jax.jit(partial(case.kernel, increments=True))
    along = (jax.tree.leaves(forward_mode(call, case.arrays, direction)) for call in calls)
    for got, change, old in zip(*along, jax.tree.leaves(direction), strict=False):
        np.testing.assert_allclose(got, old + change, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "project_bilinear",
        "project_dense",
        "project_elementwise, function",
        "project_elementwise, log",
        "project_normalize",
        "prox_cross_entropy",
    ],
)
def test_second_derivatives(name: str, rng: np.random.Generator) -> None:
    """The known root moves too."""
    case = CASES[name]
    arrays = jax.tree.map(jnp.asarray, case.arrays)
    direction = allowed(case, random_like(rng, arrays))
    weights = random_like(rng, case.kernel(*arrays))

    @jax.jit
    def gradient(*arrays: Any) -> Any:
        return jax.grad(lambda arrays: jnp.vdot(*map(jnp.asarray, map(flat, (weights, case.kernel(*arrays))))))(arrays)

    exact = jax.jvp(gradient, arrays, direction)[1]
    assert_near(leaves(exact), difference(gradient, arrays, direction), 1e-6)


def flat(tree: Any) -> Any:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("z", [0.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 3.0, 50.0])
def test_the_published_input(z: float, implementation: str) -> None:
    """NaN, or 0 for the reference, before derivatives were those of the implicit function."""
    a, (new_z, gradients) = np.array([[1.0, 2]]), of_the_published_input(implementation)
    expected = [difference(lambda a: new_z(a, z), (a,), (row[None],))[0] for row in np.eye(2)]
    for gradient in gradients(a, z):
        np.testing.assert_allclose(np.ravel(gradient), expected, rtol=1e-7)
        if z == 0.5:
            np.testing.assert_allclose(np.ravel(gradient), [0.173425, 0.010931], atol=1e-6)


@cache
def of_the_published_input(implementation: str) -> Any:
    """The new z, and its derivative in each mode."""

    def new_z(a: Any, z: Any) -> Any:
        return pk.project_bilinear(a, jnp.array([[0.5, -1]]), jnp.array([z]), implementation=implementation)[2].sum()

    modes = (jax.grad, jax.jacrev, jax.jacfwd)
    return jax.jit(new_z), jax.jit(lambda a, z: [mode(new_z)(a, z) for mode in modes])


def test_the_published_cross_entropy(implementation: str) -> None:
    def first(logits: Any) -> Any:
        return pk.prox_cross_entropy(logits, jnp.array([[0.0, 1, 0]]), implementation=implementation)[0, 0]

    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(mode(first)(jnp.array([[1.0, 0, -1]])), [[0.66476, 0.26197, 0.07328]], atol=1e-5)


@pytest.mark.parametrize("distance", [1e-3, 1e-9, 1e-30])
@pytest.mark.parametrize("sign", [1, -1])
def test_near_the_poles(distance: float, sign: int, rng: np.random.Generator, implementation: str) -> None:
    """``a`` nearly ``-b`` or ``b`` and ``z`` far off: the root is 1 or -1 but for digits that it does not have."""
    arrays = (*rng.normal(size=(2, 1, 4)), np.array([sign * 40.0]))
    direction, place = random_like(rng, arrays), (np.float64(distance), np.float64(sign))
    call = near_a_pole(implementation)
    derivative = forward_mode(call, (*arrays, *place), (*direction, np.float64(0), np.float64(0)))
    assert_near(leaves(derivative), difference(lambda *arrays: call(*arrays, *place), arrays, direction), 1e-6)


@cache
def near_a_pole(implementation: str) -> Any:
    def call(shift: Any, rest: Any, z: Any, distance: Any, sign: Any) -> Any:
        a, b = jnp.concatenate([distance * shift, rest], -1), jnp.concatenate([distance * shift, -rest], -1)
        return pk.project_bilinear(sign * a, b, z, implementation=implementation)

    return jax.jit(call)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_set_valued_rows_have_a_finite_derivative_that_stays_feasible(dtype: str, implementation: str) -> None:
    """Along what keeps them so: zero inputs and any ``z``, by the selection that is documented."""
    zero, z = jnp.zeros((2, 4), dtype), jnp.array([3.0, -7.0], dtype)
    call = partial(pk.project_bilinear, implementation=implementation)
    (a, b, new_z), (da, db, dz) = jax.jit(partial(jax.jvp, call))((zero, zero, z), (zero, zero, jnp.ones_like(z)))
    tolerance = 50 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(dz.astype(float), 1, rtol=tolerance)
    np.testing.assert_allclose(jnp.sum(a * db + b * da, -1).astype(float), dz.astype(float), rtol=tolerance)
    gradients = jax.jit(jax.grad(lambda *arrays: sum(jnp.sum(new) for new in call(*arrays)).astype(float), (0, 1, 2)))
    assert all(np.isfinite(leaf.astype(float)).all() for leaf in gradients(zero, zero, z))


def test_batches_of_set_valued_rows(implementation: str) -> None:
    """In consensus form: a batch of which one row and one column are zero."""
    x, w, z = jnp.ones((3, 4)).at[1].set(0), jnp.ones((4, 2)).at[:, 0].set(0), jnp.full((3, 2), 5.0)
    step = 1e-6
    call = jax.jit(partial(pk.project_dense, implementation=implementation))
    derivative = jax.jvp(call, (x, w, z), (0 * x, 0 * w, jnp.ones_like(z)))[1]
    expected = (leaves(call(x, w, z + step)) - leaves(call(x, w, z - step))) / (2 * step)
    assert_near(leaves(derivative), expected, 1e-6)
    gradient = jax.grad(lambda *arrays: sum(jnp.sum(new) for new in call(*arrays)), (0, 1, 2))(x, w, z)
    assert np.isfinite(leaves(gradient)).all()


def test_a_unique_maximum_that_z_touches_is_smooth(implementation: str) -> None:
    x, z = jnp.array([[1.0, 3.0, 2.0]]), jnp.array([3.0])
    call = partial(pk.project_max, implementation=implementation)
    new_x, new_z = jax.jvp(call, (x, z), (jnp.array([[5.0, 1.0, 7.0]]), jnp.array([2.0])))[1]
    np.testing.assert_allclose(new_x, [[5.0, 1.5, 7.0]])
    np.testing.assert_allclose(new_z, [1.5])


def test_captured_arrays_of_a_map(rng: np.random.Generator) -> None:
    """What a bilinear map has captured is no argument of the kernel: its derivative is refused, not 0."""
    q, k = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=(2, 4)))

    def captured(ones: Any) -> Any:
        return pk.project_bilinear_map(lambda q, k: attention(q, k) * ones, q, k, attention(q, k) + 1)[2].sum()

    with pytest.raises(Exception, match=r".*"):
        jax.grad(captured)(jnp.ones((3, 2)))


def rapid(x: Any) -> Any:
    """Of waves so short that hardly a step down is short enough."""
    return jnp.sin(1e13 * x**2)


@pytest.mark.parametrize("increments", [False, True])
def test_where_no_nearer_point_is_found_the_one_above_x_moves_with_x(
    increments: bool, rng: np.random.Generator
) -> None:
    x, z, dx, dz = (jnp.asarray(3 * rng.normal(size=20_000)) for _ in range(4))
    stays = pk.project_elementwise(rapid, x, z, increments=True)[0] == 0
    assert 2 < jnp.sum(stays) < 200
    call = partial(pk.project_elementwise, rapid, increments=increments)
    moved_x, moved_z = forward_mode(call, (x, z), (dx, dz))
    expected = forward_mode(rapid, (x,), (dx,)) - (dz if increments else 0)
    np.testing.assert_allclose(moved_x[stays], jnp.where(increments, 0, dx)[stays], atol=1e-12)
    np.testing.assert_allclose(moved_z[stays], expected[stays], rtol=1e-12)
