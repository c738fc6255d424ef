"""Search for key strings in files and in the history of git repositories."""
