"""Output constraints of regression: squared and absolute error, and a box."""
