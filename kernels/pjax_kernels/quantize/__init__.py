"""``z`` = the nearest to ``x`` of equally spaced levels."""
