"""The Python of README and docs runs, and what the pages link to is there."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pjax_core as pj

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("kernels/*.md")), *DOCS]


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.fixture(scope="module")
def readme() -> dict[str, Any]:
    """Its snippets, of which each goes on from the first."""
    return run("\n".join(snippets("README.md")))


def test_pages_have_the_snippets_that_are_checked_here() -> None:
    counts = {str(page.relative_to(ROOT)): len(snippets(str(page.relative_to(ROOT)))) for page in PAGES}
    ours = {name: count for name, count in counts.items() if count and not name.startswith("kernels")}
    assert ours == {"README.md": 4, "docs/algorithms.md": 1, "docs/networks.md": 1, "docs/training.md": 2}


def test_readme_fits() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_first_network_learns(readme: dict[str, Any]) -> None:
    assert np.asarray(readme["accuracy"]) > 0.9


def test_an_optimiser_learns_along_directions(readme: dict[str, Any]) -> None:
    assert readme["losses"][-1] < 0.2 * readme["losses"][0]


def test_kernels_project_a_layer(readme: dict[str, Any]) -> None:
    h, w, wanted = readme["h"], readme["start"]["w1"], readme["wanted"]
    before = np.linalg.norm(h @ w - wanted)
    assert np.linalg.norm(readme["new_h"] @ readme["new_w1"] - readme["new_logits"]) < before
    assert (np.sum(jax.nn.softmax(wanted) * readme["y"], axis=1) > 0.5).all()


def test_sum_and_carry_are_found() -> None:
    names = run(snippets("docs/algorithms.md")[0])
    network, bits, found = names["network"], names["bits"], names["found"]
    assert np.all(found.info.solved)
    for start in range(16):
        integers = network.rounded([w[start] for w in found.params], bits)
        np.testing.assert_array_equal(network(integers, bits), names["sums"])


def test_the_circuit_found_is_right(readme: dict[str, Any]) -> None:
    outputs = readme["search"].network(readme["weights"], readme["bits"])
    np.testing.assert_array_equal(outputs, readme["exclusive_or"])


def test_an_operation_of_ones_own_is_projected_onto() -> None:
    names = run(snippets("docs/networks.md")[0])
    violation = pj.margin_loss(pj.evaluate(names["net"], names["solution"].params, names["x"]), names["y"])
    assert violation < 1e-3


def test_losses_of_several_kinds_have_the_direction_of_their_sum() -> None:
    names = run(snippets("docs/training.md")[0])
    params, data = names["params"], (names["x"], names["noise"], 0.001)
    (value, aux), gradient = jax.value_and_grad(names["autoencoder"], has_aux=True)(params, *data)
    np.testing.assert_allclose(names["value"], value, rtol=1e-5)
    np.testing.assert_allclose(names["aux"]["codes"], aux["codes"], rtol=1e-5, atol=1e-5)
    for one, other in zip(jax.tree.leaves(names["direction"]), jax.tree.leaves(gradient), strict=True):
        assert np.linalg.norm(one - other) < 0.3 * np.linalg.norm(other)


def test_a_layer_learns_by_its_kernel() -> None:
    losses = run(snippets("docs/training.md")[1])["losses"]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).exists()]
    assert not missing
