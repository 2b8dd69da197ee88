"""Every kernel under jit, vmap, scan and shard_map, with its dtypes kept, and in 32-bit mode."""

import functools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike

import pjax_kernels as pk

Array = np.ndarray
Kernel = Callable[..., Any]
Inputs = tuple[Any, ...]

LANES = 3


def bilinear_inputs(rng: np.random.Generator) -> Inputs:
    """Near and far roots, and one set-valued row."""
    a, b = rng.normal(size=(2, LANES, 4, 5))
    z = np.sum(a * b, axis=-1) + rng.normal(size=(LANES, 4)) * [0.1, 1, 10, 100]
    b[:, 2], z[:, 2] = -a[:, 2], 50
    return a, b, z


def dense_inputs(rng: np.random.Generator) -> Inputs:
    x, w = rng.normal(size=(LANES, 4, 5)), rng.normal(size=(LANES, 5, 3))
    return x, w, x @ w + rng.normal(size=(LANES, 4, 3)) * np.array([0.1, 1, 50])[:, None, None]


def dense_copies_inputs(rng: np.random.Generator) -> Inputs:
    x, w, z = dense_inputs(rng)
    u, v = rng.normal(size=(2, LANES, 4, 3, 5))
    return x, w, u, v, z


def project_dense_copies(
    x: Any, w: Any, u: Any, v: Any, z: Any, *, increments: bool = False, implementation: str | None = None
) -> Inputs:
    """As the other kernels: every argument's new value, or the changes of those that are changed."""
    settings = {"scale": (-1.0, -1.0), "keep": (0.5, 0.5), "gain": (0.5, 0.5), "implementation": implementation}
    new = pk.project_dense_copies(x, w, u, v, z, **settings)
    if increments:
        return new.x_mean, new.w_mean, new.z_change
    x, w, z = (
        (old.astype(change.dtype) + change).astype(old.dtype)
        for old, change in ((x, new.x_mean), (w, new.w_mean), (z, new.z_change))
    )
    return x, w, new.u, new.v, z


def project_bilinear_map(x: Any, w: Any, z: Any, **options: Any) -> Inputs:
    """A recurrence: pytrees of operands."""
    return pk.project_bilinear_map(lambda x, w: x[0] @ w[0] + x[1] @ w[1], x, w, z, **options)


def bilinear_map_inputs(rng: np.random.Generator) -> Inputs:
    x, w, z = dense_inputs(rng)
    return (x, rng.normal(size=(LANES, 4, 2))), (w, rng.normal(size=(LANES, 2, 3))), z


def conv2d_inputs(rng: np.random.Generator) -> Inputs:
    """Near and far roots; the outputs of zero operands in the last lane are set-valued."""
    x, w = rng.normal(size=(LANES, 2, 4, 3, 2)), rng.normal(size=(LANES, 3, 2, 2, 3))
    x[2, 0], w[2] = 0, 0
    return x, w, rng.normal(size=(LANES, 2, 2, 2, 3)) * np.array([0.1, 1, 50])[:, None, None, None, None]


def sum_inputs(rng: np.random.Generator) -> Inputs:
    x, bias, z = rng.normal(size=(LANES, 4, 5)), rng.normal(size=(LANES, 5)), rng.normal(size=(LANES, 4, 5))
    return (x, bias), z


def max_inputs(rng: np.random.Generator) -> Inputs:
    """Estimates below the maxima and above, where the largest entries are equal."""
    x, z = rng.normal(size=(LANES, 4, 5)), rng.normal(size=(LANES, 4))
    x[:, 2], z[:, 2] = 1, 3
    return x, z


def pool_inputs(rng: np.random.Generator) -> Inputs:
    return rng.normal(size=(LANES, 2, 4, 3, 2)), rng.normal(size=(LANES, 2, 2, 2, 2))


project_max_pool = partial(pk.project_max_pool, window=(3, 2), strides=(2, 1), padding=((1, 0), (0, 0)))
project_quantize = partial(pk.project_quantize, levels=4, scale=1.5)


def quantize_inputs(rng: np.random.Generator) -> Inputs:
    return tuple(2 * rng.normal(size=(2, LANES, 4, 5)))


project_threshold = partial(pk.project_threshold, margin=1.5)
project_threshold_dense = partial(pk.project_threshold_dense, margin=1.5)


def output_inputs(rng: np.random.Generator) -> Inputs:
    return 5 * rng.normal(size=(LANES, 4, 5)), np.eye(5)[rng.integers(5, size=(LANES, 4))]


def arrays_of_one_shape(rng: np.random.Generator) -> Inputs:
    return tuple(rng.normal(size=(2, LANES, 4, 5)))


def normalize_inputs(rng: np.random.Generator) -> Inputs:
    """With one nearest point: farther away there may be two, and the way down between them is flat."""
    x, noise = rng.normal(size=(2, LANES, 4, 5))
    return x, (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) + 0.3 * noise


def average_pool_inputs(rng: np.random.Generator) -> Inputs:
    return rng.normal(size=(LANES, 2, 5, 3)), rng.normal(size=(LANES, 2, 4, 3))


def project_box(value: Any, low: Any, **options: Any) -> Any:
    return pk.project_box(value, low, **options)


def one_array(rng: np.random.Generator) -> Inputs:
    return (rng.normal(size=(LANES, 2, 5, 3)),)


def project_difference(x: Any, z: Any, **options: Any) -> Inputs:
    return pk.project_sum(x, z, coefficients=(1.0, -1.0), **options)


KERNELS: dict[str, tuple[Kernel, Callable[[np.random.Generator], Inputs]]] = {
    "project_bilinear": (pk.project_bilinear, bilinear_inputs),
    "project_dense": (pk.project_dense, dense_inputs),
    "project_dense_copies": (project_dense_copies, dense_copies_inputs),
    "project_bilinear_map": (project_bilinear_map, bilinear_map_inputs),
    "project_conv2d": (pk.project_conv2d, conv2d_inputs),
    "project_sum": (pk.project_sum, sum_inputs),
    "project_sum_relu": (pk.project_sum_relu, sum_inputs),
    "project_max": (pk.project_max, max_inputs),
    "project_max_pool": (project_max_pool, pool_inputs),
    "project_quantize": (project_quantize, quantize_inputs),
    "project_affine": (partial(pk.project_affine, scale=2.0, offset=0.5), arrays_of_one_shape),
    "project_sum, difference": (project_difference, sum_inputs),
    "project_min": (pk.project_min, max_inputs),
    "project_average_pool": (
        partial(pk.project_average_pool, window=(1, 2, 1), strides=(1, 1, 1)),
        average_pool_inputs,
    ),
    "project_elementwise, tanh": (partial(pk.project_elementwise, "tanh"), arrays_of_one_shape),
    "project_elementwise, log": (partial(pk.project_elementwise, "log"), arrays_of_one_shape),
    "project_elementwise, clip": (partial(pk.project_elementwise, "clip", low=-0.5), arrays_of_one_shape),
    "project_elementwise, function": (partial(pk.project_elementwise, jnp.sin), arrays_of_one_shape),
    "project_normalize": (pk.project_normalize, normalize_inputs),
    "project_threshold": (project_threshold, bilinear_inputs),
    "project_threshold_dense": (project_threshold_dense, dense_inputs),
    "project_margin": (pk.project_margin, output_inputs),
    "prox_cross_entropy": (pk.prox_cross_entropy, output_inputs),
    "prox_squared_error": (pk.prox_squared_error, arrays_of_one_shape),
    "prox_absolute_error": (pk.prox_absolute_error, arrays_of_one_shape),
    "project_box": (project_box, arrays_of_one_shape),
    "project_sphere": (partial(pk.project_sphere, axis=1), one_array),
    "project_levels": (partial(pk.project_levels, levels=(-1, 0, 1)), one_array),
    "project_sparse": (partial(pk.project_sparse, count=2), one_array),
    "project_one_hot": (pk.project_one_hot, one_array),
    "project_simplex": (pk.project_simplex, one_array),
    "project_orthonormal": (pk.project_orthonormal, one_array),
}

WITH_LABELS = ("project_margin", "prox_cross_entropy", "prox_squared_error", "prox_absolute_error", "project_box")
"""Kernels whose second argument is data, which they do not return."""


JITTED = {name: jax.jit(kernel) for name, (kernel, _) in KERNELS.items()}


@pytest.fixture(params=KERNELS, scope="module")
def kernel(request: pytest.FixtureRequest) -> str:
    return request.param


def case(kernel: str, dtype: DTypeLike, rng: np.random.Generator) -> Inputs:
    """Inputs with a leading axis of ``LANES``."""
    return jax.tree.map(lambda array: array.astype(dtype), KERNELS[kernel][1](rng))


def lane(inputs: Inputs, index: int) -> Inputs:
    return jax.tree.map(lambda array: array[index], inputs)


def in_tuple(results: Any) -> Inputs:
    """A single array likewise."""
    return results if isinstance(results, tuple) else (results,)


def assert_close(left: Any, right: Any, tolerance: float = 1e-12) -> None:
    """Equal to rounding of the largest number: XLA may contract and reorder differently in another program."""
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        x, y = np.asarray(x).astype(np.float64), np.asarray(y).astype(np.float64)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * abs(y).max())


def test_vmap_and_scan_are_loops(kernel: str, rng: np.random.Generator) -> None:
    """Shapes and dtypes come out as they went in, so a projection can be iterated."""
    call = JITTED[kernel]
    inputs = case(kernel, np.float64, rng)
    labels = inputs[1:] if kernel in WITH_LABELS else ()
    start = inputs[:1] if labels else inputs

    @jax.jit
    def scan_of_vmap(start: Inputs, labels: Inputs) -> tuple[Inputs, Inputs]:
        def step(carry: Inputs, _: None) -> tuple[Inputs, Inputs]:
            new = in_tuple(jax.vmap(KERNELS[kernel][0])(*carry, *labels))
            return new, (carry, new)

        return jax.lax.scan(step, start, length=4)

    last, (before, after) = jax.tree.map(np.asarray, scan_of_vmap(start, labels))
    assert_close(lane(before, 0), start, 0)
    assert_close(lane(after, -1), last, 0)
    for step in range(4):
        for index in range(LANES):
            old, new = (lane(lane(stacked, step), index) for stacked in (before, after))
            looped = call(*old, *lane(labels, index))
            assert_close(new, in_tuple(looped))
        if step > 0:
            assert_close(lane(before, step), lane(after, step - 1), 0)


def test_vmap_over_one_argument_only(rng: np.random.Generator) -> None:
    """One weight matrix for several batches, as in an ensemble of inputs."""
    x, w, z = case("project_dense", np.float64, rng)
    call = JITTED["project_dense"]
    looped = [call(x[i], w[0], z[i]) for i in range(LANES)]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *looped)
    assert_close(jax.vmap(call, in_axes=(0, None, 0))(x, w[0], z), stacked)


def test_a_carry_of_half_precision_can_be_scanned(kernel: str, rng: np.random.Generator) -> None:
    inputs = lane(case(kernel, jnp.bfloat16, rng), 1)
    labels = inputs[1:] if kernel in WITH_LABELS else ()

    def step(carry: Inputs, _: None) -> tuple[Inputs, None]:
        return in_tuple(KERNELS[kernel][0](*carry, *labels)), None

    jax.eval_shape(partial(jax.lax.scan, step, length=4), inputs[:1] if labels else inputs)


def test_each_argument_keeps_its_own_dtype(kernel: str, implementation: str, rng: np.random.Generator) -> None:
    inputs, tree = jax.tree.flatten(lane(case(kernel, np.float32, rng), 0))
    for order in ("float16", "bfloat16", "float32") * 2, ("float32", "float64", "float16") * 2:
        dtypes = [jnp.dtype(dtype) for dtype in order[: len(inputs)]]
        mixed = tree.unflatten([array.astype(dtype) for array, dtype in zip(inputs, dtypes, strict=True)])
        call = partial(KERNELS[kernel][0], implementation=implementation)
        results = jax.tree.leaves(jax.eval_shape(call, *mixed))
        assert [array.dtype for array in results] == dtypes[: len(results)]
        changes = jax.tree.leaves(jax.eval_shape(partial(call, increments=True), *mixed))
        operands = dtypes[:1] if kernel == "project_box" else dtypes  # limits are no operands
        widest = "float64" if "float64" in operands else "float32"
        assert {array.dtype for array in changes} == {np.dtype(widest)}


def test_works_without_float64(kernel: str, rng: np.random.Generator) -> None:
    call = KERNELS[kernel][0]
    inputs = lane(case(kernel, np.float32, rng), 2)
    with jax.enable_x64(False):
        narrow = jax.jit(call)(*inputs)
    wide = JITTED[kernel](*jax.tree.map(lambda array: array.astype(np.float64), inputs))
    assert {array.dtype for array in jax.tree.leaves(narrow)} == {np.dtype("float32")}
    assert_close(jax.tree.map(lambda array: array.astype(np.float64), narrow), wide, 1e-5)


SHARDED = """
from functools import partial
import json
import re
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import pjax_kernels as pk
from pjax_kernels import gpu, kernel, tpu

assert jax.device_count() == 2
if IMPLEMENTATION == "triton":
    from tests.pjax_kernels import triton_interpreter

    gpu.obstacle, gpu._run = lambda: None, triton_interpreter.run
if IMPLEMENTATION == "tpu":
    from jax._src import callback
    from jax.experimental.pallas import tpu as pltpu
    from tests.pjax_kernels.conftest import called_with_numpy

    tpu.obstacle, callback.io_callback_impl = lambda: None, called_with_numpy
    pltpu.set_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan"))
batch, everywhere = PartitionSpec("batch"), PartitionSpec()
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
rng = np.random.default_rng(5)
failures = {axes: [] for axes in KINDS_OF_AXES}
CHECKED = []


def check(kernel, several_inputs, specs, average):
    # For each of several inputs of the same shapes, with one compilation.
    several_inputs = jax.tree.map(lambda array: np.asarray(array, np.float32), several_inputs)
    call = partial(kernel, increments=True, implementation=IMPLEMENTATION)
    whole = jax.jit(call)
    several_expected = jax.device_get([whole(*inputs) for inputs in several_inputs])
    checked = len(CHECKED)
    CHECKED.append(kernel)
    for axes in KINDS_OF_AXES:
        # Compiled for one of these in turn, traced for the other, where types are all that differs.
        is_compiled = axes == "auto" or checked % 2 == (axes == "manual")
        try:
            check_shards(axes, call, whole, several_inputs, several_expected, specs, average, is_compiled)
        except Exception as error:
            failures[axes].append(f"{kernel}: {str(error)[-300:]}")


def check_shards(axes, call, whole, several_inputs, several_expected, specs, average, is_compiled):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(EXPLICIT if axes == "explicit" else AUTO,))
    out_specs = jax.tree.map(lambda _: batch, several_expected[0]) if average is None else specs

    def project_shard(*inputs):
        return call(*inputs) if average is None else average(call(*inputs))

    in_shards = whole
    if axes == "manual":
        in_shards = jax.jit(jax.shard_map(project_shard, mesh=mesh, in_specs=specs, out_specs=out_specs))
    place = lambda inputs: jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), inputs, specs)
    shards = place(several_inputs[0])
    shapes = jax.tree.map(np.shape, in_shards.eval_shape(*shards))
    assert shapes == jax.tree.map(np.shape, several_expected[0]), shapes
    if is_compiled:
        compiled = in_shards.lower(*shards).compile()
        for inputs, expected in zip(several_inputs, several_expected, strict=True):
            found = compiled(*place(inputs))
            for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                error = np.linalg.norm(np.asarray(left) - right) / np.linalg.norm(right)
                assert error < 1e-5, error
        if IMPLEMENTATION == "xla":
            moved = set(re.findall(r" (all-gather|all-to-all|collective-permute)", compiled.as_text()))
            assert not moved, moved
    if axes == "explicit":
        values = jax.tree.leaves(jax.eval_shape(partial(call, increments=False), *shards))
        for value, array in zip(values, jax.tree.leaves(shards)):
            if value.shape == array.shape:
                assert value.sharding.spec == jax.typeof(array).sharding.spec, (value, array)


def project_dense_copies(x, w, u, v, z, *, increments=True, implementation):
    settings = dict(scale=(-1.0, -1.0), keep=(0.5, 0.5), gain=(0.5, 0.5), implementation=implementation)
    new = pk.project_dense_copies(x, w, u, v, z, **settings)
    return new.x_mean, new.w_mean, new.u, new.v, new.z_change


def project_dense_factored(x, w, of_w, z, *, increments=True, implementation):
    combinations = ((1.0,), (of_w,)), ((0.5,), (1.0,))
    found = pk.project_dense_factored((x,), (w,), *combinations, z, implementation=implementation)
    return found.x_mean, found.w_mean, found.u.w[0], found.z_change


def mean_over_shards(array):
    return jax.lax.pmean(array, "batch")  # on manual axes alone


def project_bilinear_map_factored(x, w, z, *, increments=True, implementation):
    combinations = ((1.0,), (0.25,)), ((0.5,), (1.0,))
    found = pk.project_bilinear_map_factored(
        lambda x, w: x @ w, (x,), (w,), *combinations, z, implementation=implementation
    )
    return found.x_mean, found.w_mean, found.z_change


x, w, noise = rng.normal(size=(8, 6)), rng.normal(size=(6, 5)), rng.normal(size=(8, 5))
images = rng.normal(size=(8, 5, 6, 2))
many = np.random.default_rng(6).normal(size=(260, 256))
y = rng.normal(size=(8, 2))


def dense_copies_inputs(width, size):
    w, u, v = rng.normal(size=(6, width)), rng.normal(size=(8, width, 6)), rng.normal(size=(8, width, 6))
    z = np.einsum("bmn,bmn->bm", x[:, None] - u, w.T - v) + size * rng.normal(size=(8, width))
    return x, w, u, v, z


def check_dense_copies(width, sizes):
    check(
        project_dense_copies,
        [dense_copies_inputs(width, size) for size in sizes],
        (batch, everywhere, batch, batch, batch),
        lambda result: (result[0], mean_over_shards(result[1]), *result[2:]),
    )


def dense_factored_inputs(width, size):
    w, of_w, noise = rng.normal(size=(6, width)), rng.normal(size=(8, width)), rng.normal(size=(8, width))
    return x, w, of_w, x @ w + size * noise


def check_dense_factored(width, sizes):
    check(
        project_dense_factored,
        [dense_factored_inputs(width, size) for size in sizes],
        (batch, everywhere, batch, batch),
        lambda result: (result[0], mean_over_shards(result[1]), *result[2:]),
    )


def check_max_pool(images, window):  # windows of more than 25 entries are gone through in a loop
    pool = partial(pk.project_max_pool, window=window, strides=(1, 1))
    check(pool, [(images, images[:, window[0] - 1 :, window[1] - 1 :])], (batch, batch), None)


KERNEL_CHECKS = {
    "project_bilinear": lambda: check(
        pk.project_bilinear, [(x, x[::-1], size * x[:, 0]) for size in (1, 50)], (batch, batch, batch), None
    ),
    "project_bilinear, wide": lambda: check(
        pk.project_bilinear, [(many, many[::-1], size * many[:, 0]) for size in (1, 5000)], (batch, batch, batch), None
    ),
    "project_dense": lambda: check(
        pk.project_dense,
        [(x, w, x @ w + size * noise) for size in (0.5, 4, 60)],
        (batch, everywhere, batch),
        lambda result: (result[0], mean_over_shards(result[1]), result[2]),
    ),
    "project_dense_copies": lambda: check_dense_copies(5, (0.5, 4, 60)),
    "project_dense_factored": lambda: check_dense_factored(5, (0.5, 60)),
    # So wide that a shard takes several blocks.
    "project_dense_factored, wide": lambda: check_dense_factored(6000, (0.5, 60)),
    "project_dense_copies, wide": lambda: check_dense_copies(6000, (0.5, 60)),
    "project_bilinear_map": lambda: check(
        partial(pk.project_bilinear_map, lambda x, w: x[0] @ w["first"] + x[1] @ w["second"]),
        [((x, y), {"first": w, "second": w[:2]}, x @ w + 60 * noise)],
        ((batch, batch), {"first": everywhere, "second": everywhere}, batch),
        lambda result: (result[0], jax.tree.map(mean_over_shards, result[1]), result[2]),
    ),
    "project_bilinear_map_factored": lambda: check(
        project_bilinear_map_factored,
        [(x, w, x @ w + size * noise) for size in (0.5, 60)],
        (batch, everywhere, batch),
        lambda result: (result[0], mean_over_shards(result[1]), result[2]),
    ),
    "project_conv2d": lambda: check(
        partial(pk.project_conv2d, padding="SAME"),
        [(images, rng.normal(size=(3, 2, 2, 4)), 60 * rng.normal(size=(8, 5, 6, 4)))],
        (batch, everywhere, batch),
        lambda result: (result[0], mean_over_shards(result[1]), result[2]),
    ),
    "project_recurrence": lambda: check(
        pk.project_recurrence,
        [(x[:, None], y[:, None], w, w[:2], 4 * noise[:, None])],
        (batch, batch, everywhere, everywhere, batch),
        lambda result: (*result[:2], *map(mean_over_shards, result[2:4]), result[4]),
    ),
    "project_sum_over": lambda: check(
        partial(pk.project_sum_over, axis=1), [(noise, noise[:, 0])], (batch, batch), None
    ),
    "project_sum": lambda: check(
        pk.project_sum,
        [((noise, w[0]), noise[::-1])],
        ((batch, everywhere), batch),
        lambda result: ((result[0][0], mean_over_shards(result[0][1])), result[1]),
    ),
    "project_sum_relu": lambda: check(
        pk.project_sum_relu,
        [((noise, w[0]), noise[::-1])],
        ((batch, everywhere), batch),
        lambda result: ((result[0][0], mean_over_shards(result[0][1])), result[1]),
    ),
    "project_max": lambda: check(pk.project_max, [(x, noise[:, 0])], (batch, batch), None),
    "project_max_pool": lambda: check_max_pool(images, (2, 2)),
    "project_max_pool, large windows": lambda: check_max_pool(images.repeat(2, 2), (4, 9)),
    "project_quantize": lambda: check(
        partial(pk.project_quantize, levels=3, scale=1.0), [(noise, noise[::-1])], (batch, batch), None
    ),
    "project_affine": lambda: check(
        partial(pk.project_affine, scale=2.0), [(noise, noise[::-1])], (batch, batch), None
    ),
    "project_average_pool": lambda: check(
        partial(pk.project_average_pool, window=(1, 2, 2, 1), strides=(1, 1, 1, 1)),
        [(images, images[:, 1:, 1:])],
        (batch, batch),
        None,
    ),
    "project_elementwise": lambda: check(
        partial(pk.project_elementwise, "gelu"),
        [(noise, size * noise[::-1]) for size in (0.1, 3)],
        (batch, batch),
        None,
    ),
    "project_normalize": lambda: check(pk.project_normalize, [(noise, noise[::-1])], (batch, batch), None),
    "prox_squared_error": lambda: check(pk.prox_squared_error, [(noise, noise[::-1])], (batch, batch), None),
    "project_margin": lambda: check(pk.project_margin, [(noise, np.eye(8, 5))], (batch, batch), None),
    "prox_cross_entropy": lambda: check(
        pk.prox_cross_entropy, [(noise, np.eye(5)[[0, 1, 2, 3, 4, 0, 1, 2]])], (batch, batch), None
    ),
}
# The others have no blocks of rows; the TPU's pools have up to 25 entries in a window.
LEFT_OUT = {"xla": (), "tpu": (", wide", ", large windows")}.get(IMPLEMENTATION, ", wide")
declared = kernel.declared()
KERNEL_CHECKS = {
    name: run
    for name, run in KERNEL_CHECKS.items()
    if IMPLEMENTATION in declared[name.partition(",")[0]].implementations and not name.endswith(LEFT_OUT)
}
assert len(KERNEL_CHECKS) >= 5
for run in KERNEL_CHECKS.values():
    run()
print(json.dumps(failures))
"""

KINDS_OF_AXES = {"xla": ("auto", "explicit", "manual")} | dict.fromkeys(
    ["reference", "triton", "tpu"], ("explicit", "manual")
)


@pytest.fixture(scope="module")
def failures_over_devices(run_on_devices: Callable[[str, int], str]) -> Callable[[str], dict[str, list[str]]]:
    """By kind of axes: one process for all kinds, which are compared with the same results."""

    @functools.cache
    def failures(implementation: str) -> dict[str, list[str]]:
        settings = f"IMPLEMENTATION, KINDS_OF_AXES = {implementation!r}, {KINDS_OF_AXES[implementation]!r}"
        return json.loads(run_on_devices(f"{settings}\n{SHARDED}", 2))

    return failures


@pytest.mark.parametrize(
    ("implementation", "axes"),
    [(implementation, axes) for implementation, kinds in KINDS_OF_AXES.items() for axes in kinds],
)
def test_batches_over_devices(
    implementation: str, axes: str, failures_over_devices: Callable[[str], dict[str, list[str]]]
) -> None:
    """As on one device; "xla" without gathering, the kernels of GPUs and TPUs interpreted.

    On manual axes each shard projects its part, and the means over shards of weights and biases are those over the
    batch.  Explicit axes are the default of ``jax.make_mesh``.
    """
    assert not failures_over_devices(implementation)[axes]
