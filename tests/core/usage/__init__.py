"""Counted requests."""
