"""Operations that JAX has no name for."""
