"""``z = a . b`` with stored copies."""
