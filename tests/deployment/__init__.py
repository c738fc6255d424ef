"""The example application on real servers."""
