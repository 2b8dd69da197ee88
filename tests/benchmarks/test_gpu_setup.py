"""What a Python lacks for GPU kernels is named in one line, and comes from wheels; no registry is asked."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import setup

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def make_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", f"VERSION = '{version}'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_what_is_needed_is_what_the_package_requires() -> None:
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    bounds = dict(match.groups() for line in requirements if (match := re.match(r"([\w-]+)>=([\d.]+)", line)))
    assert bounds.items() <= setup.NEEDED.items()


@pytest.mark.parametrize(("least", "enough"), [("1", True), ("1.26", True), ("2.0", True), ("99.0", False)])
def test_releases_are_compared_as_numbers(least: str, enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "NEEDED", {"numpy": least})
    assert setup.lacking() == ([] if enough else [f"numpy>={least}"])


def test_versions_with_suffixes() -> None:
    assert [setup.numbers(version) for version in ("3.6.0+git1", "0.12.0.1", "2.5")] == [
        (3, 6, 0),
        (0, 12, 0),
        (2, 5),
    ]


def test_nothing_is_in_the_way_where_nothing_is_lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "NEEDED", {"numpy": "2.0"})
    assert setup.complete(tmp_path / "site", None) is None


def test_what_is_lacking_comes_from_wheels_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "NEEDED", {"numpy": "2.0", "not-there": "1.2"})
    obstacle = setup.complete(tmp_path / "site", None)
    assert obstacle == "it lacks not-there>=1.2; name a folder that has wheels of these by --wheels FOLDER"
    make_wheel(tmp_path / "wheels", "not-there", "1.1")
    obstacle = setup.complete(tmp_path / "site", tmp_path / "wheels")
    assert obstacle == f"it lacks not-there>=1.2, and no wheel in {tmp_path / 'wheels'} fits"
    make_wheel(tmp_path / "wheels", "not-there", "1.3", "Requires-Dist: nowhere-to-be-had\n")
    assert setup.complete(tmp_path / "site", tmp_path / "wheels") is None
    assert "1.3" in (tmp_path / "site" / "not_there.py").read_text()


def report(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "tools" / "gpu_report"), *arguments]
    variables = os.environ | {"PIP_NO_INDEX": "1", "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux alone")
def test_the_command_says_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
    """A wheel of every package that is lacking here makes it complete."""
    for requirement in setup.lacking():
        make_wheel(tmp_path / "wheels", *requirement.split(">="))
    (tmp_path / "wheels").mkdir(exist_ok=True)
    options = "--python", sys.executable, "--wheels", str(tmp_path / "wheels"), "--out", str(tmp_path / "out")
    run = report(*options, TRITON_INTERPRET="0")
    assert run.returncode == 1
    assert run.stderr == "no GPU kernel can run here: the default backend of JAX is 'cpu', not a GPU\n"
    assert not (tmp_path / "out").exists()


def test_the_command_says_in_one_line_what_is_wrong_with_its_arguments() -> None:
    runs = [report("--python", "no-such-python"), report("--speed", "3")]
    assert [run.returncode for run in runs] == [1, 2]
    assert [len(run.stderr.splitlines()) for run in runs] == [1, 1]
