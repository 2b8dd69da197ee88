"""``z = max(x_1, ..., x_n)``, over axes or over the windows of images."""
