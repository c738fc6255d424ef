"""The life of a key."""
