"""``Z = F(X, W)`` with one copy of each array, in a metric: all dot products of a layer as one constraint."""
