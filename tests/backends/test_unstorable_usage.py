"""Counts under labels that a database cannot store."""

import os
from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sa

from flask_apikey import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import UsageField, UsageFilter
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.core.usage.labels import UNSTORABLE
from flask_apikey.testing.contracts.usage import batch_of, label_of
from flask_apikey_sql.uris import parse_uri
from tests.support.storages import MYSQL, POSTGRESQL, named_servers

GREEK, SURROGATE = "/βιβλία", "/\udcff"


@contextmanager
def latin1_database(variable):
    """Create an empty database whose text is LATIN1. Tables of MariaDB have a character set of their own."""
    uri, name = parse_uri(os.environ[variable]), f"latin1_{new_id().lower()}"
    engine = sa.create_engine(uri, isolation_level="AUTOCOMMIT")
    create = "CHARACTER SET latin1" if variable == MYSQL else "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} {create}"))
        try:
            with closing(backend_for(uri.set(database=name).render_as_string(hide_password=False))) as backend:
                backend.init_storage()
                if variable == MYSQL:
                    latin1 = "CHARACTER SET latin1 COLLATE latin1_bin"
                    connection.execute(sa.text(f"ALTER TABLE {name}.flask_apikey_usage CONVERT TO {latin1}"))
                yield backend
        finally:
            connection.execute(sa.text(f"DROP DATABASE {name}{' WITH (FORCE)' if variable == POSTGRESQL else ''}"))
    engine.dispose()


@pytest.fixture
def backend(any_storage_uri):
    with closing(backend_for(any_storage_uri)) as backend:
        backend.init_storage()
        yield backend


@pytest.fixture(params=named_servers(POSTGRESQL, MYSQL))
def latin1_backend(request):
    with latin1_database(request.param) as backend:
        yield backend


def by_endpoint(backend, **conditions):
    return dict(backend.usage.sum(UsageField.ENDPOINT, UsageFilter(**conditions)))


def require_endpoints(backend, *refused):
    key_id, writer = new_id(), new_id()
    counts = {label_of(key_id, endpoint=f"/{number}"): number for number in range(1, 20)}
    counts |= {label_of(key_id, endpoint=endpoint): 100 for endpoint in refused}
    batch = batch_of(counts, writer=writer)
    for _ in range(2):
        backend.usage.add(batch)
        assert by_endpoint(backend) == {
            **{f"/{number}": number for number in range(1, 20)},
            UNSTORABLE: 100 * len(refused),
        }
    backend.usage.add(batch_of({label_of(key_id, endpoint=refused[0]): 1}, writer=writer, number=2))
    assert by_endpoint(backend)[UNSTORABLE] == 100 * len(refused) + 1


def require_owners(backend, refused):
    key_id = new_id()
    labels = [label_of(key_id, owner=refused), label_of(key_id, method=refused), label_of(key_id, owner="ours")]
    backend.usage.add(batch_of(dict.fromkeys(labels, 5)))
    assert by_endpoint(backend, owner=UNSTORABLE) in ({UNSTORABLE: 5}, {UNSTORABLE: 10})
    assert by_endpoint(backend, owner="ours") == {labels[2].endpoint: 5}
    assert sum(by_endpoint(backend).values()) == 15


def test_endpoints_are_counted_under_a_label_that_can_be_stored(backend):
    require_endpoints(backend, SURROGATE)


def test_owners_and_methods_are_counted_under_labels_that_can_be_stored(backend):
    require_owners(backend, SURROGATE)


def test_labels_that_latin1_lacks(latin1_backend):
    require_endpoints(latin1_backend, GREEK, SURROGATE)


def test_owners_that_latin1_lacks(latin1_backend):
    require_owners(latin1_backend, GREEK)


def test_other_failures_are_not_hidden(backend):
    with pytest.raises(StorageError):
        backend.usage.add(batch_of({label_of(SURROGATE): 1}))
    assert by_endpoint(backend) == {}
