"""The check on each request."""
