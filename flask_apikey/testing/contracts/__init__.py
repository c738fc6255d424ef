"""Contract suites for backends."""
