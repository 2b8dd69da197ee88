"""Circuits of Boolean threshold functions as gates: in words, and drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Circuit = Sequence[np.ndarray]
"""Whole weights of each layer, (1 + inputs, nodes); the first input is a constant -1."""

COLUMN, ROW, WIDTH, HEIGHT, BUBBLE = 150, 46, 58, 28, 3.5
LABELS = {"and": "&amp;", "or": "≥1", "copy": "1"}
"""As in IEC 60617."""


def simplest(circuits: Sequence[Circuit]) -> Circuit:
    """The one with the smallest weights."""
    return min(circuits, key=lambda circuit: sum(abs(matrix).sum() for matrix in circuit))


def names(circuit: Circuit) -> list[list[str]]:
    """Those of the inputs, then of the nodes of each layer: a1, a2, ..., b1, ..."""
    widths = [len(circuit[0]) - 1, *(matrix.shape[1] for matrix in circuit)]
    return [[f"{chr(ord('a') + depth)}{i + 1}" for i in range(width)] for depth, width in enumerate(widths)]


def described(circuit: Circuit) -> str:
    """A line for each node, such as ``b2 = and(a1, not a3)``."""
    layers = names(circuit)
    return "\n".join(
        f"{name} = {_expression(column.tolist(), inputs)}"
        for matrix, inputs, nodes in zip(circuit, layers[:-1], layers[1:], strict=True)
        for name, column in zip(nodes, matrix.T, strict=True)
    )


def function(weights: Sequence[int]) -> str:
    """The function of a node: 0, 1, copy, and, or, or else sgn."""
    constant, *rest = weights
    sizes = [abs(w) for w in rest if w]
    if not sizes:
        return "0" if constant > 0 else "1"
    if len(sizes) == 1 and abs(constant) < sizes[0]:
        return "copy"
    if len(set(sizes)) == 1:
        # The constant is -1: at least so many operands must be true.
        needed = (len(sizes) + constant / sizes[0]) / 2
        if needed > len(sizes) - 1:
            return "and"
        if needed <= 1:
            return "or"
    return "sgn"


def _expression(weights: list[int], inputs: Sequence[str]) -> str:
    constant, *rest = weights
    operands = [f"{'not ' if w < 0 else ''}{name}" for w, name in zip(rest, inputs, strict=True) if w]
    kind = function(weights)
    if kind == "sgn":
        terms = [f"{w:+d} {name}" for w, name in zip(rest, inputs, strict=True) if w]
        return f"sgn({' '.join(terms)} {-constant:+d})"
    if kind == "copy":
        return operands[0]
    return f"{kind}({', '.join(operands)})" if operands else kind


def drawn(circuit: Circuit) -> str:
    """An SVG of the nodes that the outputs depend on: a column for each layer, a circle where an input is negated."""
    used, places = _used(circuit), _places(circuit)
    formulas = iter(described(circuit).split("\n"))
    wires, boxes = [], []
    for depth, nodes in enumerate(names(circuit)):
        for i, name in enumerate(nodes):
            title = next(formulas) if depth else name
            if not used[depth][i]:
                continue
            kind = ""
            if depth:
                column = circuit[depth - 1][:, i]
                kind = function(column.tolist())
                wires += _wires(column[1:], places[depth - 1], places[depth][i])
            boxes.append(_box(f"{name} {LABELS.get(kind, kind)}".strip(), title, *places[depth][i]))
    width = COLUMN * len(circuit) + 2 * WIDTH
    height = ROW * max(map(len, places)) + ROW // 2
    style = "font: 13px sans-serif; text-anchor: middle; dominant-baseline: central"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" style="{style}">'
    return "\n".join([opening, '<rect width="100%" height="100%" fill="white"/>', *wires, *boxes, "</svg>", ""])


def _used(circuit: Circuit) -> list[np.ndarray]:
    """Of the inputs and of each layer, which nodes an output depends on."""
    used = [np.ones(circuit[-1].shape[1], bool)]
    for matrix in reversed(circuit):
        used.insert(0, (matrix[1:, used[0]] != 0).any(axis=1))
    return used


def _places(circuit: Circuit) -> list[list[tuple[float, float]]]:
    """The centres of all nodes; those of a layer in the order of the mean places of what they read."""
    heights = [np.arange(len(circuit[0]) - 1) + 0.5]
    for matrix in circuit:
        read = np.abs(np.sign(matrix[1:]))
        order = np.argsort(heights[-1] @ read / np.maximum(read.sum(axis=0), 1), kind="stable")
        heights.append(np.empty(len(order)))
        heights[-1][order] = np.arange(len(order)) + 0.5
    tallest = max(map(len, heights))
    return [
        [(WIDTH + COLUMN * depth, ROW * (height + 0.25 + (tallest - len(layer)) / 2)) for height in layer.tolist()]
        for depth, layer in enumerate(heights)
    ]


def _wires(weights: np.ndarray, sources: Sequence[tuple[float, float]], place: tuple[float, float]) -> list[str]:
    """A curve from each node that is read, all to places of their own at the left of the box, the highest first."""
    read = sorted(np.flatnonzero(weights).tolist(), key=lambda i: sources[i][1])
    lines = []
    for k, i in enumerate(read):
        start, begin = sources[i][0] + WIDTH / 2, sources[i][1]
        end, y = place[0] - WIDTH / 2, place[1] + HEIGHT * ((k + 1) / (len(read) + 1) - 0.5)
        if weights[i] < 0:
            end -= 2 * BUBBLE
            lines.append(f'<circle cx="{end + BUBBLE}" cy="{y:.1f}" r="{BUBBLE}" fill="white" stroke="black"/>')
        bend = (start + end) / 2
        curve = f"M{start} {begin:.1f} C{bend} {begin:.1f} {bend} {y:.1f} {end} {y:.1f}"
        lines.append(f'<path d="{curve}" fill="none" stroke="#777777"/>')
    return lines


def _box(label: str, title: str, x: float, y: float) -> str:
    corner = f'x="{x - WIDTH / 2}" y="{y - HEIGHT / 2:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="4"'
    box = f'<rect {corner} fill="#f4f6fa" stroke="#2f6db3"/>'
    return f'<g><title>{title}</title>{box}<text x="{x}" y="{y:.1f}">{label}</text></g>'
