"""Folding of counts while others count, on SQL databases."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import sqlalchemy as sa

from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, UsageField, UsageFilter
from flask_apikey.testing.contracts.usage import batch_of, label_of
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.uris import parse_uri
from tests.backends.test_contract import portable_backend
from tests.support.storages import MYSQL, POSTGRESQL, named_servers, new_database

MIDNIGHT = 20_000 * DAY


@pytest.mark.parametrize("make_backend", [SQLBackend, portable_backend])
@pytest.mark.parametrize("variable", named_servers(POSTGRESQL))
def test_folding_and_counting_never_deadlock(variable, make_backend, monkeypatch):
    # PostgreSQL finds a deadlock after a second, and ends one of its transactions.
    monkeypatch.setattr("flask_apikey_sql.transactions._MAX_ATTEMPTS", 1)
    with new_database(variable) as uri, closing(make_backend(uri)) as backend, ThreadPoolExecutor(5) as pool:
        backend.init_storage()
        labels = [label_of(new_id(), MIDNIGHT + hour) for hour in range(4)]

        def count(writer):
            for number in range(1, 31):
                backend.usage.add(batch_of(dict.fromkeys(labels, 1), writer=writer, number=number))

        def fold(_):
            for _ in range(30):
                backend.usage.fold(before=MIDNIGHT + DAY)

        work = [pool.submit(count, new_id()) for _ in range(3)] + [pool.submit(fold, None) for _ in range(2)]
        for each in work:
            each.result()


@pytest.mark.parametrize("variable", named_servers(MYSQL))
def test_mariadb_with_safe_updates(variable):
    with new_database(variable) as uri:
        safe = sa.create_engine(parse_uri(uri), connect_args={"init_command": "SET SESSION sql_safe_updates = 1"})
        with closing(SQLBackend(safe)) as backend:
            backend.init_storage()
            key_id = new_id()
            counts = {label_of(key_id, MIDNIGHT + hour): 2 for hour in range(DAY + 1)}
            backend.usage.add(batch_of(counts))
            assert backend.usage.fold(before=MIDNIGHT + DAY) == DAY
            assert backend.usage.sum(UsageField.KEY, UsageFilter()) == {key_id: 2 * DAY + 2}
            assert backend.usage.prune(before=MIDNIGHT + DAY) == 1
        safe.dispose()


def test_fold_of_more_rows_than_one_transaction_folds(sql_uri, monkeypatch):
    monkeypatch.setattr("flask_apikey_sql.usage._ROWS_OF_TRANSACTION", 10)
    with closing(SQLBackend(sql_uri)) as backend:
        backend.init_storage()
        key_id = new_id()
        backend.usage.add(batch_of({label_of(key_id, MIDNIGHT + hour): 1 for hour in range(DAY)}))
        assert backend.usage.fold(before=MIDNIGHT + DAY) == DAY
        assert [row.count for row in backend.usage.rows(after=None, limit=9)] == [DAY]
