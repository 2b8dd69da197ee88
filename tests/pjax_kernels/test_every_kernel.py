"""Every kernel, in every implementation and precision, on extreme inputs; a few drawn at random against the oracle.

Feasible, relative to the row's own scale, wherever the documented limits are kept (``largest`` in ``constraints.py``);
what is not finite stays in its row.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

import pjax_kernels as pk
from pjax_kernels.kernel import declared

from .constraints import CONSTRAINTS, Array, Arrays, Constraint, RowByRow, Shapes, norm, size

KERNELS = declared()
ON_DEVICES = ("triton", "tpu")
ALLOWED = {"float32": 1e-5, "bfloat16": 1e-5, "float64": 1e-11}
"""Of what is missed; new values in bfloat16 to its own rounding."""

SIZES = (1e-45, 1e-38, 1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e9, 1e18, 1e30, 1e38)
PAIRS_OF_SIZES = ((1e-12, 1e9), (1e-30, 1e18), (1.0, 1e5), (1.0, 1e20), (1.0, 1e38))
FROM_ROUNDED_SUMS = (("project_conv2d", "xla"), ("project_dense", "tpu"))
"""Rows with operands that are equal or opposite, and an estimate beyond, are documented to miss their set by much."""

NOT_FINITE = (math.nan, math.inf, -math.inf)

IMPLEMENTED = [
    (name, implementation) for name in CONSTRAINTS for implementation in KERNELS[name.split(",")[0]].implementations
]

CASES = [
    (name, implementation, dtype)
    for name, implementation in IMPLEMENTED
    for dtype in ALLOWED
    if (implementation, dtype) != ("tpu", "float64")  # which TPUs do not have
]


def test_there_is_a_constraint_for_every_kernel() -> None:
    assert {name.split(",")[0] for name in CONSTRAINTS} == set(KERNELS)


@pytest.fixture
def interpreted(implementation: str, request: pytest.FixtureRequest) -> None:
    """Implementations for devices run, interpreted."""
    if implementation in ON_DEVICES:
        request.getfixturevalue(f"{implementation}_interpreted")


def extremes(shapes: Shapes, rng: np.random.Generator) -> dict[str, list[Array]]:
    """Rows by what is extreme about them, one of each array."""
    last = len(shapes) - 1

    def within(*sizes: float) -> list[Array]:
        return [size * rng.uniform(-1, 1, shape) for size, shape in zip(sizes, shapes, strict=True)]

    def sized(place: int, of_one: float, of_others: float) -> list[Array]:
        return within(*(of_one if i == place else of_others for i in range(len(shapes))))

    rows = {f"usual {i}": within(*[2.0] * len(shapes)) for i in range(3)}
    rows |= {f"sizes of {size:g}": within(*[size] * len(shapes)) for size in SIZES}
    for place in range(len(shapes)):
        for small, large in PAIRS_OF_SIZES:
            rows[f"array {place} of {large:g}, others of {small:g}"] = sized(place, large, small)
            rows[f"array {place} of {small:g}, others of {large:g}"] = sized(place, small, large)
        rows[f"array {place} of zeros"] = sized(place, 0, 1)
        rows[f"all but array {place} of zeros"] = sized(place, 1, 0)
    rows["zeros"] = within(*[0.0] * len(shapes))
    for value in (1.0, -2.0, 0.5):
        rows[f"all entries {value}"] = [np.full(shape, value) for shape in shapes]
    for sign in (1, -1):
        for z in (50.0, -50.0, 1e5, -1e5):
            first, *others = within(*[1.0] * len(shapes))
            others = [sign * first if other.shape == first.shape else np.full(other.shape, z) for other in others]
            rows[f"others {sign} times array 0, the last beyond by {z:g}"] = [first, *others]
    if len(shapes) >= 3 and shapes[2] == ():
        for of_both in 10.0 ** np.arange(-12, 10, 3):
            for factor in (1, 1e2, 1e5, -1, -1e2, -1e5):
                a, b, *others = within(of_both, of_both, *[1.0] * (last - 1))
                others[0] = np.asarray(factor * np.linalg.norm(a) * np.linalg.norm(b))
                rows[f"a and b of {of_both:g}, z {factor:g} times |a| |b|"] = [a, b, *others]
    return rows


def not_finite(shapes: Shapes, rng: np.random.Generator) -> dict[str, list[Array]]:
    """Rows one of whose numbers is not finite."""
    rows = {}
    for place in range(len(shapes)):
        for value in NOT_FINITE:
            row = [np.asarray(rng.normal(size=shape)) for shape in shapes]
            row[place][(0,) * row[place].ndim] = value
            rows[f"{value} in array {place}"] = row
    return rows


def extreme_rows(constraint: Constraint, rng: np.random.Generator) -> tuple[dict[str, list[Array]], ...]:
    """Those that are finite, and the others where rows share anything."""
    rows, spoilt = extremes(constraint.shapes, rng), not_finite(constraint.shapes, rng)
    return rows, {} if isinstance(constraint.call, RowByRow) else spoilt


def stacked(rows: dict[str, list[Array]], dtype: Any) -> Arrays:
    with np.errstate(over="ignore", under="ignore"):
        return tuple(np.stack(arrays).astype(dtype) for arrays in zip(*rows.values(), strict=True))


@functools.cache
def compiled(name: str, implementation: str) -> Callable[..., Any]:
    constraint = CONSTRAINTS[name]
    options = {"increments": not constraint.gives_values, "implementation": implementation}
    return jax.jit(lambda *arrays: constraint.call(*arrays, **options))


@pytest.fixture(scope="module", autouse=True)
def _released() -> Iterator[None]:
    yield
    compiled.cache_clear()


def projected(constraint: Constraint, arrays: Arrays, results: Any) -> Arrays:
    """New values of the arrays that move, in float64."""
    results = [np.asarray(result).astype(np.float64) for result in results]
    if constraint.gives_values:
        return tuple(results)
    return tuple(old.astype(np.float64) + change for old, change in zip(arrays, results, strict=False))


def missed_by(constraint: Constraint, old: Arrays, new: Arrays) -> Array:
    """Of every row; infinite where it is not finite."""
    wide = tuple(array.astype(np.float64) for array in old)
    with np.errstate(all="ignore"):
        missed = constraint.missed(wide, new)
        if constraint.unresolved is not None:
            rounding = np.finfo(np.float64 if old[0].dtype == np.float64 else np.float32).eps
            missed = np.maximum(missed - rounding * constraint.unresolved(wide, new), 0)
    return np.where(np.isfinite(size(*new)) & np.isfinite(missed), missed, np.inf)


def within_limits(constraint: Constraint, arrays: Arrays, implementation: str, dtype: str) -> Array:
    """Rows whose numbers are as documented."""
    limits = constraint.largest
    if implementation == "reference":
        limits = constraint.largest_in_reference or limits
    if dtype == "float64" and not (implementation == "reference" and constraint.kind == "curve"):
        limits = ()
    return np.all([size(array) <= limit for array, limit in zip(arrays, limits or (np.inf,), strict=False)], axis=0)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("name", "implementation", "dtype"), CASES)
def test_extreme_rows_are_feasible_beside_rows_that_are_not_finite(
    name: str, implementation: str, dtype: str, rng: np.random.Generator
) -> None:
    constraint, project = CONSTRAINTS[name], compiled(name, implementation)
    rows, spoilt = extreme_rows(constraint, rng)
    if isinstance(constraint.call, RowByRow) and implementation in ON_DEVICES:  # each launch takes its time
        first = 7 * (dtype == "bfloat16")  # of every seventh row half are in bfloat16, half in what is wider
        rows = {name: row for i, (name, row) in enumerate(rows.items()) if i % 14 == first or "beyond" in name}
    arrays = stacked(rows | spoilt, jnp.dtype(dtype))
    backwards = [np.repeat(array, 2, axis=0)[::-1][::2][::-1] for array in arrays]  # views with gaps
    assert not any(array.flags.c_contiguous for array in backwards)
    new = projected(constraint, arrays, project(*backwards))

    allowed = 8e-3 if constraint.gives_values and dtype == "bfloat16" else ALLOWED[dtype]
    missed = missed_by(constraint, arrays, new)
    documented = within_limits(constraint, arrays, implementation, dtype)
    if (name, implementation) in FROM_ROUNDED_SUMS and dtype == "float32":
        documented &= [not row.startswith("others ") for row in (rows | spoilt)]
    wrong = {row: missed[i] for i, row in enumerate(rows) if documented[i] and not missed[i] <= allowed}
    assert not wrong, wrong
    for i, row in enumerate(spoilt, start=len(rows)):
        if row.startswith("nan"):
            assert any(np.isnan(array[i]).any() for array in new), row

    if not spoilt:
        return
    usual = stacked(dict.fromkeys(rows | spoilt, rows["usual 0"]), jnp.dtype(dtype))
    alone = projected(constraint, usual, project(*usual))
    for array, expected in zip(new, alone, strict=True):
        np.testing.assert_allclose(array[0], expected[0], rtol=1e-6, atol=1e-6)


def _copies(x: Any, w: Any, u: Any, v: Any, z: Any) -> tuple[Any, ...]:
    new = pk.project_dense_copies(x, w, u, v, z)
    return new.x_mean, new.w_mean, new.u, new.v, new.z_change


def _factored(x: Any, w: Any, z: Any) -> tuple[Any, ...]:
    changes = pk.project_dense_factored([x], [w], ((1.0,), (0.0,)), ((0.0,), (1.0,)), z)
    return changes.x_mean, changes.w_mean, changes.z_change


WIDE: Shapes = ((1 << 16, 1 << 16), (1 << 16, 4), (1 << 16, 4))
LAYERS: dict[str, tuple[Callable[..., Any], Shapes]] = {
    "project_dense": (pk.project_dense, WIDE),
    "project_dense_copies": (
        _copies,
        ((1 << 16, 1 << 9), (1 << 9, 1 << 7), *((1 << 16, 1 << 7, 1 << 9),) * 2, (1 << 16, 1 << 7)),
    ),
    "project_dense_factored": (_factored, WIDE),
    "project_layer": (functools.partial(pk.project_layer, jnp.matmul), WIDE),
    "project_threshold_dense": (functools.partial(pk.project_threshold_dense, margin=1.0), WIDE),
    "project_conv2d": (pk.project_conv2d, ((1 << 20, 64, 64, 3), (3, 3, 3, 4), (1 << 20, 62, 62, 4))),
    "project_recurrence": (
        pk.project_recurrence,
        ((1 << 16, 1 << 8, 1 << 8), (1 << 16, 1 << 8, 4), (1 << 8, 4), (4, 4), (1 << 16, 1 << 8, 4)),
    ),
}
"""Whole layers with more than 2^31 inputs, or copies of them."""

OF_ROWS = [name for name in CONSTRAINTS if not isinstance(CONSTRAINTS[name].call, RowByRow)]


@pytest.mark.parametrize("name", OF_ROWS)
def test_more_than_2_to_the_31_elements_and_none(name: str) -> None:
    """By shapes alone, in 32 bits: nothing counts, or places, all elements."""
    constraint = CONSTRAINTS[name]
    for rows in (1 << 30, 0):
        arrays = [jax.ShapeDtypeStruct((rows, *shape), jnp.float32) for shape in constraint.shapes]
        with jax.enable_x64(False):
            results = jax.eval_shape(functools.partial(constraint.call, implementation="xla"), *arrays)
        assert [result.shape for result in jax.tree.leaves(results)] == [a.shape for a in arrays[: len(results)]]
    none = [np.zeros((0, *shape), np.float32) for shape in constraint.shapes]
    for implementation in ("reference", "xla"):
        results = jax.tree.leaves(constraint.call(*none, implementation=implementation))
        assert [result.shape for result in results] == [array.shape for array in none[: len(results)]]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_more_than_2_to_the_31_inputs(name: str) -> None:
    call, shapes = LAYERS[name]
    with jax.enable_x64(False):
        results = jax.eval_shape(call, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    assert [result.shape for result in results] == list(shapes)


@pytest.mark.parametrize("name", [name for name in OF_ROWS if "," not in name])
def test_one_row_alone_is_as_among_others(name: str, rng: np.random.Generator) -> None:
    call = jax.jit(functools.partial(CONSTRAINTS[name].call, increments=True, implementation="xla"))
    rows = [rng.normal(size=(3, *shape)).astype(np.float32) for shape in CONSTRAINTS[name].shapes]
    alone, among = call(*(array[:1] for array in rows)), call(*rows)
    assert any(np.any(result) for result in among)
    for one, several in zip(alone, among, strict=True):
        np.testing.assert_allclose(one[0], several[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [pk.project_max, pk.project_min])
def test_a_maximum_of_more_than_2_to_the_31_entries_is_refused(kernel: Callable[..., Any]) -> None:
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 1 << 31), (2,))]
    with pytest.raises(ValueError, match=rf"^{kernel.__name__}: x has shape .*2147483648 entries .*at most 2147483647"):
        jax.eval_shape(kernel, *shapes)


# Drawn at random.

ROWS = 8
SPECIAL = ("normal", "zeros", "equal", "same as before", "opposite", "steps")
EXPONENTS = (-12, -6, -3, -1, 0, 1, 3, 5, 9)
"""Of ten: how large the numbers of an array are."""


@strategies.composite
def batches(draw: Callable[..., Any], shapes: Shapes, exponents: tuple[int, ...], count: int) -> Arrays:
    """Rows of numbers of several sizes, among them equal ones, multiples of a half, and arrays that are as another.

    Again and again, until they are ``count``.
    """
    rng = np.random.default_rng(draw(strategies.integers(0, 2**32 - 1)))
    kinds = strategies.tuples(strategies.sampled_from(SPECIAL), strategies.sampled_from(exponents))
    rows: list[list[Array]] = []
    for _ in range(ROWS):
        row: list[Array] = []
        for shape in shapes:
            kind, exponent = draw(kinds)
            array = 10.0**exponent * rng.normal(size=shape)
            like = [other for other in row if other.shape == shape]
            if kind in ("same as before", "opposite") and like:
                array = like[-1] * (1 if kind == "same as before" else -1)
            elif kind == "steps":
                array = np.round(2 * array) / 2
            elif kind in ("zeros", "equal"):
                array = np.full(shape, 0.0 if kind == "zeros" else array.flat[0])
            row.append(np.asarray(array))
        rows.append(row)
    arrays = (np.stack(arrays).astype(np.float32) for arrays in zip(*rows, strict=True))
    return tuple(np.resize(array, (count, *array.shape[1:])) for array in arrays)


def alike(a: Array, b: Array) -> Array:
    """Rows of two arrays that are equal, or opposite."""
    return np.minimum(norm(a - b), norm(a + b)) <= 1e-6 * (norm(a) + norm(b))


def squared_distance(old: Arrays, new: Arrays) -> Array:
    return sum(
        ((after - before) ** 2).reshape(len(before), -1).sum(axis=1) for before, after in zip(old, new, strict=False)
    )


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_any_rows_are_feasible_stay_and_are_as_near_as_the_oracle_says(name: str, rng: np.random.Generator) -> None:
    """As many at a time as there are extreme ones, for which both are compiled."""
    constraint = CONSTRAINTS[name]
    project, oracle = compiled(name, "xla"), compiled(name, "reference")
    largest = min((*constraint.largest, *constraint.largest_in_reference, 1e10))
    exponents = tuple(exponent for exponent in EXPONENTS if 10.0 ** (exponent + 1) <= largest)

    @hypothesis.settings(derandomize=True, max_examples=8, deadline=None, database=None)
    @hypothesis.given(batches(constraint.shapes, exponents, sum(map(len, extreme_rows(constraint, rng)))))
    def check(arrays: Arrays) -> None:
        wide = tuple(array.astype(np.float64) for array in arrays)
        new = projected(constraint, arrays, project(*arrays))
        excused = alike(*wide[:2]) if (name, "xla") in FROM_ROUNDED_SUMS else False
        assert (excused | (missed_by(constraint, arrays, new) <= 1e-5)).all()
        if constraint.kind != "set":
            return
        scale = 1e-5 * (size(*wide) + 1)
        again = projected(constraint, new, project(*(a.astype(np.float32) for a in new), *arrays[len(new) :]))
        assert (excused | (np.sqrt(squared_distance(new, again)) <= 10 * scale)).all()
        nearest = projected(constraint, wide, oracle(*wide))
        distance, least = (np.sqrt(squared_distance(wide, points)) for points in (new, nearest))
        assert (distance <= (1 + 1e-4) * least + scale).all()

    check()
