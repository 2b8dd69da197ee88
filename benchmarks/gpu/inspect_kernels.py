"""Compiles every Triton kernel for several GPUs, none of which is needed, and says what the machine code uses.

A table in Markdown, or with --json one record for every kernel and target.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure.kernel_cases import TRITON_CASES, Case
from pjax_kernels import gpu

POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64", "int32": "*i32"}
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


class Limits(NamedTuple):
    """Of a multiprocessor (of a SIMD unit for registers on AMD)."""

    registers: int
    """For every lane of a warp."""
    granularity: int
    """In which the registers of a lane are given out."""
    warps: int
    shared: int
    """Bytes."""
    reserved: int
    """Bytes of these that a program takes beside its own."""
    units: int = 1
    """Parts, with registers of their own, over which the warps are spread."""


LIMITS = {
    "sm_80": Limits(registers=2048, granularity=8, warps=64, shared=164 << 10, reserved=1 << 10),
    "sm_90": Limits(registers=2048, granularity=8, warps=64, shared=228 << 10, reserved=1 << 10),
    "sm_100": Limits(registers=2048, granularity=8, warps=64, shared=228 << 10, reserved=1 << 10),
    "gfx942": Limits(registers=512, granularity=8, warps=32, shared=64 << 10, reserved=0, units=4),
}
"""NVIDIA, CUDA programming guide, compute capabilities; AMD, CDNA 3 instruction set architecture."""


def main() -> None:
    """Print the table or the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON array of records")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    parser.add_argument("--case", action="append", choices=TRITON_CASES, help="only this one; may be repeated")
    options = parser.parse_args()
    records = []
    for name in options.case or TRITON_CASES:
        of_case = []
        targets = options.target or TARGETS
        launched = {
            platform: launches(TRITON_CASES[name], platform) for platform in sorted(set(map(platform_of, targets)))
        }
        for target in targets:
            of_case += [inspect(launch, target) | {"case": name} for launch in launched[platform_of(target)]]
        records += sorted(of_case, key=lambda record: record["kernel"])  # its targets beside each other
    print(json.dumps(records, indent=1) if options.json else table(records))


def platform_of(target: str) -> str:
    """What JAX calls the maker's GPUs."""
    return "rocm" if target.startswith("gfx") else "cuda"


def launches(case: Case, platform: str) -> list[gpu.Launch]:
    """What the public function would launch for this case on a GPU of this platform."""
    found: list[gpu.Launch] = []

    def record(launch: gpu.Launch, arrays: Any) -> tuple[jax.Array, ...]:
        found.append(launch)
        return tuple(jnp.zeros(output.shape, output.dtype) for output in launch.outputs)

    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in case.shapes]
    jax.clear_caches()  # what was traced for one platform launches nothing when it serves another
    with (
        mock.patch.object(gpu, "obstacle", return_value=None),
        mock.patch.object(gpu, "platform", return_value=platform),
        mock.patch.object(gpu, "_run", record),
    ):
        jax.eval_shape(lambda *arrays: case.call(*arrays, implementation="triton"), *shapes)
    return found


def inspect(launch: gpu.Launch, target: str) -> dict[str, Any]:
    """Compile for ``target`` and read the result."""
    compiled = compile_kernel(launch, target)
    read = read_hsaco if target.startswith("gfx") else read_cubin
    record = {
        "module": launch.kernel.__module__,
        "kernel": launch.kernel.__name__,
        "target": target,
        "warps": launch.num_warps,
        "shared": compiled.metadata.shared,
        "int32_products": len(re.findall(r"arith\.muli [^\n]*: tensor<[^>]*xi32>", compiled.asm["ttir"])),
        **read(compiled.asm),
    }
    return record | {"occupancy": occupancy(record)}


def compile_kernel(launch: gpu.Launch, target: str) -> Any:
    """Machine code, as jax-triton has it made: every array aligned to 16 bytes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    pointers = [POINTERS[array.dtype.name] for array in (*launch.arrays, *launch.outputs)]
    signature = dict(zip(launch.kernel.arg_names, pointers, strict=False)) | dict.fromkeys(
        launch.constants, "constexpr"
    )
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
    source = ASTSource(launch.kernel, signature, constexprs=dict(launch.constants), attrs=aligned)
    machine = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target[3:]), 32)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **gpu.COMPILER_OPTIONS}
    return compile(source, target=machine, options=options)


def read_cubin(asm: dict[str, Any]) -> dict[str, Any]:
    """Registers, spills and instructions, by NVIDIA's tools."""
    usage = nvidia_tool("cuobjdump", "-res-usage", code=asm["cubin"])
    instructions = nvidia_tool("nvdisasm", "-c", code=asm["cubin"])
    counts = Counter(re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z][\w.]*)", instructions, re.M))
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spilled_bytes": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "local_instructions": total(counts, r"(LDL|STL)\b"),
        "tensor_core_instructions": total(counts, r"\w*(MMA)\b"),
        "global_accesses": total(counts, r"(LDG|STG|LDGSTS|UTMALDG|UTMASTG)\b"),
        "wide_global_accesses": total(counts, r"(LDG|STG|LDGSTS)\..*128|UTMALDG|UTMASTG"),
        "bytes": len(asm["cubin"]),
    }


def read_hsaco(asm: dict[str, Any]) -> dict[str, Any]:
    """Registers, spills and instructions, from the assembly and its notes."""
    text = asm["amdgcn"]
    notes = {key: int(value) for key, value in re.findall(r"\.(\w+_count):\s+(\d+)", text)}
    counts = Counter(re.findall(r"^\s+([vsd]_\w+|(?:global|buffer|scratch)_\w+)", text, re.M))
    return {
        "registers": notes["vgpr_count"] + notes.get("agpr_count", 0),
        "spilled_bytes": 4 * (notes["vgpr_spill_count"] + notes["sgpr_spill_count"]),
        "local_instructions": total(counts, r"scratch_"),
        "tensor_core_instructions": total(counts, r"v_mfma"),
        "global_accesses": total(counts, r"(global|buffer)_(load|store)"),
        "wide_global_accesses": total(counts, r"(global|buffer)_(load|store)_dwordx4"),
        "bytes": len(asm["hsaco"]),
    }


def total(counts: Counter[str], pattern: str) -> int:
    """How many instructions match."""
    return sum(count for name, count in counts.items() if re.match(pattern, name))


def nvidia_tool(name: str, *options: str, code: bytes) -> str:
    """What a tool from Triton's package prints about machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return subprocess.run([tool, *options, file.name], capture_output=True, text=True, check=True).stdout


def occupancy(record: dict[str, Any]) -> float:
    """The part of the warps a multiprocessor can hold that run at once, by registers and shared memory."""
    limits = LIMITS[record["target"]]
    registers = -(-record["registers"] // limits.granularity) * limits.granularity
    by_registers = limits.units * min(limits.registers // registers, limits.warps // limits.units) // record["warps"]
    by_shared = limits.shared // (record["shared"] + limits.reserved) if record["shared"] + limits.reserved else 1 << 30
    return min(by_registers, by_shared) * record["warps"] / limits.warps


def table(records: list[dict[str, Any]]) -> str:
    """In Markdown, a row for every launch, its targets beside each other."""
    lines = ["| case, kernel | target | registers | spills | shared | occupancy | matrix | wide/global |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    lines += list(rows(records))
    return "\n".join(lines)


def rows(records: list[dict[str, Any]]) -> Iterator[str]:
    """One for every record; the kernel is named once."""
    previous = None
    for x in records:
        name = f"{x['case']}, `{x['kernel']}`"
        yield (
            f"| {'' if name == previous else name} | {x['target']} | {x['registers']} | {x['spilled_bytes']} "
            f"| {x['shared']} | {x['occupancy']:.0%} | {x['tensor_core_instructions']} "
            f"| {x['wide_global_accesses']}/{x['global_accesses']} |"
        )
        previous = name


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    main()
