"""``z = scale x + offset`` for constants."""
