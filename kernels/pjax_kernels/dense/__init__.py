"""``z = x w`` in consensus form."""
