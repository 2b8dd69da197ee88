"""The iterative algorithms."""
