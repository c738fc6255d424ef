"""The storage contract."""
