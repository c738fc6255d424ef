"""The SQL backend."""
