"""Importing keys of other systems from files."""
