"""The tables in the texts are those that the declarations and the results give."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import RESULTS, ROOT, tables
from benchmarks.catalogue import DOT_PRODUCTS, ENTRIES, FORMS
from benchmarks.train.__main__ import make_parser, read_settings
from benchmarks.train.paper import RUNS
from pjax_kernels.kernel import declared


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_text_has_the_tables_that_the_command_writes(page: Path) -> None:
    """Else: tools/tables."""
    assert page.read_text() == tables.filled(page.read_text())


def test_every_table_has_its_place_and_every_place_ends() -> None:
    text = "".join(page.read_text() for page in tables.PAGES)
    assert {place[1] for place in tables.PLACE.finditer(text)} == set(tables.TABLES)
    assert len(tables.PLACE.findall(text)) == text.count("<!-- table: ") == text.count("<!-- end of table -->")


@pytest.mark.parametrize("page", ["README.md", "kernels/README.md"])
def test_no_table_is_written_by_hand(page: str) -> None:
    assert "| --- |" not in tables.PLACE.sub("", (ROOT / page).read_text())


def test_the_catalogue_has_every_kernel_that_is_declared() -> None:
    assert set(ENTRIES) == set(declared())


def test_every_kernel_of_dot_products_has_its_map_and_form() -> None:
    named = {name for kernels in DOT_PRODUCTS.values() for name in kernels}
    solving = {
        name for name, entry in ENTRIES.items() if re.match(r"[^;]*(\bx w|a \. b|u \. v|conv\(|F\()", entry.constraint)
    }
    assert named == {name for name in solving if "threshold" not in name}
    assert {len(kernels) for kernels in DOT_PRODUCTS.values()} == {len(FORMS)}


def test_a_wrong_figure_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text.\n<!-- table: truncation -->\n| error |\n| --- |\n| 0 |\n<!-- end of table -->\nText.\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PAGES", (page,))
    assert tables.main(["--check"]) == 1
    assert "| 0 |" in page.read_text()
    assert tables.main([]) == 0
    assert capsys.readouterr().out == "page.md differs\npage.md written\n"
    assert page.read_text().startswith("Text.\n<!-- table: truncation -->\n| network | history |")
    assert re.search(r"\n\| 784-32-10 \| 1 \| 2e-04 \|.*<!-- end of table -->\nText.\n$", page.read_text(), re.DOTALL)
    assert tables.main(["--check"]) == 0


def test_tables_of_a_step_say_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "SGD", "batch": 8, "single_ms": 2.0, "scan_ms": 1.0, "memory_bytes": 2**20},
        {"name": "naive AP", "batch": 8, "single_ms": 300.0, "scan_ms": 100.0, "memory_bytes": 3 * 2**20},
        {"name": "SGD", "batch": 4, "single_ms": 1.0, "scan_ms": 0.5, "memory_bytes": 2**19},
    ]
    for row in rows:
        row |= {"single_ratio": row["single_ms"] / 2, "scan_ratio": row["scan_ms"], "memory_ratio": 3.0}
    machine = {"date": "2026-01-02T03:04", "cores": 2, "cpu": "CPU", "jax": "0.10", "platform": "cpu"}
    monkeypatch.setattr(tables, "data_of", lambda name: machine | {"sizes": [4, 3, 2], "rows": rows})
    assert tables.steps_of("compare_cpu.json").splitlines() == [
        "| 4-3-2, batch 8 | one call | in a scan | memory |",
        "| --- | --- | --- | --- |",
        "| SGD by `jax.grad` | 2 ms (1) | 1 ms (1) | 1 MiB (3) |",
        "| stored copies, AP | 300 ms (150) | 100 ms (100) | 3 MiB (3) |",
        "",
        "2026-01-02, 2 cores of CPU, jax 0.10 on cpu.",
    ]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_paper_is_a_command_and_has_its_curve(name: str) -> None:
    parser = make_parser()
    settings = read_settings(parser, parser.parse_args(shlex.split(RUNS[name].arguments)))
    assert (settings.adam is not None) == name.endswith("_adam")
    last = tables.rows_of(f"{name}/learning_curve.csv")[-1]
    assert int(last["update"]) == settings.updates
    assert (RESULTS / name / "learning_curve.png").exists()
