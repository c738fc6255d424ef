"""Checks on each request."""
