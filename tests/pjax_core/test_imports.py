"""The modules of pjax_core import each other downwards only, and where they begin."""

from __future__ import annotations

import ast
from pathlib import Path

import pjax_core

ROOT = Path(pjax_core.__file__).parent
MODULES = {
    ".".join(("pjax_core", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}

FOLDERS = ("arrays", "operations", "graph", "copies", "trace", "metric", "problem", "algorithms")
"""From the lowest to the highest; two are single modules."""


def height(module: str) -> int:
    """The place of a module's folder."""
    folder = module.split(".")[1] if "." in module else ""
    return FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)


def imported(node: ast.AST) -> list[str]:
    """The modules of the package that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
    else:
        return []
    return [name for name in names if name in MODULES and name != "pjax_core"]


IMPORTS = {
    name: {module for node in ast.walk(ast.parse(path.read_text())) for module in imported(node)}
    for name, path in MODULES.items()
}


def test_no_import_is_inside_a_function() -> None:
    late = [
        (name, node.lineno)
        for name, path in MODULES.items()
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert late == []


def test_there_is_no_circle() -> None:
    """Modules can be put in an order in which each comes after all that it imports."""
    remaining = dict(IMPORTS)
    while remaining:
        free = {name for name, needed in remaining.items() if not needed & remaining.keys()}
        assert free, f"these modules import each other: {sorted(remaining)}"
        remaining = {name: needed for name, needed in remaining.items() if name not in free}


def test_folders_import_those_below_them_only() -> None:
    """And what belongs to no folder stands on top of them all."""
    upwards = [(name, module) for name, needed in IMPORTS.items() for module in needed if height(module) > height(name)]
    assert upwards == []


def test_the_modules_are_found() -> None:
    assert "pjax_core.graph.nodes" in IMPORTS["pjax_core.trace.jaxpr"]
    assert {name.split(".")[1] for name in MODULES if name.count(".") > 1} == set(FOLDERS) - {"metric", "problem"}
    assert len(MODULES) > 30
