"""What an operation holds of the copies of its inputs: nothing, their deviations, or a few terms of these.

A copy is what all copies of a value share plus its own deviation.  The shared part is an array of the value's shape;
only deviations grow with the number of copies, and the representations differ in how they keep them:

- ``Consensus``: not at all.  After each projection the mean takes the place of the copies.
- ``Dense``: one number for each element of each copy.
- ``Factored``: the deviations of dot product ``(i, j)`` are combinations of the last shared rows ``x[i]`` and
  columns ``w[:, j]``, and each of these needs one coefficient for a dot product.

Dense and Factored offer the same functions, ``start`` (no deviation), ``project`` and ``scaled``, so that an algorithm
with copies is written once.
"""
