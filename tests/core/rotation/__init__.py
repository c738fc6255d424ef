"""Rotation of the Fernet key."""
