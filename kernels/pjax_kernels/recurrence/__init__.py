"""``z = x w_x + h w_h`` for all time steps of a recurrence, in consensus form."""
