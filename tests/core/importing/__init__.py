"""Copies from one storage to another."""
