"""Counting of requests."""
