"""Applications that gunicorn serves for the benchmark `junk`."""

import os

from flask import Flask

from benchmarks import applications


def bare() -> Flask:
    """Create an application without a check."""
    return applications.bare()


def guarded() -> Flask:
    """Create an application with this extension, on the storage in the environment. It is called over plain HTTP."""
    return applications.flask_apikey(os.environ["JUNK_STORAGE_URI"], os.environ["JUNK_FERNET_KEY"], enforce_https=False)
