"""Keys, decisions and the storage contract. Knows neither Flask nor a database."""
