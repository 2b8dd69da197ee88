"""The catalogue's table of shares of the floor, from a file of measurements."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import catalogue


def measurement(subject: str, contender: str, median: float = 0.002) -> dict[str, Any]:
    info = {"subject": subject, "contender": contender, "GB/s": 3.456, "share_of_floor": 0.371}
    return {"group": f"{subject} small, float32", "stats": {"median": median}, "extra_info": info}


MEASURED = [
    measurement("project_dense", "gradients"),
    measurement("project_dense", "reference"),
    measurement("project_dense", "xla"),
    measurement("AP step", "xla"),
    measurement("project_max", "triton", 1.5),
]


def test_rows_of_fast_implementations() -> None:
    text = catalogue.table(MEASURED, "two cores")
    assert "Measured on two cores." in text
    assert text.splitlines()[4:] == [
        "| project_dense small, float32 | xla | 2 ms | 3.46 | 37% |",
        "| project_max small, float32 | triton | 1.5e+03 ms | 3.46 | 37% |",
    ]


def test_a_file_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="no measurement of a public kernel"):
        catalogue.table(MEASURED[:2], "two cores")


def test_only_what_is_between_the_marks_changes() -> None:
    old = Path(catalogue.CATALOGUE).read_text()
    new = catalogue.filled(old, "some rows\n")
    assert catalogue.filled(new, "other rows\n") == new.replace("some rows", "other rows")
    before, after = old.split(catalogue.BEGIN)[0], old.split(catalogue.END)[1]
    assert new == before + catalogue.BEGIN + "some rows\n" + catalogue.END + after
    with pytest.raises(ValueError, match="once each"):
        catalogue.filled(old.replace(catalogue.END, ""), "some rows\n")
