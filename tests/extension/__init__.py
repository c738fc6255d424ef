"""The extension in applications."""
