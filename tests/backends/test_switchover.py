"""Two PostgreSQL servers behind one address, and networks that drop connections without a word."""

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from flask_apikey import APIKeys, require_api_key
from flask_apikey.testing.tcp_proxy import TCPProxy
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.uris import parse_uri
from scripts.servers import NotInstalled, PostgreSQL
from tests.support.storages import MYSQL, POSTGRESQL, named_servers, new_database

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]


class ShortAges:
    """Ages of connections in seconds, instead of minutes."""

    AGE = 1.0

    def __init__(self, monkeypatch):
        for module in ("engines", "lookup_connections"):
            monkeypatch.setattr(f"flask_apikey_sql.{module}.MAX_AGE", self.AGE)

    def pass_by(self):
        time.sleep(self.AGE + 0.1)


@pytest.fixture
def ages(monkeypatch):
    return ShortAges(monkeypatch)


@pytest.fixture
def servers():
    """URIs of two servers with the same user and password."""
    base = Path(tempfile.mkdtemp(prefix="flask-apikey-switchover-"))
    base.chmod(0o755)
    pair = []
    try:
        for name in ("old", "new"):
            (base / name).mkdir(mode=0o700)
            pair.append(PostgreSQL(base / name))
            pair[-1].password = pair[0].password
            pair[-1].start()
        yield [server.uri for server in pair]
    except NotInstalled as exc:
        pytest.skip(str(exc))
    finally:
        for server in pair:
            server.stop()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(params=named_servers(POSTGRESQL, MYSQL))
def server_uri(request):
    with new_database(request.param) as uri:
        yield uri


@pytest.fixture
def serve(make_app):
    """Serve one protected view on a storage."""

    def serve(uri, **config):
        app = make_app(APIKEY_STORAGE_URI=uri, **config)
        app.api_keys = APIKeys(app)
        app.add_url_rule("/", view_func=require_api_key(lambda: "open"), endpoint="view")
        with app.app_context():
            app.api_keys.init_storage()
        return app

    return serve


def status(app, issued):
    return app.test_client().get("/", headers={"X-API-Key": issued.key}).status_code


def replicate(source, target):
    """Copy all rows, as replication does."""
    source, target = (sa.create_engine(parse_uri(uri)) for uri in (source, target))
    with source.connect() as reader, target.begin() as writer:
        for table in SQLBackend("sqlite:///:memory:")._tables:
            if rows := reader.execute(sa.select(table)).mappings().all():
                writer.execute(table.insert(), [dict(row) for row in rows])
    source.dispose()
    target.dispose()


def test_switchover_to_another_server(servers, serve, ages):
    old_uri, new_uri = servers
    with closing(TCPProxy(old_uri)) as proxy:
        app, successor = serve(proxy.uri), serve(new_uri)
        with app.app_context():
            revoked, valid = (app.api_keys.create(name=name) for name in ("revoked", "valid"))
        assert [status(app, issued) for issued in (revoked, valid)] == [200, 200]
        app.api_keys.close()
        replicate(old_uri, new_uri)
        assert [status(app, issued) for issued in (revoked, valid)] == [200, 200]

        proxy.redirect(new_uri)
        with successor.app_context():
            successor.api_keys.revoke(revoked.record.id)
        ages.pass_by()
        assert [status(app, issued) for issued in (revoked, valid)] == [401, 200]
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        assert status(successor, issued) == 200


def test_connection_that_the_network_forgot_is_not_used(server_uri, serve, ages):
    with closing(TCPProxy(server_uri)) as proxy:
        app = serve(proxy.uri)
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        assert status(app, issued) == 200
        proxy.silence()
        ages.pass_by()
        started_at = time.monotonic()
        assert status(app, issued) == 200
        with app.app_context():
            assert app.api_keys.get(issued.record.id).name == "ci"
            app.api_keys.suspend(issued.record.id)
        assert time.monotonic() - started_at < 4
        app.api_keys.close()


def test_connections_that_the_network_has_just_forgotten(server_uri, serve):
    with closing(TCPProxy(server_uri)) as proxy:
        app = serve(proxy.uri, APIKEY_STORAGE_TIMEOUT="2s")
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        with ThreadPoolExecutor(8) as pool:
            assert {*pool.map(status, [app] * 64, [issued] * 64)} == {200}
        proxy.silence()
        started_at = time.monotonic()
        assert status(app, issued) == 503
        assert time.monotonic() - started_at < 4
        # All idle connections are replaced, not only the one that was waited for.
        assert status(app, issued) == 200
        assert time.monotonic() - started_at < 4
        app.api_keys.close()
