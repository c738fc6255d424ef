"""SQL and MongoDB."""
