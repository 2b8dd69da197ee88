"""Fewer rows than a product of settings, for what depends on two of them at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def pairwise(*settings: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows of one value of each setting, such that any values of two settings occur together in one of them.

    Always the same rows: each is the first of those with most pairs that are in no row before.
    """
    products = list(itertools.product(*map(range, map(len, settings))))
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in products}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        row = max(products, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[row]
        chosen.append(row)
    return [tuple(values[i] for values, i in zip(settings, row, strict=True)) for row in sorted(chosen)]
