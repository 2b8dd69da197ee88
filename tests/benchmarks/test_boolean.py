"""The studies of networks of signs: gates in words and drawn, gradients beside them, the binary perceptron."""

import csv
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_core as pj
from benchmarks.studies import boolean, directions, gallery, gates, perceptron

CIRCUIT = [
    # the constant -1, then a1, a2, a3; columns are b1, ..., b5
    np.array([[1, -1, 0, 1, 0], [1, 1, -1, 0, 1], [-1, 1, 0, 0, 1], [0, 0, 0, 0, 1]]),
    np.array([[0, 1], [1, 0], [0, 1], [0, 0], [0, 0], [0, -1]]),
]
WORDS = ["and(a1, not a2)", "or(a1, a2)", "not a1", "0", "sgn(+1 a1 +1 a2 +1 a3 +0)", "b1", "and(b2, not b5)"]


def test_gates_in_words() -> None:
    assert [line.split(" = ")[1] for line in gates.described(CIRCUIT).split("\n")] == WORDS


def test_words_say_what_the_network_computes() -> None:
    x = boolean.signs(boolean.binary(np.arange(8), 3))
    given = {f"a{i + 1}": x[:, i] > 0 for i in range(3)}
    network = pj.ThresholdNetwork((3, 5, 2), gate_inputs=3)
    b = {
        "b1": given["a1"] & ~given["a2"],
        "b2": given["a1"] | given["a2"],
        "b5": given["a1"].astype(int) + given["a2"] + given["a3"] >= 2,
    }
    wanted = np.stack([b["b1"], b["b2"] & ~b["b5"]], axis=1)
    np.testing.assert_array_equal(network(CIRCUIT, x) > 0, wanted)


def test_a_drawing_has_the_nodes_that_are_used_and_a_circle_for_each_negation() -> None:
    svg = ElementTree.fromstring(gates.drawn(CIRCUIT))
    space = "{http://www.w3.org/2000/svg}"
    labels = [text.text for text in svg.iter(f"{space}text")]
    assert labels == ["a1", "a2", "a3", "b1 &", "b2 ≥1", "b5 sgn", "c1 1", "c2 &"]
    assert len(list(svg.iter(f"{space}path"))) == 10  # 2 + 2 + 3 into b, 1 + 2 into c
    assert len(list(svg.iter(f"{space}circle"))) == 2


@pytest.mark.parametrize("name", gallery.ENTRIES)
def test_the_circuits_of_the_gallery_are_right(name: str) -> None:
    """By the plain network, with the weights on record; on held-out items too, where there are any."""
    record, task = gallery.record_of(name), boolean.TASKS[name]()
    circuit = gallery.circuit_of(record)
    assert [record["settings"]["widths"], record["settings"]["items"]] == [list(task.network.widths), len(task.y)]
    assert boolean.is_exact(task, circuit)
    assert task.held_out is None or boolean.accuracy(task, circuit) == 1
    assert (gallery.FOLDER / f"{name}.svg").read_text() == gates.drawn(circuit)


def test_a_run_of_the_gallery_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"multiplier2": gallery.Entry("2 x 2 bit multiplier", starts=16, steps=3000, until="any")}
    monkeypatch.setattr(gallery, "FOLDER", tmp_path / "gallery")
    monkeypatch.setattr(gallery, "ENTRIES", entries)
    gallery.main([])
    record = gallery.record_of("multiplier2")
    contenders = [result["contender"] for result in record["results"]]
    assert contenders == ["projections", "straight-through", "tanh, then signs"]
    assert boolean.is_exact(boolean.TASKS["multiplier2"](), gallery.circuit_of(record))
    with pytest.raises(SystemExit):
        gallery.main(["multiplier4"])


def test_gradients_may_find_free_inputs() -> None:
    words = np.array([[1, 1, -1], [1, -1, -1], [-1, 1, 1], [-1, -1, 1]], np.float32)
    task = boolean.Task(pj.ThresholdNetwork((2, 3), 2), None, words)
    found = boolean.train(task, boolean.straight_through, "straight-through", starts=4, seconds=20)
    assert found.exact > 0
    assert found.steps is not None
    assert found.steps[0] >= boolean.LOOK


def test_gradients_tell_their_accuracy_on_held_out_items() -> None:
    x = boolean.signs(np.random.default_rng(0).integers(2, size=(200, 4)))
    y = np.where(x[:, :1] + x[:, 1:2] > 0, 1, -1).astype(np.float32)
    task = boolean.Task(pj.ThresholdNetwork((4, 4, 1)), x[:100], y[:100], held_out=(x[100:], y[100:]))
    learned = boolean.train(task, boolean.straight_through, "straight-through", starts=4, seconds=2)
    guessed = boolean.train(task, boolean.straight_through, "straight-through", starts=4, seconds=0)
    assert learned.held_out is not None
    assert guessed.held_out is not None
    assert learned.exact > 0
    assert learned.held_out > 0.95
    assert guessed.held_out < learned.held_out


@pytest.mark.parametrize("contender", [perceptron.projections(0.5, 0.27), perceptron.gradients(1e-2, 3.0)])
def test_a_binary_perceptron_is_solved(contender: tuple[perceptron.Step, perceptron.Step, perceptron.Step]) -> None:
    of = perceptron.instance(51, 0.3, seed=3)
    found = perceptron.solver(contender)(of, seconds=20)
    assert found.solved
    assert found.steps > 0
    with pytest.raises(AssertionError, match="no solution"):
        perceptron.require_solution(-np.sign(np.asarray(of.x[0])), of)


def test_the_known_map_is_projected_onto_its_graph() -> None:
    of = perceptron.instance(21, 0.5, seed=0)
    w, z = jax.random.normal(jax.random.key(0), (21,)), jax.random.normal(jax.random.key(1), (10,))
    (new, *_), output = perceptron._nearest((w, of.x, of.inverse), z)
    np.testing.assert_allclose(output, of.x @ new, rtol=1e-5, atol=1e-6)
    # The way there is orthogonal to all that x maps: w moves by -x^T of what z moves by.
    np.testing.assert_allclose(new - w, -of.x.T @ (output - z), rtol=1e-4, atol=1e-5)


def test_the_study_of_perceptrons_writes_a_table_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    perceptron.main(
        ["--widths", "21", "--loads", "0.2", "0.3", "--instances", "2", "--seconds", "2", "--out", str(out)]
    )
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["projections", "straight-through", "tanh, then signs"] * 2
    assert all(0 <= int(row["solved"]) <= 2 for row in rows)
    assert out.with_suffix(".svg").read_text().count("straight-through")


@pytest.mark.parametrize("kind", ["ternary", "sparse"])
def test_weights_are_placed_in_their_sets(kind: str) -> None:
    rng = np.random.default_rng(0)
    params = {"w0": jnp.asarray(rng.normal(size=(40, 5)), jnp.float32), "b0": jnp.ones(5)}
    held = directions.placed(params, kind)
    directions.require_in_sets(held, kind)
    assert held["b0"] is params["b0"]
    counts = (held["w0"] != 0).sum(axis=0)
    assert counts.tolist() == [4] * 5 if kind == "sparse" else len(np.unique(held["w0"])) == 3
    with pytest.raises(AssertionError, match="w0 is not in its set"):
        directions.require_in_sets(params, kind)
