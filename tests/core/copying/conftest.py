"""Two storages and the command that copies from one to the other."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.samples import NOW, stored_key


@pytest.fixture
def source_uri(tmp_path):
    return f"sqlite:///{tmp_path}/source.db"


@pytest.fixture
def target_uri(sql_uri):
    return sql_uri


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
def keys(ring):
    return [
        replace(
            stored_key(name=f"key {number}", created_at=NOW + timedelta(microseconds=number // 2)),
            seal=ring.seal(SealedSecrets((os.urandom(32),))),
        )
        for number in range(12)
    ]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr("flask_apikey.core.copying.keys._PAGE", 5)


@pytest.fixture
def copy(make_app, source_uri, target_uri):
    app = make_app(APIKEY_STORAGE_URI=source_uri)
    APIKeys(app)

    def copy(*options):
        return app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri, *options])

    return copy
