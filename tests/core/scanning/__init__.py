"""Search for leaked keys."""
