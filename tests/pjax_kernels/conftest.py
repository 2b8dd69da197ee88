"""What every test of the kernels starts from."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import callback as callbacks
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from pjax_kernels import gpu, tpu
from pjax_kernels.implementation import _compiled

from . import triton_interpreter

DATA = Path(os.environ.get("PJAX_DATA") or Path(__file__).parents[3] / "shared" / "data")
PUBLISHED = DATA.parent / "reference" / "reference_float64.npz"


@pytest.fixture(autouse=True)
def float64_enabled() -> Iterator[None]:
    """Every array in these tests names its dtype, so float32 stays float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def compiled_anew_where_replaced(request: pytest.FixtureRequest) -> None:
    """Calls of kernels keep what they were compiled to, whatever a test puts in the place of their parts."""
    if "monkeypatch" in request.fixturenames:
        _compiled.clear_cache()


@pytest.fixture(params=["reference", "xla"])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def triton_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """implementation="triton" runs, in Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    monkeypatch.setattr(gpu, "obstacle", lambda: None)
    monkeypatch.setattr(gpu, "_run", triton_interpreter.run)


@pytest.fixture
def launches(triton_interpreted: None, monkeypatch: pytest.MonkeyPatch) -> list[gpu.Launch]:
    """What has been launched, in Triton's interpreter."""
    recorded = []

    def run(launch: gpu.Launch, arrays: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        recorded.append(launch)
        return triton_interpreter.run(launch, arrays)

    monkeypatch.setattr(gpu, "_run", run)
    return recorded


def called_with_numpy(*arrays: np.ndarray, callback: Callable[..., Any], **_: Any) -> Any:
    """As JAX calls back, which first puts each number onto a device: half of the interpreter's time."""
    return jax.tree.map(np.asarray, callback(*arrays))


@pytest.fixture
def tpu_interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """implementation="tpu" runs, in Pallas's TPU interpreter: memory that nothing was written to is NaN."""
    monkeypatch.setattr(tpu, "obstacle", lambda: None)
    monkeypatch.setattr(callbacks, "io_callback_impl", called_with_numpy)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(uninitialized_memory="nan")):
        yield


@pytest.fixture
def tpu_interpreted_under_vmap(tpu_interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for grids with one more axis, whose semantics the interpreter does not know; the compiler does."""
    monkeypatch.setattr(tpu, "_compiler_params", lambda axes: pltpu.CompilerParams())


@pytest.fixture(params=["float16", "bfloat16", "float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> DTypeLike:
    return jnp.dtype(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260617)


@pytest.fixture(scope="session")
def published() -> dict[str, np.ndarray]:
    """What the paper's published implementation computes, in float64."""
    if not PUBLISHED.is_file():
        pytest.skip(f"no reference vectors at {PUBLISHED}; set PJAX_DATA to the folder of the data beside them")
    with np.load(PUBLISHED) as file:
        return dict(file)
