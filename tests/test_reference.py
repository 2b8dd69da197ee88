"""The API reference renders without a warning, and holds every public name; all of these are annotated."""

import importlib.util
import inspect
import typing
from pathlib import Path
from types import ModuleType

import pytest

import pjax_core
import pjax_kernels

SCRIPT = Path(__file__).parent.parent / "tools" / "reference.py"
PUBLIC = [(package, name) for package in (pjax_core, pjax_kernels) for name in package.__all__]
FUNCTIONS = [(package, name) for package, name in PUBLIC if inspect.isfunction(getattr(package, name))]


def test_the_reference_renders(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="the extra 'docs' is not installed")
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    reference.build(tmp_path)
    inside = [(package, getattr(package, name)) for package, name in PUBLIC]
    modules = [module for _, module in inside if inspect.ismodule(module)]
    of_modules = [(module, name) for module in modules for name in module.__all__]
    for package, name in [*(p for p in PUBLIC if getattr(*p) not in modules), *of_modules]:
        page = (tmp_path / f"{package.__name__.replace('.', '/')}.html").read_text()
        assert f'id="{name}"' in page
        assert ":func:" not in page
        assert ":class:" not in page


@pytest.mark.parametrize(("package", "name"), FUNCTIONS)
def test_public_functions_are_annotated(package: ModuleType, name: str) -> None:
    function = getattr(package, name)
    hints = typing.get_type_hints(function)
    missing = [parameter for parameter in (*inspect.signature(function).parameters, "return") if parameter not in hints]
    assert not missing


@pytest.mark.parametrize(("package", "name"), FUNCTIONS)
def test_docstrings_name_every_argument(package: ModuleType, name: str) -> None:
    """But for operations as NumPy has them, of which one line says what differs."""
    function = getattr(package, name)
    documented = (inspect.getdoc(function) or "").replace("*", "")
    parameters = inspect.signature(function).parameters
    assert documented.splitlines()[0].endswith((".", ":", ";"))
    if "Args:" in documented:
        assert all(f"    {parameter}: " in documented for parameter in parameters)
    else:
        assert documented.startswith("Deprecated: use ") or "as in NumPy" in documented or not parameters
