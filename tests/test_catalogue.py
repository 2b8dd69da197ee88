"""The kernels' catalogue has an entry for every public kernel, and its examples run."""

import re
from pathlib import Path
from typing import Any

import pytest

import pjax_kernels as pk
from pjax_kernels.implementation import NAMES
from pjax_kernels.kernel import declared

CATALOGUE = (Path(__file__).parent.parent / "kernels" / "README.md").read_text()
KERNELS = declared()
PREAMBLE, *_ = re.findall(r"```python\n(.*?)```", CATALOGUE, flags=re.DOTALL)
ENTRIES = {
    name: re.findall(r"```python\n(.*?)```", entry, flags=re.DOTALL)
    for name, entry in re.findall(r"^#### `(\w+)`\n(.*?)(?=^##)", CATALOGUE, flags=re.DOTALL | re.MULTILINE)
}


def test_every_public_kernel_has_an_entry_and_a_row() -> None:
    assert sorted(ENTRIES) == sorted(KERNELS)
    assert sorted(KERNELS) == sorted(name for name in pk.__all__ if name.startswith(("project_", "prox_")))


def test_the_rows_name_the_implementations_declared() -> None:
    rows = re.findall(r"^\| `(pro\w+)` \|.*\| ((?:\w+, )*\w+) \|[^|\n]*\|$", CATALOGUE, flags=re.MULTILINE)
    implementations = {name: [n for n in NAMES if n in kernel.implementations] for name, kernel in KERNELS.items()}
    assert {name: row.split(", ") for name, row in rows} == implementations


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_example_of_a_kernel_runs(kernel: str) -> None:
    (example,) = ENTRIES[kernel]
    assert len(example.splitlines()) <= 5
    assert f"pk.{kernel}(" in example
    assert "assert " in example
    names: dict[str, Any] = {}
    exec(PREAMBLE, names)
    exec(example, names)
