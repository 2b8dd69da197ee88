"""The README's Python runs, and what the pages link to is there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pjax_core as pj

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_readme_has_snippets() -> None:
    assert len(SNIPPETS) == 4


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str) -> None:
    names: dict[str, Any] = {}
    exec(snippet, names)
    if "accuracy" in names:
        assert np.asarray(names["accuracy"]) > 0.9
    elif "solution" in names:
        violation = pj.margin_loss(pj.evaluate(names["net"], names["solution"].params, names["x"]), names["y"])
        assert violation < 1e-3
    elif "search" in names:
        np.testing.assert_array_equal(names["search"].network(names["weights"], names["x"]), names["y"])
    else:
        assert names["losses"][-1] < 0.2 * names["losses"][0]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md"])
def test_links_to_files(page: str) -> None:
    path = README.parent / page
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link.split("#")[0]).exists()]
    assert not missing
