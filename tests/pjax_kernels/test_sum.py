"""The projections onto a sum and a rectified sum: against constraint geometry, by optimality and by symmetries."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

from ..pairs import pairwise
from . import oracles
from .code_generation import AS_FOR_USERS

Array = np.ndarray
Generator = np.random.Generator
Point = tuple[list[Array], Array]

STATIC = ("increments", "implementation")
PROJECTIONS: dict[str, Callable[..., tuple[tuple[jax.Array, ...], jax.Array]]] = {
    "sum": jax.jit(pk.project_sum, static_argnames=STATIC, compiler_options=AS_FOR_USERS),
    "sum_relu": jax.jit(pk.project_sum_relu, static_argnames=STATIC, compiler_options=AS_FOR_USERS),
}
ORACLES = {"sum": oracles.sum_changes, "sum_relu": oracles.sum_relu_changes}
FORWARD: dict[str, Callable[[Array], Array]] = {"sum": lambda total: total, "sum_relu": lambda s: np.maximum(s, 0)}
OPERATIONS = list(PROJECTIONS)

ULPS = 4
"""Rounding errors allowed, relative to the sum of the terms' sizes."""

COUNTS = [1, 2, 3, 4]
ROWS = 400
DTYPES = [jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64")]
IMPLEMENTED = [(operation, implementation) for operation in OPERATIONS for implementation in ("reference", "xla")]
"""Each with every number of inputs and every dtype, but not with all of both."""
COMPILED = [(*one, count, dtype) for one, count, dtype in pairwise(IMPLEMENTED, COUNTS, DTYPES)]
of_every_pair = pytest.mark.parametrize(("operation", "implementation", "count", "dtype"), COMPILED)
SHAPES = {
    "scalars": ([(), ()], ()),
    "size 1": ([(1,), (1, 1)], (3, 1)),
    "bias": ([(7, 5), (5,)], (7, 5)),
    "bias over space": ([(2, 3, 4, 5), (5,)], (2, 3, 4, 5)),
    "inner axis": ([(3, 1, 5), (3, 4, 5)], (3, 4, 5)),
    "scalar bias": ([(6, 2), ()], (6, 2)),
    "all broadcast": ([(5, 1), (1, 4), (4,), ()], (5, 4)),
    "bias alone": ([(4,)], (6, 4)),
}


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest) -> str:
    return request.param


def compute_eps(dtype: DTypeLike) -> float:
    return float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)


def as_float64(inputs: Sequence[jax.typing.ArrayLike], z: jax.typing.ArrayLike) -> Point:
    *inputs, z = (np.asarray(array).astype(np.float64) for array in (*inputs, z))
    return inputs, z


def points(rng: Generator, count: int, dtype: DTypeLike, scale: float = 1.0, rows: int = ROWS) -> Point:
    """Elements of every sign; every fourth is all of one size, so that ties of the branches are near."""
    arrays = scale * rng.normal(size=(count + 1, rows))
    arrays[:, ::4] = scale * np.sign(arrays[:, ::4]) * (1 + 0.1 * rng.normal(size=arrays[:, ::4].shape))
    *inputs, z = arrays.astype(dtype)
    return inputs, z


def changes_of(operation: str, point: Point, implementation: str) -> Point:
    return as_float64(*PROJECTIONS[operation](*point, increments=True, implementation=implementation))


def squared_distance(inputs: Sequence[Array], z: Array) -> Array:
    return np.sum(np.stack([*inputs, z]) ** 2, axis=0)


def terms(inputs: Sequence[Array], z: Array) -> Array:
    """What the rounding of the sum is relative to."""
    return np.sum(abs(np.stack([*inputs, z])), axis=0)


def moved(point: Point, changes: Point) -> Point:
    inputs, z = as_float64(*point)
    return [x + change for x, change in zip(inputs, changes[0], strict=True)], z + changes[1]


# Against the oracles.


@pytest.mark.parametrize("scale", [1.0, 100.0])
@of_every_pair
def test_changes_agree_with_oracle(
    operation: str, count: int, scale: float, implementation: str, dtype: DTypeLike, rng: Generator
) -> None:
    point = points(rng, count, dtype, scale)
    changes, expected = changes_of(operation, point, implementation), ORACLES[operation](*as_float64(*point))
    error = np.sqrt(squared_distance(*differences(changes, expected)))
    bound = ULPS * compute_eps(dtype) * terms(*as_float64(*point))
    # Where two branches are equally near to within rounding, either is right.
    excess = squared_distance(*changes) - squared_distance(*expected)
    tie = abs(excess) <= bound * np.sqrt(squared_distance(*expected))
    assert ((error <= bound) | tie).all()
    assert (error <= bound).mean() > 0.99


def differences(left: Point, right: Point) -> Point:
    return [x - y for x, y in zip(left[0], right[0], strict=True)], left[1] - right[1]


@pytest.mark.parametrize("shapes", SHAPES)
def test_broadcast_inputs_take_the_mean_of_their_copies(
    operation: str, shapes: str, implementation: str, rng: Generator
) -> None:
    input_shapes, shape = SHAPES[shapes]
    inputs, z = [rng.normal(size=s).astype(np.float32) for s in input_shapes], rng.normal(size=shape)
    point = inputs, z.astype(np.float32)
    kernel = {"sum": pk.project_sum, "sum_relu": pk.project_sum_relu}[operation]
    changes, z_change = jax.jit(partial(kernel, increments=True, implementation=implementation))(*point)
    wide_inputs, wide_z = as_float64(*point)
    copies = [np.broadcast_to(x, shape) for x in wide_inputs]
    copy_changes, expected_z = ORACLES[operation](copies, wide_z)
    np.testing.assert_allclose(z_change, expected_z, rtol=0, atol=1e-6)
    for x, change, of_copies in zip(inputs, changes, copy_changes, strict=True):
        assert change.shape == x.shape
        np.testing.assert_allclose(change, oracles.mean_over_copies(x, of_copies), rtol=0, atol=1e-6)


def test_one_input_of_a_sum_is_the_identity(implementation: str, dtype: DTypeLike, rng: Generator) -> None:
    (x,), z = points(rng, 1, dtype)
    (new_x,), new_z = PROJECTIONS["sum"]((x,), z, implementation=implementation)
    mean = (x.astype(np.float64) + z.astype(np.float64)) / 2
    limits = jnp.finfo(dtype)
    for result in (new_x, new_z):
        assert result.dtype == dtype
        allowed = float(limits.eps) * (abs(x).astype(np.float64) + abs(z).astype(np.float64))
        assert (abs(np.asarray(result).astype(np.float64) - mean) <= allowed).all()


@pytest.mark.parametrize("count", COUNTS)
def test_increments_far_below_the_rounding_of_the_values(
    operation: str, count: int, implementation: str, rng: Generator
) -> None:
    """A residual of one ulp of ``z``: no sum rounds here, so the change must be exact to rounding."""
    inputs = list(rng.integers(1, 100, (count, ROWS)).astype(np.float32))
    z = (sum(inputs) * (1 + rng.choice([-1, 1], ROWS) * 2.0**-22)).astype(np.float32)
    changes = changes_of(operation, (inputs, z), implementation)
    expected = ORACLES[operation](*as_float64(inputs, z))
    error = np.sqrt(squared_distance(*differences(changes, expected)) / squared_distance(*expected))
    assert error.max() < ULPS * compute_eps(np.float32)


# Optimality.


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_feasible_point_is_nearer(
    operation: str, count: int, implementation: str, dtype: DTypeLike, rng: Generator
) -> None:
    point = points(rng, count, dtype)
    inputs, z = as_float64(*point)
    changes = changes_of(operation, point, implementation)
    near, _ = moved(point, changes)
    distance = squared_distance(*changes)
    allowed = distance - ULPS * compute_eps(dtype) * terms(inputs, z) * np.sqrt(distance)
    for scale in (1e-4, 1e-2, 0.1, 1, 10):
        for centre in (near, inputs):
            for _ in range(50):
                sample = [x + scale * rng.normal(size=z.shape) for x in centre]
                feasible = sample, FORWARD[operation](sum(sample))
                assert (squared_distance(*differences(feasible, (inputs, z))) >= allowed).all()


# Properties.


@of_every_pair
def test_result_is_feasible_and_stays(
    operation: str, count: int, implementation: str, dtype: DTypeLike, rng: Generator
) -> None:
    point = points(rng, count, dtype)
    new_inputs, new_z = moved(point, changes_of(operation, point, implementation))
    scale = terms(*as_float64(*point)) + terms(new_inputs, new_z)
    assert (abs(new_z - FORWARD[operation](sum(new_inputs))) <= ULPS * compute_eps(dtype) * scale).all()

    rounded = PROJECTIONS[operation](*point, implementation=implementation)
    assert all(array.dtype == dtype for array in (*rounded[0], rounded[1]))
    again = changes_of(operation, rounded, implementation)
    assert (np.sqrt(squared_distance(*again)) <= ULPS * float(jnp.finfo(dtype).eps) * scale).all()


@of_every_pair
def test_feasible_points_stay(
    operation: str, count: int, implementation: str, dtype: DTypeLike, rng: Generator
) -> None:
    """Small integers, whose sums do not round."""
    inputs = rng.integers(-20, 21, (count, ROWS))
    z = FORWARD[operation](inputs.sum(0)).astype(dtype)
    new_inputs, new_z = PROJECTIONS[operation](list(inputs.astype(dtype)), z, implementation=implementation)
    np.testing.assert_array_equal(np.asarray(new_z), z)
    np.testing.assert_array_equal(np.asarray(new_inputs).astype(int), inputs)


def test_equivariant_under_permutations(operation: str, implementation: str, rng: Generator) -> None:
    inputs, z = points(rng, 3, np.float64)
    changes, z_change = changes_of(operation, (inputs, z), implementation)
    for order in permutations(range(3)):
        permuted, permuted_z = changes_of(operation, ([inputs[i] for i in order], z), implementation)
        np.testing.assert_allclose(permuted, [changes[i] for i in order], rtol=0, atol=1e-14)
        np.testing.assert_allclose(permuted_z, z_change, rtol=0, atol=1e-14)
    elements = rng.permutation(len(z))
    shuffled, shuffled_z = changes_of(operation, ([x[elements] for x in inputs], z[elements]), implementation)
    np.testing.assert_array_equal(shuffled, [change[elements] for change in changes])
    np.testing.assert_array_equal(shuffled_z, z_change[elements])


def test_scales_with_its_inputs(operation: str, implementation: str, rng: Generator) -> None:
    """Both sets are cones.  The reference compares squared distances, which halves the exponents that it holds."""
    inputs, z = points(rng, 3, np.float32)
    changes, z_change = changes_of(operation, (inputs, z), implementation)
    for exponent in (-40, -1, 40) if implementation == "reference" else (-100, -1, 100):
        factor = np.float32(2.0**exponent)
        scaled, scaled_z = changes_of(operation, ([factor * x for x in inputs], factor * z), implementation)
        np.testing.assert_allclose(scaled, np.multiply(factor, changes), rtol=1e-6)
        np.testing.assert_allclose(scaled_z, factor * z_change, rtol=1e-6)


def test_a_sum_is_equivariant_under_negation(implementation: str, rng: Generator) -> None:
    inputs, z = points(rng, 3, np.float64)
    changes, z_change = changes_of("sum", (inputs, z), implementation)
    negated, negated_z = changes_of("sum", ([-x for x in inputs], -z), implementation)
    np.testing.assert_array_equal(negated, np.negative(changes))
    np.testing.assert_array_equal(negated_z, -z_change)


@pytest.mark.parametrize("count", COUNTS)
def test_equally_near_branches_of_a_rectified_sum_go_to_the_inactive_one(count: int, implementation: str) -> None:
    """The documented rule, where the tie is exact: at 0 with ``z < 0``, at ``z = -s`` for one positive input."""
    z = -np.arange(1, 9, dtype=np.float32)
    zeros = [np.zeros_like(z)] * count
    _, new_z = PROJECTIONS["sum_relu"](zeros, z, implementation=implementation)
    np.testing.assert_array_equal(new_z, 0)
    (new_x,), new_z = PROJECTIONS["sum_relu"]([-z], z, implementation=implementation)
    np.testing.assert_array_equal(new_x, 0)
    np.testing.assert_array_equal(new_z, 0)
