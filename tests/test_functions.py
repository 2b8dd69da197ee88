"""No function is over 60 lines, with its docstring, or 10 parameters, but for those named here, with the reason."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES, PARAMETERS = 60, 10

FILES = [
    path
    for folder in ("kernels", "pjax_core", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and (path.suffix == ".py" or path.read_bytes().startswith(b"#!/usr/bin/env python"))
]

LAUNCHED = {
    "kernels/pjax_kernels/dense/triton.py": {"_multiply_and_solve"},
    "kernels/pjax_kernels/dense_copies/triton.py": {"_project_copies"},
    "kernels/pjax_kernels/dense_factored/triton.py": {"_multiply_and_solve", "_solve"},
}
"""jax-triton gives a kernel that it launches a pointer for each array; what these call takes tuples of them."""

WITH_FORMULAS = {
    "kernels/pjax_kernels/bilinear_map_factored/api.py": {"project_bilinear_map_factored"},
    "kernels/pjax_kernels/dense_factored/api.py": {"project_dense_factored"},
    "kernels/pjax_kernels/layer/api.py": {"project_layer"},
}
"""Their docstrings write down the set by formulas, and explain many arguments; without these they are as short."""

PUBLIC = {"kernels/pjax_kernels/layer/api.py": {"project_layer"}}
"""Its settings are named, and some are given in every call: a tuple of them would be no shorter."""


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    several = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)]


def lines(function: ast.FunctionDef, *, with_docstring: bool = True) -> int:
    """From the name to the last statement."""
    assert function.end_lineno is not None
    first, has_docstring = function.body[0], ast.get_docstring(function) is not None
    assert first.end_lineno is not None
    left_out = 0 if with_docstring else has_docstring * (first.end_lineno - first.lineno + 1)
    return function.end_lineno - function.lineno + 1 - left_out


def test_there_are_functions_to_look_at() -> None:
    assert sum(len(functions(path)) for path in FILES) > 1000


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    long = {function.name for function in functions(path) if lines(function) > LINES}
    long_alone = [function.name for function in functions(path) if lines(function, with_docstring=False) > LINES]
    many = {
        function.name: parameters(function) for function in functions(path) if len(parameters(function)) > PARAMETERS
    }
    name = path.relative_to(ROOT).as_posix()
    launched, public = LAUNCHED.get(name, set()), PUBLIC.get(name, set())
    assert long_alone == []
    assert long == WITH_FORMULAS.get(name, set())
    assert set(many) == launched | public
    for function in launched:
        assert len([name for name in many[function] if not name.endswith("_ptr")]) <= PARAMETERS
