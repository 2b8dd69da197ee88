"""``z = f(x)`` for a scalar function ``f``."""
