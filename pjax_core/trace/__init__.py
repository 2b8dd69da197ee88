"""From a JAX function to the graph of its constraints: by its jaxpr, one rule for each kind of equation."""
