"""Keys in any database that SQLAlchemy reaches."""

from flask_apikey_sql.backend import SQLBackend

__all__ = ["SQLBackend"]
