"""The projections in NumPy and mpmath, written from their definitions and sharing nothing with the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import mpmath
import numpy as np

Array = np.ndarray

PRECISION = 800
"""Bits: the sums and products of the tests' inputs are exact in mpmath."""

ACCURACY = 200
"""Bits of the root, and of its distances from 1 and -1."""


def bilinear_root(p: mpmath.mpf, q: mpmath.mpf, z: mpmath.mpf) -> mpmath.mpf:
    """The root in [-1, 1] of the textbook f; an end of the interval where f does not change sign inside."""
    q = max(q, 2 * abs(p))
    plus, minus = (q + 2 * p) / 4, (q - 2 * p) / 4

    def f(t: mpmath.mpf) -> mpmath.mpf:
        from_plus = plus / (1 - t) ** 2 if plus else plus
        from_minus = minus / (1 + t) ** 2 if minus else minus
        return from_plus - from_minus + t - z

    def slope(t: mpmath.mpf) -> mpmath.mpf:
        return (2 * plus / (1 - t) ** 3 if plus else plus) + (2 * minus / (1 + t) ** 3 if minus else minus) + 1

    low, high = mpmath.mpf(-1), mpmath.mpf(1)
    if not plus and f(high) <= 0:
        return high
    if not minus and f(low) >= 0:
        return low
    # Newton's method, and bisection where it would leave the interval that holds the root.
    t = mpmath.mpf(0)
    while value := f(t):
        low, high = (low, t) if value > 0 else (t, high)
        step = value / slope(t)
        if abs(step) <= mpmath.ldexp(min(abs(t), 1 - abs(t)), -ACCURACY):
            break
        t = t - step if low < t - step < high else (low + high) / 2
    return t


def bilinear_changes(a: Array, b: Array, z: Array) -> tuple[Array, Array, Array]:
    """The changes of ``a`` (rows, N), ``b`` (rows, N) and ``z`` (rows,) that lead to the nearest point."""
    with mpmath.workprec(PRECISION):
        rows = [_bilinear_row(*row) for row in zip(a.tolist(), b.tolist(), z.tolist(), strict=True)]
    return tuple(np.array(part, np.float64) for part in zip(*rows, strict=True))  # type: ignore[return-value]


def _bilinear_row(a: list[float], b: list[float], z: float) -> tuple[list[float], list[float], float]:
    a, b = [mpmath.mpf(x) for x in a], [mpmath.mpf(x) for x in b]
    sums, differences = [x + y for x, y in zip(a, b, strict=True)], [x - y for x, y in zip(a, b, strict=True)]
    plus, minus = sum(x * x for x in sums) / 4, sum(x * x for x in differences) / 4
    t = bilinear_root(plus - minus, 2 * (plus + minus), mpmath.mpf(z))

    sums = [x / (1 - t) if plus else x for x in sums]
    differences = [x / (1 + t) if minus else x for x in differences]
    # Where the projection is set-valued, the part of length zero must grow to reach z' = z - t.
    missing = z - t - (sum(x * x for x in sums) - sum(x * x for x in differences)) / 4
    if not plus and t == 1:
        sums = [2 * mpmath.sqrt(missing / len(a))] * len(a)
    if not minus and t == -1:
        differences = [2 * mpmath.sqrt(-missing / len(a))] * len(a)
    new_a = [(x + y) / 2 for x, y in zip(sums, differences, strict=True)]
    new_b = [(x - y) / 2 for x, y in zip(sums, differences, strict=True)]
    return (
        [float(new - old) for new, old in zip(new_a, a, strict=True)],
        [float(new - old) for new, old in zip(new_b, b, strict=True)],
        float(-t),
    )


def dense_changes(x: Array, w: Array, z: Array) -> tuple[Array, Array, Array]:
    """The mean changes of ``x`` (B, N) and ``w`` (N, M) over explicit copies, and the change of ``z`` (B, M)."""
    batch, width = z.shape
    x_copies, w_copies = np.repeat(x, width, axis=0), np.tile(w.T, (batch, 1))
    changes = bilinear_changes(x_copies, w_copies, z.ravel())
    x_changes, w_changes = (change.reshape(batch, width, -1) for change in changes[:2])
    return x_changes.mean(axis=1), w_changes.mean(axis=0).T, changes[2].reshape(z.shape)


def sum_changes(copies: Sequence[Array], z: Array) -> tuple[list[Array], Array]:
    """The way to the hyperplane through 0 with normal (1, ..., 1, -1), for inputs of the shape of ``z``."""
    points = np.stack([*copies, z])
    normal = np.array([1.0] * len(copies) + [-1.0])
    distances = np.tensordot(normal, points, axes=1) / (normal @ normal)
    *changes, z_change = -np.multiply.outer(normal, distances)
    return changes, z_change


def sum_relu_changes(copies: Sequence[Array], z: Array) -> tuple[list[Array], Array]:
    """The nearest of three candidates: on the two half-planes, and on the edge where they meet."""
    total = sum(copies)
    on_edge = ([-total / len(copies)] * len(copies), -z)
    on_active = sum_changes(copies, z)
    on_inactive = ([np.zeros_like(z)] * len(copies), -z)
    allowed = [np.full(z.shape, True), z + on_active[1] >= 0, total <= 0]
    candidates = np.stack([np.stack([*inputs, output]) for inputs, output in (on_edge, on_active, on_inactive)])
    distances = np.where(allowed, np.sum(candidates**2, axis=1), np.inf)
    nearest = np.argmin(distances, axis=0)
    *changes, z_change = np.take_along_axis(candidates, nearest[None, None], axis=0)[0]
    return changes, z_change


def mean_over_copies(x: Array, changes: Array) -> Array:
    """The mean of ``changes`` over the elements that each element of ``x`` broadcasts to."""
    elements = np.broadcast_to(np.arange(x.size).reshape(x.shape), changes.shape)
    totals = np.bincount(elements.ravel(), weights=changes.ravel(), minlength=x.size)
    return (totals / np.bincount(elements.ravel(), minlength=x.size)).reshape(x.shape)


def cross_entropy_change(logits: Array, labels: Array, strength: float) -> Array:
    """The way to the minimiser, by Lambert's W.

    ``x + strength exp(x - L) = target`` has the solution ``strength exp(x - L) = W(strength exp(target - L))``;
    ``L`` is the number for which the exponentials add up to 1.
    """
    with mpmath.workdps(40):
        rows = zip(logits.tolist(), labels.tolist(), strict=True)
        return np.array([_cross_entropy_row(*row, mpmath.mpf(strength)) for row in rows], np.float64)


def _cross_entropy_row(logits: list[float], labels: list[float], strength: mpmath.mpf) -> list[float]:
    target = [x + strength * y for x, y in zip(logits, labels, strict=True)]

    def probabilities(log_normaliser: mpmath.mpf) -> list[mpmath.mpf]:
        exponentials = [strength * mpmath.exp(x - log_normaliser) for x in target]
        return [mpmath.lambertw(x).real / strength for x in exponentials]

    # Bounds: x is between target - strength and target.
    low = max(target) - strength
    high = max(target) + mpmath.log(len(target)) + 1
    log_normaliser = mpmath.findroot(
        lambda value: mpmath.log(sum(probabilities(value))), (low, high), solver="anderson", tol=1e-30
    )
    softmax = probabilities(log_normaliser)
    return [float(strength * (y - p)) for y, p in zip(labels, softmax, strict=True)]


def max_changes(x: Array, z: Array) -> tuple[Array, Array]:
    """The changes of ``x`` (rows, n) and ``z`` (rows,): the nearest of all sets of entries that may meet ``z``."""
    # Below the largest entry, to keep the digits of small differences.
    below, z_below = x - x.max(axis=1, keepdims=True), z - x.max(axis=1)
    best_changes, best_z, least = np.zeros_like(x), np.zeros_like(z), np.full(z.shape, np.inf)
    count = x.shape[1]
    for subset in (list(s) for size in range(1, count + 1) for s in combinations(range(count), size)):
        meeting = (z_below + np.sum(below[:, subset], axis=1)) / (len(subset) + 1)
        changes, z_change = np.zeros_like(x), meeting - z_below
        changes[:, subset] = meeting[:, None] - below[:, subset]
        allowed = np.all(np.delete(below, subset, axis=1) <= meeting[:, None], axis=1)
        distance = np.where(allowed, z_change**2 + np.sum(changes**2, axis=1), np.inf)
        nearer = distance < least
        best_changes[nearer], best_z[nearer], least[nearer] = changes[nearer], z_change[nearer], distance[nearer]
    return best_changes, best_z


def max_changes_by_count(x: Array, z: Array) -> tuple[Array, Array]:
    """The same for many entries: of all ``k``, the ``k`` largest entries (of equal ones the first) may meet ``z``."""
    rows = [_max_row_by_count(*row) for row in zip(x, z, strict=True)]
    return np.stack([changes for changes, _ in rows]).reshape(x.shape), np.array([z_change for _, z_change in rows])


def _max_row_by_count(x: Array, z: float) -> tuple[Array, float]:
    order = np.argsort(-x, kind="stable")
    below, z_below = x[order] - x.max(), z - x.max()
    counts = np.arange(1, len(x) + 1)
    meeting = (z_below + np.cumsum(below)) / (counts + 1)
    meets = np.tri(len(x), dtype=bool)
    changes = np.where(meets, meeting[:, None] - below, 0)
    allowed = np.append(below[1:], -np.inf) <= meeting
    distances = np.where(allowed, (meeting - z_below) ** 2 + np.sum(changes**2, axis=1), np.inf)
    nearest = np.argmin(distances)
    return changes[nearest][np.argsort(order)], meeting[nearest] - z_below


def max_pool_changes(
    x: Array, z: Array, window: Sequence[int], strides: Sequence[int], padding: Sequence[Sequence[int]]
) -> tuple[Array, Array]:
    """The mean changes of ``x`` (B, H, W, C) over its copies, and the changes of ``z``: one window after the other."""
    totals, counts, z_changes = np.zeros_like(x), np.zeros(x.shape), np.zeros_like(z)
    for i, j in np.ndindex(*z.shape[1:3]):
        top, left = i * strides[0] - padding[0][0], j * strides[1] - padding[1][0]
        rows = slice(max(top, 0), max(top + window[0], 0))
        columns = slice(max(left, 0), max(left + window[1], 0))
        entries = np.moveaxis(x[:, rows, columns], 3, 1)
        changes, z_change = max_changes_by_count(
            entries.reshape(-1, entries.shape[2] * entries.shape[3]), z[:, i, j].ravel()
        )
        totals[:, rows, columns] += np.moveaxis(changes.reshape(entries.shape), 1, 3)
        counts[:, rows, columns] += 1
        z_changes[:, i, j] = z_change.reshape(z[:, i, j].shape)
    return totals / np.maximum(counts, 1), z_changes


def quantize_changes(x: Array, z: Array, levels: int, scale: float) -> tuple[Array, Array]:
    """The changes of ``x`` and ``z``: of all levels, the lowest of those that are nearest together with their ``x``."""
    best, least = (np.zeros_like(x), np.zeros_like(z)), np.full(x.shape, np.inf)
    for j in range(levels):
        half = scale / (levels - 1)
        level = half * (2 * j - (levels - 1))
        low = level - half if j > 0 else -np.inf
        high = level + half if j < levels - 1 else np.inf
        changes = np.clip(x, low, high) - x, level - z
        distance = changes[0] ** 2 + changes[1] ** 2
        nearer = distance < least
        best = np.where(nearer, changes[0], best[0]), np.where(nearer, changes[1], best[1])
        least = np.where(nearer, distance, least)
    return best
