"""``z = x_1 + ... + x_n``, the identity for one input."""
