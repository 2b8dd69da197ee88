"""``z`` = the means, or any multiples of the sums, of windows."""
