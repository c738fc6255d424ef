"""Pages on which customers manage their own keys."""
