"""Two-dimensional convolution in consensus form."""
