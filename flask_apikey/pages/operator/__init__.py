"""Pages on which operators find, change and end keys."""
