"""A backend on a SQLite file."""

from contextlib import closing

import pytest

from flask_apikey_sql import SQLBackend


@pytest.fixture
def backend(tmp_path):
    with closing(SQLBackend(f"sqlite:///{tmp_path}/keys.db")) as backend:
        backend.init_storage()
        yield backend
