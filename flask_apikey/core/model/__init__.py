"""Values without I/O."""
