"""How the tests of rounding are compiled."""

import jax

AS_FOR_USERS: dict[str, bool | str] = {
    "xla_backend_optimization_level": "3",
    "xla_llvm_disable_expensive_passes": False,
    **({"xla_cpu_use_fusion_emitters": True} if jax.__version_info__[:2] == (0, 10) else {}),
}
"""Compiler options that undo what the root conftest.py does to compile faster, its fixture included."""
