"""Checks of ``flask apikey doctor``, and of the Fernet keys at the start."""
