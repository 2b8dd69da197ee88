"""Sets that values, parameters and free inputs are held in."""
