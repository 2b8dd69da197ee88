"""``z = x / sqrt(mean(x^2) + epsilon)``, of ``x`` itself or of ``x`` less its mean."""
