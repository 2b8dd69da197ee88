"""Arrays: what their types say, what users pass in, how errors name them."""
