"""The storage contract and the registry of backends."""
