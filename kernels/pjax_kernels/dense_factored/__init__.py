"""``z = u . v`` with copies that are combinations of a few shared vectors."""
