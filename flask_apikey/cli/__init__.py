"""The ``flask apikey`` commands."""

from flask_apikey.cli.group import apikey

__all__ = ["apikey"]
