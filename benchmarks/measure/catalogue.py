"""Fills the catalogue's table of shares of the floor: python -m benchmarks.measure.catalogue [FILE].

FILE is what pytest-benchmark writes for bench_*.py (--benchmark-json), that of tools/bench by default.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pjax_kernels as pk
from benchmarks import RESULTS, ROOT
from pjax_kernels.implementation import NAMES

CATALOGUE = ROOT / "kernels" / "README.md"
MEASURED = RESULTS / "bench" / "bench.json"
BEGIN, END = (f"<!-- shares of the floor: {edge} -->\n" for edge in ("begin", "end"))


def table(benchmarks: list[dict[str, Any]], machine: str) -> str:
    """The rows of the fast implementations of public kernels, in the order of the measurements."""
    lines = [f"Measured on {machine}.", "", "| kernel, size, dtype | implementation | time | GB/s | share |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        implementation = info.get("contender")
        if info.get("subject") not in pk.__all__ or implementation not in NAMES or implementation == "reference":
            continue
        milliseconds = 1e3 * benchmark["stats"]["median"]
        figures = f"{milliseconds:.3g} ms | {info['GB/s']:.3g} | {info['share_of_floor']:.0%}"
        lines.append(f"| {benchmark['group']} | {implementation} | {figures} |")
    if len(lines) == 4:
        raise ValueError("the file holds no measurement of a public kernel; pass what bench_*.py wrote")
    return "\n".join(lines) + "\n"


def filled(catalogue: str, content: str) -> str:
    """The catalogue with ``content`` between its marks."""
    if catalogue.count(BEGIN) != 1 or catalogue.count(END) != 1:
        raise ValueError(f"the catalogue must hold {BEGIN.strip()} and {END.strip()} once each")
    before, rest = catalogue.split(BEGIN)
    return before + BEGIN + content + END + rest.split(END)[1]


def main() -> None:
    """Read the file, write the catalogue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=MEASURED)
    measured = json.loads(parser.parse_args().file.read_text())
    machine = measured["machine_info"]
    named = "{platform}, {cores} cores of {cpu}, jax {jax}, {date:.10}".format_map(machine)
    CATALOGUE.write_text(filled(CATALOGUE.read_text(), table(measured["benchmarks"], named)))


if __name__ == "__main__":
    main()
