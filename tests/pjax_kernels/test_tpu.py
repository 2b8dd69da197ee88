"""When TPU kernels are chosen, why they are not, and that they lower for TPUs; no TPU is needed."""

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_kernels as pk
from pjax_kernels import implementation, tpu
from pjax_kernels.bilinear import tpu as bilinear
from pjax_kernels.dense import tpu as dense
from pjax_kernels.sum_relu import tpu as sum_relu

AVAILABLE = {"reference": lambda x: x, "xla": lambda x: x + 1, "triton": lambda x: x + 2, "tpu": lambda x: x + 3}
ONE = jnp.ones((2, 3), np.float32)

Kernel = Callable[..., Any]
Shapes = tuple[tuple[int, ...], ...]


def sum_relu_of_bias(x: Any, bias: Any, z: Any, **options: Any) -> Any:
    return pk.project_sum_relu((x, bias), z, **options)


pool = partial(pk.project_max_pool, window=(3, 2), strides=(2, 2), padding="SAME")


def twice(kernel: Kernel) -> Kernel:
    """Without a residual, and with one."""
    return lambda *arrays, **options: [kernel(*arrays, **options), kernel(*arrays, residual=arrays[-1], **options)]


ALIGNED: dict[str, tuple[Kernel, Shapes]] = {
    "bilinear": (pk.project_bilinear, ((512, 256), (512, 256), (512,))),
    "bilinear, long rows": (pk.project_bilinear, ((256, 16384), (256, 16384), (256,))),
    "dense": (pk.project_dense, ((256, 512), (512, 256), (256, 256))),
    "sum_relu": (sum_relu_of_bias, ((512, 1024), (1024,), (512, 1024))),
    "recurrence": (pk.project_recurrence, ((8, 16, 128), (8, 16, 256), (128, 256), (256, 256), (8, 16, 256))),
    "max_pool": (pool, ((2, 16, 16, 128), (2, 8, 8, 128))),
}
UNALIGNED: dict[str, tuple[Kernel, Shapes]] = {
    "bilinear": (pk.project_bilinear, ((3, 67, 5), (3, 67, 5), (3, 67))),
    "bilinear, long rows": (pk.project_bilinear, ((70, 20001), (70, 20001), (70,))),
    "dense": (pk.project_dense, ((300, 784), (784, 10), (300, 10))),
    "sum_relu": (sum_relu_of_bias, ((5, 7, 13), (13,), (5, 7, 13))),
    "recurrence": (pk.project_recurrence, ((3, 7, 65), (3, 7, 300), (65, 300), (300, 300), (3, 7, 300))),
    "max_pool": (pool, ((3, 9, 13, 150), (3, 5, 7, 150))),
}
CASES = [
    pytest.param(*case, id=f"{name}, {kind}")
    for kind, cases in {"aligned": ALIGNED, "unaligned": UNALIGNED}.items()
    for name, case in cases.items()
]


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a TPU, but for what is run."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def lowered(kernel: Kernel, arrays: list[jax.ShapeDtypeStruct]) -> jax.stages.Lowered:
    # A function of its own: traces are kept by function, and do not know which implementations could run.
    return jax.jit(lambda *arrays: kernel(*arrays)).trace(*arrays).lower(lowering_platforms=("tpu",))


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize(("dtype", "increments"), [("bfloat16", False), ("float32", True)])
@pytest.mark.parametrize(("kernel", "shapes"), CASES)
def test_lowers_to_one_kernel(kernel: Kernel, shapes: Shapes, increments: bool, dtype: str) -> None:
    """With 64-bit mode on, as in all these tests; nothing but the kernel is chosen, for nothing is named."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    text = lowered(partial(twice(kernel), increments=increments), arrays).as_text()
    assert text.count("@tpu_custom_call") == 2
    assert "f64>" not in text


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize(("kernel", "shapes"), [ALIGNED["bilinear"], ALIGNED["dense"], ALIGNED["sum_relu"]])
def test_lowers_under_vmap_and_without_float64(kernel: Kernel, shapes: Shapes) -> None:
    arrays = [jax.ShapeDtypeStruct((3, *shape), "float32") for shape in shapes]
    with jax.enable_x64(False):
        assert lowered(jax.vmap(twice(kernel)), arrays).as_text().count("@tpu_custom_call") == 2


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize(
    ("kernel", "shapes", "shared"),
    [(*ALIGNED["bilinear"], ()), (*ALIGNED["dense"], (1,)), (*ALIGNED["sum_relu"], (1,))],
)
def test_lowers_in_shards(kernel: Kernel, shapes: Shapes, shared: tuple[int, ...]) -> None:
    """A loop in shard_map has a carry of one type: what a kernel returns differs from shard to shard."""
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, everywhere = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    specs = tuple(everywhere if i in shared else batch for i in range(len(shapes)))

    def steps(*arrays: jax.Array) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            new = jax.tree.leaves(jax.tree.map(jnp.add, *twice(kernel)(*carry)))
            return tuple(lax.pmean(x, "batch") if i in shared else x for i, x in enumerate(new)), None

        return lax.scan(step, arrays, length=2)[0]

    sharded = jax.shard_map(steps, mesh=mesh, in_specs=specs, out_specs=specs)
    arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    assert lowered(sharded, arrays).as_text().count("@tpu_custom_call") == 2


@pytest.mark.parametrize(("kernel", "shapes"), CASES)
def test_compiles_to_machine_code(
    kernel: Kernel, shapes: Shapes, on_tpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the TPU's own compiler, where its package is installed: what fits into VMEM, only that knows."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler for TPUs, is not installed")
    from jax.experimental import topologies

    for name, value in {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    (device, *_) = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    one = jax.sharding.SingleDeviceSharding(device)
    arrays = [jax.ShapeDtypeStruct(shape, "float32", sharding=one) for shape in shapes]
    lowered(twice(kernel), arrays).compile()


def test_a_machine_without_tpu_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"^kernel: 'tpu' cannot run here: .*'cpu', not a TPU; .*'reference'"):
        implementation.choose("kernel", "tpu", AVAILABLE)
    assert implementation.choose("kernel", None, AVAILABLE) is AVAILABLE["xla"]


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_refused_when_named_and_left_to_xla_otherwise(dtype: str) -> None:
    for kernel, shapes in UNALIGNED.values():
        arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        with pytest.raises(
            NotImplementedError, match=rf"'tpu' cannot run here: .* has dtype {dtype}.*bfloat16, float32"
        ):
            jax.eval_shape(partial(kernel, implementation="tpu"), *arrays)
        assert "pallas_call" not in str(jax.make_jaxpr(kernel)(*arrays))


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize(
    ("shape", "window", "reason"),
    [((1, 256, 256, 128), (2, 2), "does not fit into VMEM"), ((1, 30, 30, 8), (6, 6), "36 entries, .* up to 25")],
)
def test_large_images_and_windows_are_refused(shape: tuple[int, ...], window: tuple[int, int], reason: str) -> None:
    x = jax.ShapeDtypeStruct(shape, "float32")
    z = jax.ShapeDtypeStruct((1, shape[1] // window[0], shape[2] // window[1], shape[3]), "float32")
    with pytest.raises(NotImplementedError, match=f"'tpu' cannot run here: .*{reason}"):
        jax.eval_shape(partial(pk.project_max_pool, window=window, implementation="tpu"), x, z)


@pytest.mark.usefixtures("on_tpu")
def test_precisions_that_mosaic_lacks_are_refused() -> None:
    kernel, shapes = UNALIGNED["dense"]
    arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    algorithm = lax.DotAlgorithmPreset.BF16_BF16_F32_X3
    with pytest.raises(NotImplementedError, match="'tpu' cannot run here: precision is .*BF16_BF16_F32_X3"):
        jax.eval_shape(partial(kernel, precision=algorithm, implementation="tpu"), *arrays)
    assert tpu.unsupported_precision(None) is None
    named = {name: tpu.product_precision(name) for name in ("default", "high", lax.Precision.HIGHEST, None)}
    assert [str(precision) for precision in named.values()] == ["DEFAULT", "HIGHEST", "HIGHEST", "DEFAULT"]


@pytest.mark.usefixtures("on_tpu")
def test_the_kernel_is_taken_where_the_call_is_compiled_for_a_tpu() -> None:
    """And on the CPU beside the TPU, XLA."""
    project = implementation.choose("kernel", None, AVAILABLE)
    np.testing.assert_array_equal(jax.jit(project)(ONE), ONE + 1)
    text = jax.jit(project).trace(ONE).lower(lowering_platforms=("tpu",)).as_text()
    assert "dense<3.0" in text
    assert "dense<1.0" not in text
    assert implementation.choose("kernel", "tpu", AVAILABLE) is AVAILABLE["tpu"]


@pytest.mark.parametrize("shape", [(1, 1), (300, 784), (65536, 784), (100, 3000), (64, 100_000)])
def test_default_blocks_fit(shape: tuple[int, int]) -> None:
    """Multiples of a register, of which a block may hold more than there are entries, in the VMEM of every TPU."""
    for dtype in (jnp.bfloat16, jnp.float32):
        blocks = bilinear.default_blocks(*shape, (dtype,) * 4)
        assert all(size % tpu.LANES == 0 for size in blocks)
        assert tpu.block_bytes(*[(blocks, dtype)] * 4) <= tpu.VMEM
        x, w, z = (jax.ShapeDtypeStruct(s, dtype) for s in (shape, (shape[1], 900), (shape[0], 900)))
        products = dense.default_blocks((x, x), (w, w), z)
        assert all(size % tpu.LANES == 0 for size in products)
        rows, columns = sum_relu.default_blocks(shape, [dtype] * 5)
        assert (rows % 16, columns % tpu.LANES) == (0, 0)
        assert tpu.block_bytes(*[((rows, columns), dtype)] * 5) <= tpu.VMEM
