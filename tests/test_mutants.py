"""The faults of tools/mutants.py can still be planted."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fault_has_its_text_once_and_its_tests(mutants: ModuleType) -> None:
    assert len(mutants.MUTANTS) >= 20
    for mutant in mutants.MUTANTS:
        source = (ROOT / mutant.file).read_text()
        assert mutants.planted(source, mutant) != source
        assert (ROOT / mutant.tests.split(" ")[0]).is_file()


def test_a_text_that_is_gone_is_an_error(mutants: ModuleType) -> None:
    with pytest.raises(ValueError, match="root.py has 0 times, not once"):
        mutants.planted("", mutants.MUTANTS[0])
