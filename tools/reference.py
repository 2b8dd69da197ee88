"""Builds the API reference from docstrings: python tools/reference.py [FOLDER]. Warnings are errors."""

from __future__ import annotations

import inspect
import re
import sys
import typing
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pdoc

import pjax_core
import pjax_kernels

PACKAGES = (pjax_core, pjax_kernels)
MODULES = (pjax_core.metric,)
"""What is public inside a module of its own."""


def build(folder: Path) -> None:
    """Write a page for each package, and an index."""
    for module in (*PACKAGES, *MODULES):
        for name in module.__all__:
            make_ready(getattr(module, name), pjax_core if module in MODULES else module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # pdoc's own
        pdoc.render.configure(docformat="google", show_source=False)
        names = [package.__name__ for package in PACKAGES]
        # What is public is in the packages; a module that shares its name with a function is not.
        pages = [*names, *(f"!{name}[.].+" for name in names), *(module.__name__ for module in MODULES)]
        pdoc.pdoc(*pages, output_directory=folder)


def make_ready(member: Any, package: ModuleType) -> None:
    """Turn what pdoc does not know into what it does: roles of Sphinx into names, fields of named tuples into types."""
    if not callable(member):
        return
    if isinstance(member.__doc__, str):
        member.__doc__ = linked(member.__doc__, package)
    if inspect.isclass(member) and hasattr(member, "_fields"):
        hints = typing.get_type_hints(member)
        member.__annotations__ = hints
        member.__new__.__annotations__ = hints


def linked(docstring: str, package: ModuleType) -> str:
    """The docstring with names of public members, in full, in the place of roles."""

    def name(match: re.Match[str]) -> str:
        return f"`{package.__name__}.{match[1]}`" if match[1] in package.__all__ else f"`{match[1]}`"

    return re.sub(r":\w+:`([\w.]+)`", name, docstring)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs", "api"))
