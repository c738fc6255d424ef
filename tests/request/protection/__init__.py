"""Protected views."""
