"""Every Triton kernel becomes machine code, for GPUs that are not there, and keeps to a budget."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("triton")

REPOSITORY = Path(__file__).parents[2]
ON_NVIDIA, ON_AMD = ("sm_90", "sm_100", "sm_80"), "gfx942"


class Budget(NamedTuple):
    """What a kernel of one case may use on every target, and what it must."""

    occupancy: float
    wide: float
    """Part of the global loads and stores of 16 bytes, on NVIDIA."""
    matrix: bool = False
    """Whether it computes with tensor cores."""


BUDGETS = {
    ("bilinear 65536 x 784", "_project_rows"): Budget(occupancy=0.4, wide=0.8),
    ("bilinear 2048 x 20000", "_project_long_row"): Budget(occupancy=0.35, wide=0.9),
    ("threshold 65536 x 784", "_project"): Budget(occupancy=0.5, wide=0.7),
    ("threshold 13 x 65536 x 16, axis 0", "_project"): Budget(occupancy=0.15, wide=0.8),
    ("threshold 2048 x 20000", "_project_long"): Budget(occupancy=0.35, wide=0.85),
    ("threshold layer 256 x 784 x 256", "_solve_layer"): Budget(occupancy=0.12, wide=0.0),
    ("dense 256 x 784 x 256, highest", "_solve"): Budget(occupancy=0.12, wide=0.5),
    ("dense 256 x 784 x 256, high", "_multiply_and_solve"): Budget(occupancy=0.12, wide=0.8, matrix=True),
    ("max 65536 x 784", "_lower_rows"): Budget(occupancy=0.5, wide=0.6),
    ("max pool 256 x 56 x 56 x 64, 2 x 2", "_lower_windows"): Budget(occupancy=0.4, wide=0.0),
    ("max pool 256 x 56 x 56 x 64, 2 x 2", "_lower_entries"): Budget(occupancy=0.5, wide=0.0),
    ("factored 256 x 784 x 256, history 3, high", "_multiply_and_solve"): Budget(
        occupancy=0.12, wide=0.15, matrix=True
    ),
    ("factored 256 x 784 x 256, history 1, highest", "_solve"): Budget(occupancy=0.12, wide=0.7),
    ("recurrence 64 x 64 x (256 + 512) x 512, high", "_multiply_and_solve"): Budget(
        occupancy=0.12, wide=0.8, matrix=True
    ),
    # Six of its loads are numbers, which may be traced.
    ("dense copies 256 x 784 x 256", "_project_copies"): Budget(occupancy=0.25, wide=0.65),
    # Where the residual is known, roots take the most of the registers in these.
    ("bilinear 2048 x 20000, residual", "_project_long_row"): Budget(occupancy=0.35, wide=0.9),
    ("dense 256 x 784 x 256, residual", "_solve"): Budget(occupancy=0.12, wide=0.5),
    ("factored 256 x 784 x 256, history 1, highest, residual", "_solve"): Budget(occupancy=0.12, wide=0.7),
    ("dense copies 256 x 784 x 256, residual", "_project_copies"): Budget(occupancy=0.25, wide=0.65),
}


CASES = list(dict.fromkeys(case for case, _ in BUDGETS))
TARGETS = {case: (ON_NVIDIA[place % 3], ON_AMD) for place, case in enumerate(CASES)}
"""Two for each case, those of NVIDIA in turn: compilation takes a second or more for each."""


def inspected(cases: Iterable[str], targets: Iterable[str], cache: Path) -> list[dict[str, Any]]:
    """What the tool finds in a process of its own: in this one Triton interprets."""
    environment = os.environ | {"PYTHONPATH": "kernels", "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    chosen = [word for case in cases for word in ("--case", case)]
    chosen += [word for target in targets for word in ("--target", target)]
    command = [sys.executable, "-m", "benchmarks.gpu.inspect_kernels", "--json", *chosen]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def kernels_in_the_sources() -> set[tuple[str, str]]:
    """Module and name of each function of Triton that no other one of its module calls."""
    found = set()
    for path in (REPOSITORY / "kernels" / "pjax_kernels").glob("*/triton.py"):
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        compiled = {node.name: node for node in functions if any("jit" in ast.unparse(d) for d in node.decorator_list)}
        names = {name.id for node in compiled.values() for name in ast.walk(node) if isinstance(name, ast.Name)}
        found |= {(f"pjax_kernels.{path.parent.name}.triton", name) for name in compiled.keys() - names}
    return found


def exceeds(record: dict[str, Any], budget: Budget) -> list[str]:
    """What of the machine code does not keep to the budget."""
    on_nvidia = record["target"].startswith("sm")
    kept = {
        "bytes": record["bytes"] > 0,
        "spilled_bytes": record["spilled_bytes"] == 0,
        "local_instructions": record["local_instructions"] == 0,
        "int32_products": record["int32_products"] == 0,  # of blocks: as offsets they would wrap beyond 2**31 entries
        "occupancy": record["occupancy"] >= budget.occupancy,
        "wide_global_accesses": record["wide_global_accesses"] >= on_nvidia * budget.wide * record["global_accesses"],
        "tensor_core_instructions": (record["tensor_core_instructions"] > 0) == budget.matrix,
    }
    return [f"{name} {record[name]}" for name, is_kept in kept.items() if not is_kept]


def test_machine_code_of_every_kernel_keeps_to_its_budget(tmp_path: Path) -> None:
    """One test, so that all is compiled once."""
    records = []
    for of_nvidia in ON_NVIDIA:
        cases = [case for case, targets in TARGETS.items() if of_nvidia in targets]
        records += inspected(cases, (of_nvidia, ON_AMD), tmp_path)
    expected = {(*kernel, target) for kernel in BUDGETS for target in TARGETS[kernel[0]]}
    assert {(record["case"], record["kernel"], record["target"]) for record in records} == expected
    assert {(record["module"], record["kernel"]) for record in records} == kernels_in_the_sources()
    wrong = {
        (record["case"], record["target"]): exceeded
        for record in records
        if (exceeded := exceeds(record, BUDGETS[record["case"], record["kernel"]]))
    }
    assert not wrong
