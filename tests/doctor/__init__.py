"""`flask apikey doctor`."""
