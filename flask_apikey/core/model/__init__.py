"""Values and records, without I/O."""
