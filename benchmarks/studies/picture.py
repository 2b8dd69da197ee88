"""Draws the README's picture: a network, its graph of constraints as the package sees it, and measured curves.

    python -m benchmarks.studies.picture

The curves are those of docs/results/mnist_algorithms_curves.csv, which algorithms.py writes.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Patch

import pjax_core as pj
from benchmarks import RESULTS
from pjax_core.graph.graph import Colour, Graph
from pjax_core.graph.nodes import Node, Operation

SIDES = {Colour.A: "#2f6db3", Colour.B: "#c8642a"}
DATA = "#6f6f6f"
NAMES = {
    "data[0]": "$x$",
    "data[1]": "$y$",
    "params['w0']": "$w_0$",
    "params['b0']": "$b_0$",
    "params['w1']": "$w_1$",
    "matmul 1": "$x \\cdot w_0$",
    "matmul 2": "$h \\cdot w_1$",
    "sum_relu": "relu(+)",
    "cross_entropy": "loss",
}
FORWARD = {
    "data[0]": (0, 1),
    "params['w0']": (1, 0),
    "matmul 1": (1, 1),
    "params['b0']": (2, 0),
    "sum_relu": (2, 1),
    "params['w1']": (3, 0),
    "matmul 2": (3, 1),
    "data[1]": (4, 0),
    "cross_entropy": (4, 1),
}
"""Where the nodes of the network stand: from left to right as it computes, what it is given below."""

COLUMNS = {
    Colour.A: ["data[0]", "params['w0']", "sum_relu", "params['w1']", "cross_entropy"],
    Colour.B: ["matmul 1", "params['b0']", "matmul 2", "data[1]"],
}


def network(params: Any, x: Any) -> Any:
    """The README's network."""
    h = jax.nn.relu(x @ params["w0"] + params["b0"])
    return h @ params["w1"]


def traced() -> Graph:
    """Its graph of constraints."""
    shapes = {"w0": (8, 64), "b0": (64,), "w1": (64, 2)}
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    data = tuple(jax.ShapeDtypeStruct((64, width), np.float32) for width in (8, 2))
    problem = pj.feasibility(lambda params, x, y: pj.cross_entropy(network(params, x), y))
    return problem.graph(params, data)


def copies(graph: Graph) -> list[tuple[Node, Operation]]:
    """A node and an operation that holds copies of it, for all pairs."""
    operations = [node for node in graph.nodes if isinstance(node, Operation)]
    return [(source, node) for node in operations for slot in node.slots for source in slot.sources]


def label(graph: Graph, node: Node) -> str:
    """The node's name, which for data is theirs alone."""
    return graph.label(node) if node in graph.nodes else node.name


def draw_nodes(axes: Axes, graph: Graph, places: dict[str, tuple[float, float]]) -> dict[str, Patch]:
    """A box for each node, in the colour of its side."""
    boxes: dict[str, Patch] = {}
    sides = {label(graph, node): SIDES[colour] for node, colour in graph.colours.items()}
    for name, (x, y) in places.items():
        colour = sides.get(name, DATA)
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour, "linewidth": 1.6}
        text = axes.text(x, y, NAMES[name], ha="center", va="center", color=colour, fontsize=11, bbox=box, zorder=3)
        patch = text.get_bbox_patch()
        assert patch is not None
        boxes[name] = patch
    return boxes


def draw_network(axes: Axes, graph: Graph) -> None:
    """What the network computes."""
    boxes = draw_nodes(axes, graph, {name: (float(x), float(y)) for name, (x, y) in FORWARD.items()})
    for pair in copies(graph):
        start, end = (label(graph, node) for node in pair)
        arrow = FancyArrowPatch(
            FORWARD[start],
            FORWARD[end],
            patchA=boxes[start],
            patchB=boxes[end],
            arrowstyle="-|>",
            mutation_scale=12,
            color="#444444",
            shrinkA=1,
            shrinkB=1,
        )
        axes.add_patch(arrow)
    axes.set(xlim=(-0.4, 4.4), ylim=(-0.7, 1.6))
    axes.set_title("A network ...", pad=14)
    axes.set_axis_off()


def draw_constraints(axes: Axes, graph: Graph) -> None:
    """The two sides, and a mark for the copies that each operation holds of what it takes in."""
    places = {
        name: (0.0 if colour is Colour.A else 1.0, 1 - (k + 0.5) / len(names))
        for colour, names in COLUMNS.items()
        for k, name in enumerate(names)
    }
    for source, consumer in copies(graph):
        start, end = (np.array(places[label(graph, node)]) for node in (source, consumer))
        axes.plot(*np.stack([start, end]).T, color="#b0b0b0", linewidth=1.2, zorder=1)
        copy = end + 0.3 * (start - end)
        colour = SIDES[graph.colours[consumer]]
        axes.plot(*copy, marker="s", markersize=6, color=colour, markeredgecolor="white", zorder=2)
    draw_nodes(axes, graph, places)
    for x, side in ((0, Colour.A), (1, Colour.B)):
        axes.text(x, 0.98, f"$P_{side.value}$", ha="center", va="bottom", color=SIDES[side], fontsize=12)
    axes.text(0.5, -0.02, "squares: copies, held by the constraint", ha="center", va="top", fontsize=8, color="#444444")
    axes.set(xlim=(-0.3, 1.3), ylim=(-0.08, 1.02))
    axes.set_title("... as two sets of constraints on copies ...", pad=14)
    axes.set_axis_off()


def draw_curves(axes: Axes, path: Path) -> None:
    """Test accuracy against training time, the mean over seeds."""
    runs = defaultdict(lambda: defaultdict(list))  # type: ignore[var-annotated]
    with path.open() as file:
        for row in csv.DictReader(file):
            runs[row["algorithm"]][int(row["update"])].append((float(row["seconds"]), float(row["test_accuracy"])))
    names = {"ap": "alternating projections", "dr": "Douglas-Rachford"}
    for (algorithm, name), style in zip(names.items(), ("--", "-"), strict=True):
        seconds, accuracy = np.array([np.mean(points, axis=0) for points in runs[algorithm].values()]).T
        axes.plot(seconds, 100 * accuracy, style, color="black", label=name, linewidth=1.6)
    axes.set(xlabel="seconds of training, 2 CPU cores", ylim=(85, 97))
    axes.set_title("... trained by projecting on A, then B", pad=14)
    axes.set_ylabel("MNIST test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def main() -> None:
    """Write results/picture.png."""
    graph = traced()
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, 3.4), width_ratios=(1.35, 0.85, 1), layout="constrained"
    )
    draw_network(left, graph)
    draw_constraints(middle, graph)
    draw_curves(right, RESULTS / "mnist_algorithms_curves.csv")
    figure.savefig(RESULTS / "picture.png", dpi=150)


if __name__ == "__main__":
    main()
