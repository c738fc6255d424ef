"""Checks of a configuration and a storage."""
