"""What texts and messages tell people to install exists: this checkout, or a package that is required here."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

REQUIRED = {re.split(r"[\[<>=~; ]", line)[0] for line in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]}
OTHERS = {"libtpu"}

TEXTS = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "tools").iterdir(),
        *ROOT.glob("[!.]*/**/*.md"),
        *ROOT.glob("[!.]*/**/*.py"),
    )
    if path.is_file() and path != Path(__file__)
]


def advised(text: str) -> list[str]:
    """What is installed by the commands in a text, without quotes; options are no packages."""
    commands = re.findall(r"\bpip (?:install|download)((?: +['\"]?[-.\w\[][-.\w\[\],<>=~]*['\"]?)+)", text)
    words = [word.strip("'\"").rstrip(".,") or "." for command in commands for word in command.split()]
    return [word for word in words if not word.startswith("-")]


def exists(package: str) -> bool:
    name, extra = re.fullmatch(r"([-\w.]+)(?:\[(.*)\])?.*", package).groups()  # type: ignore[union-attr]
    return set((extra or "").split(",")) - {""} <= set(EXTRAS) if name == "." else name in REQUIRED | OTHERS


@pytest.mark.parametrize("path", [path for path in TEXTS if advised(path.read_text())], ids=lambda path: path.name)
def test_what_is_advised_exists(path: Path) -> None:
    assert [package for package in advised(path.read_text()) if not exists(package)] == []


def test_no_text_names_somebody_elses_package() -> None:
    assert [path for path in TEXTS if re.search(r"\bpjax\[|\bpip \w+ ['\"]?pjax\b", path.read_text())] == []


def test_this_would_be_found() -> None:
    assert advised("`pip install 'pjax[gpu]'`, pip install -q jax-projections.") == ["pjax[gpu]", "jax-projections"]
    assert [exists(package) for package in ("pjax[gpu]", ".[gpu]", ".[gpus]", ".", "jax-triton")] == [
        False,
        True,
        False,
        True,
        True,
    ]
