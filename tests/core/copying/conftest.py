"""Two storages and the command that copies from one to the other."""

import json
import os

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.registry import backend_for
from tests.core.copying.storages import Writer


@pytest.fixture
def source_uri(tmp_path):
    return f"sqlite:///{tmp_path}/source.db"


@pytest.fixture(params=["sqlite", "FLASK_APIKEY_TEST_POSTGRESQL_URI", "FLASK_APIKEY_TEST_MYSQL_URI"])
def target_uri(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/target.db"
    uri = os.environ.get(request.param)
    if uri is None:
        pytest.skip(f"{request.param} is not set")
    backend = backend_for(uri)
    backend.init_storage()
    with backend._opened.get().engine.begin() as connection:
        for table in backend._metadata.tables.values():
            connection.execute(table.delete())
    backend.close()
    return uri


@pytest.fixture
def source(source_uri):
    yield from opened(source_uri)


@pytest.fixture
def target(target_uri):
    yield from opened(target_uri)


def opened(uri):
    backend = backend_for(uri)
    backend.init_storage()
    yield backend
    backend.close()


@pytest.fixture
def ring(fernet_key):
    return FernetKeyring(fernet_key)


@pytest.fixture
def at_source(source, ring):
    return Writer(source, ring)


@pytest.fixture
def at_target(target, ring):
    return Writer(target, ring)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr("flask_apikey.core.copying.keys._PAGE", 5)


@pytest.fixture
def copy(make_app, source_uri, target_uri):
    """Run the command."""
    app = make_app(APIKEY_STORAGE_URI=source_uri)
    APIKeys(app)

    def copy(*options):
        return app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri, *options])

    return copy


@pytest.fixture
def copied(copy):
    """Run the command successfully, and return its report."""

    def copied(*options):
        result = copy("--json", *options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return copied
