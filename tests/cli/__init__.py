"""`flask apikey`."""
