"""``z = x w`` with a deviation stored for every copy."""
