"""Rows of settings: every pair is in one of them."""

import itertools

from .pairs import pairwise


def test_any_two_values_are_together_in_a_row() -> None:
    settings = [("a", "b", "c"), (1, 2, 3, 4), (True, False), ("x", "y")]
    rows = pairwise(*settings)
    assert len(rows) == len(set(rows)) == 12  # no fewer can hold the pairs of the first two
    for (i, some), (j, others) in itertools.combinations(enumerate(settings), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(some, others))
    assert pairwise(*settings) == rows
