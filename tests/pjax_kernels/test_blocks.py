"""Which blocks a Triton kernel gets: of the table where it has them, and others that are safe."""

from typing import Any

import pytest

from pjax_kernels import blocks, gpu

SIZES = {"TILE": 32, "ENTRIES": 256, "INNER": 16, "num_warps": 2, "num_stages": 4}
ENTRY = {"chip": "a chip", "kernel": "dense", "numbers": "tf32", "shape": [1, 256, 1024, 256], "blocks": SIZES}


@pytest.fixture(autouse=True)
def one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "table", lambda: [ENTRY])
    monkeypatch.setattr(gpu, "chip", lambda: "a chip")


@pytest.mark.parametrize("shape", [(1, 256, 1024, 256), (1, 129, 784, 200)])
def test_shapes_share_an_entry_up_to_powers_of_two(shape: tuple[int, ...]) -> None:
    assert blocks.find("dense", shape, "tf32") == SIZES


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": "dense, XLA's product"},
        {"numbers": "tf32x3"},
        {"shape": (1, 256, 1024, 257)},
        {"shape": (2, 256, 1024, 256)},
    ],
)
def test_nothing_else_does(change: dict[str, Any]) -> None:
    asked = {"kernel": "dense", "shape": (1, 256, 784, 256), "numbers": "tf32"} | change
    assert blocks.find(**asked) == blocks.DEFAULTS[asked["kernel"]](asked["shape"], asked["numbers"])


def test_nor_another_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "chip", lambda: "another chip")
    assert blocks.find("dense", (1, 256, 784, 256), "tf32") != SIZES


def test_what_is_found_may_be_changed() -> None:
    blocks.find("dense", (1, 256, 784, 256), "tf32").pop("TILE")
    assert blocks.find("dense", (1, 256, 784, 256), "tf32") == SIZES


LENGTHS = {
    "bilinear": 2,
    "bilinear, long rows": 2,
    "threshold": 3,
    "threshold, many entries": 3,
    "max": 2,
    "dense copies": 3,
    "factored": 5,
}
"""Of the shapes that kernels ask for; others have four axes."""


@pytest.mark.parametrize("numbers", ["float32", "float64", "bf16x6"])
@pytest.mark.parametrize("kernel", blocks.DEFAULTS)
def test_defaults_are_powers_of_two(kernel: str, numbers: str) -> None:
    for shape in ((1, 0, 0, 0, 1), (1, 3, 5, 7, 4), (8, 4096, 1000, 2048, 16)):
        sizes = blocks.DEFAULTS[kernel](shape[: LENGTHS.get(kernel.split(", XLA")[0], 4)], numbers)
        anything = {"num_stages", "ROWS", "COLUMNS"} if kernel == "dense copies" else {"num_stages"}
        powers = [size for name, size in sizes.items() if name not in anything]
        assert all(size >= 1 and size & (size - 1) == 0 for size in powers)


def test_the_table_names_the_sizes_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for entry in blocks.table():
        shape = tuple(entry["shape"])
        assert set(entry["blocks"]) == set(blocks.DEFAULTS[entry["kernel"]](shape, entry["numbers"]))
        assert entry["shape"] == blocks.rounded_up(shape)
