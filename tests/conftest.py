"""What every test starts from."""

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

# Nearly all of the time is compilation, so most optimizations are left out. Then XLA's older code generator for the CPU
# is ten times as fast as the one that users run. Tests of rounding ask for that one, and for all optimizations, by
# AS_FOR_USERS in pjax_kernels/code_generation.py. Parts of a program that compile side by side cost more in all.
jax.config.update("jax_disable_most_optimizations", True)
# An unknown flag ends the process, so other releases keep their own.
if jax.__version_info__[:2] == (0, 10):
    flags = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags

# Tracing makes many small objects, nearly all of which live on: Python looks for cycles among them too often.
GARBAGE = 50_000, 20, 50
gc.set_threshold(*GARBAGE)

# Triton reads it when it is imported, and must be before a test changes it. Its kernels are interpreted, unless
# tools/lower_gpu asks otherwise.
os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton") is not None:
    import triton.language  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def compiled_code_released() -> Iterator[None]:
    """Compiled programs hold memory maps, of which a process may have 65,530: more than one suite needs."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def run_on_devices() -> Callable[[str, int], str]:
    """Runs a program on so many CPU devices, and gives what it prints."""
    root = Path(__file__).parents[1]

    def run(program: str, count: int) -> str:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PJRT_NPROC": "8",  # threads: interpreted kernels keep one for each device waiting, for each other
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # nearly all of the time is compilation
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}",
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]),
        }
        program = f"import gc\ngc.set_threshold(*{GARBAGE})\n{program}"
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
