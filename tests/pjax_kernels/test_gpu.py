"""When Triton kernels are chosen, why they are not, and how jax-triton is called; no GPU is needed."""

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_kernels import gpu, implementation

Array = np.ndarray

AVAILABLE = {"reference": lambda x: x, "xla": lambda x: x + 1, "triton": lambda x: x + 2}
ONE = jnp.ones((2, 3), np.float32)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.usefixtures("installed")
def test_nothing_is_in_the_way_where_all_is_installed() -> None:
    assert gpu.obstacle() is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("package", ["triton", "jax_triton"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else name)
    assert package.replace("_", "-") in gpu.obstacle()
    with pytest.raises(NotImplementedError, match=r"^kernel: 'triton' cannot run here: .*pip install.*'reference'"):
        implementation.choose("kernel", "triton", AVAILABLE)
    assert implementation.choose("kernel", None, AVAILABLE) is AVAILABLE["xla"]


@pytest.mark.usefixtures("installed")
def test_a_machine_without_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(NotImplementedError, match=r"^kernel: 'triton' cannot run here: .*'cpu', not a GPU"):
        implementation.choose("kernel", "triton", AVAILABLE)
    assert implementation.choose("kernel", None, AVAILABLE) is AVAILABLE["xla"]


@pytest.mark.usefixtures("installed")
def test_interpreted_kernels_are_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(NotImplementedError, match="TRITON_INTERPRET"):
        implementation.choose("kernel", "triton", AVAILABLE)


@pytest.mark.usefixtures("installed")
def test_arguments_that_the_kernel_does_not_take() -> None:
    reason = gpu.unsupported({"u": ONE}, length=3, longest=2)
    with pytest.raises(NotImplementedError, match="3 entries at a time .* up to 2; pass"):
        implementation.choose("kernel", "triton", AVAILABLE, unsupported={"triton": reason})
    assert implementation.choose("kernel", None, AVAILABLE, unsupported={"triton": reason}) is AVAILABLE["xla"]
    assert gpu.unsupported({"u": ONE}, length=3, longest=3) is None
    assert "u has dtype float8_e5m2" in gpu.unsupported({"u": ONE.astype(jnp.float8_e5m2)})


@pytest.mark.usefixtures("installed")
def test_on_a_gpu_triton_is_taken_where_the_call_is_compiled_for_it() -> None:
    """And on the CPU beside the GPU, XLA."""
    project = implementation.choose("kernel", None, AVAILABLE)
    np.testing.assert_array_equal(jax.jit(project)(ONE), ONE + 1)
    cuda = jax.jit(project).trace(ONE).lower(lowering_platforms=("cuda",)).as_text()
    assert "dense<2.0" in cuda
    assert "dense<1.0" not in cuda
    assert implementation.choose("kernel", "triton", AVAILABLE) is AVAILABLE["triton"]


def fake_jax_triton(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]) -> list[dict[str, Any]]:
    """A module that records its calls and returns zeros."""
    calls = []

    def triton_call(*arrays: Any, **options: Any) -> list[jax.Array]:
        calls.append({"arrays": arrays, **options})
        shapes = options["out_shape"] if version < (0, 4) else options["out_type"]
        return [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]

    monkeypatch.setitem(sys.modules, "jax_triton", SimpleNamespace(__version_info__=version, triton_call=triton_call))
    return calls


@pytest.mark.parametrize("version", [(0, 3, 1), (0, 4, 1)])
def test_both_versions_of_jax_triton_pass_the_kernel_the_same_parameters(
    version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of version 0.3: the arrays, then every output; a number stands for what 0.4 does not pass."""
    calls = fake_jax_triton(monkeypatch, version)
    x, u = jnp.ones(3), jnp.ones(4)
    results = gpu.launch("kernel", x, u, outputs=[((5,), np.float16)], grid=(2,), in_place=1, num_warps=8, BLOCK=16)
    assert [(y.shape, y.dtype) for y in results] == [((4,), u.dtype), ((5,), np.float16)]
    (call,) = calls
    outputs = call["out_shape"] if version < (0, 4) else call["out_type"]
    parameters = [*call["arrays"], *(outputs if version < (0, 4) else outputs[1:])]
    assert [getattr(y, "shape", y) for y in parameters] == [(3,), (4,), (4,) if version < (0, 4) else 0, (5,)]
    assert call["input_output_aliases"] == {1: 0}
    assert (call["kernel"], call["grid"], call["num_warps"], call["BLOCK"]) == ("kernel", (2,), 8, 16)
    options = call if version < (0, 4) else call["backend_options"]
    assert options["enable_fp_fusion"] is False


def test_a_grid_without_programs_launches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_jax_triton(monkeypatch, (0, 3, 1))
    u = jnp.ones((0, 4))
    same, sums = gpu.launch("kernel", u, outputs=[((4,), np.float32)], grid=(0,), in_place=1)
    assert calls == []
    assert same is u
    np.testing.assert_array_equal(sums, np.zeros(4))


def test_outputs_vary_over_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over a kernel in shard_map has a carry of one type, though a foreign call has no mark of its own."""

    def run(launch: gpu.Launch, arrays: Any) -> Any:
        return (jax.pure_callback(lambda x: np.asarray(x) + 1, launch.outputs[0], arrays[0]),)

    def add_two(x: jax.Array) -> jax.Array:
        def add_one(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return gpu.launch("kernel", x, outputs=[(x.shape, x.dtype)], grid=(1,))[0], None

        return jax.lax.scan(add_one, x, length=2)[0]

    monkeypatch.setattr(gpu, "_run", run)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    sharded = jax.jit(jax.shard_map(add_two, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(sharded(ONE), ONE + 2)


def test_arrays_without_entries_under_vmap() -> None:
    project = gpu.over_leading_axis(lambda x, y: (x, x + y[:, None]))
    same, total = jax.vmap(project, in_axes=(0, None))(jnp.zeros((2, 3, 0)), jnp.zeros(3))
    assert (same.shape, total.shape) == ((2, 3, 0), (2, 3, 0))
