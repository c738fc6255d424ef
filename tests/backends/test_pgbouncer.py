"""Keys behind pgbouncer in transaction mode."""

import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.uris import parse_uri
from tests.support.storages import POSTGRESQL, named_servers, new_database

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

CLIENTS = 5
PROCESSES = 2
KEYS = 20
READS = 20

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = {processes}
logfile = {log}
"""


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def folder():
    # Not tmp_path, whose parents only the user of the tests can enter.
    with TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(params=named_servers(POSTGRESQL))
def pooled_uri(request, folder, unused_port):
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    with new_database(request.param) as uri:
        url = make_url(uri)
        users, settings, log = folder / "users", folder / "settings.ini", folder / "log"
        users.write_text(f'"{url.username}" "{url.password}"\n')
        settings.write_text(
            SETTINGS.format(server_port=url.port, port=unused_port, users=users, log=log, processes=PROCESSES)
        )
        account = []
        if os.geteuid() == 0:
            # pgbouncer refuses to run as root.
            account = ["--user=nobody"]
            for path in (folder, users, settings):
                shutil.chown(path, "nobody")
        process = subprocess.Popen([PGBOUNCER, "--quiet", *account, settings], stderr=subprocess.DEVNULL)
        try:
            while not listens(unused_port):
                assert process.poll() is None
            yield url.set(port=unused_port).render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait()


def load(backend):
    """Write and read keys on several connections at once, which take turns in the server's processes."""
    barrier = Barrier(CLIENTS, timeout=60)

    def work(_client):
        keys = [stored_key() for _ in range(KEYS // CLIENTS)]
        barrier.wait()
        for key in keys:
            backend.add(key)
        for _ in range(READS):
            for key in keys:
                assert backend.get(key.record.id) == key
                assert backend.find(KeyFilter(), after=None, limit=1)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


def prepared(uri):
    """The statements that are prepared in the processes of the server."""
    with ExitStack() as opened:
        # Each transaction has a process of its own.
        connections = [opened.enter_context(psycopg.connect(uri, prepare_threshold=None)) for _ in range(PROCESSES)]
        return [row for each in connections for row in each.execute("SELECT statement FROM pg_prepared_statements")]


@pytest.mark.parametrize("options", ["", "?prepare_threshold=0", "?prepare_threshold=1"])
def test_transaction_pooling(pooled_uri, options):
    with closing(SQLBackend(f"{pooled_uri}{options}")) as backend:
        backend.init_storage()
        load(backend)
        assert prepared(pooled_uri) == []


def default(url):
    return sa.create_engine(url)


def prepares_at_once(url):
    return sa.create_engine(url, connect_args={"prepare_threshold": 0})


def without_a_pool(url):
    return sa.create_engine(url, poolclass=sa.NullPool)


def creator(url):
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url.set(drivername="postgresql").render_as_string(False)),
    )


@pytest.mark.parametrize("make_engine", [default, prepares_at_once, without_a_pool, creator])
def test_transaction_pooling_on_an_engine_of_the_application(pooled_uri, make_engine):
    engine = make_engine(parse_uri(pooled_uri))
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        load(backend)
        assert prepared(pooled_uri) == []
    engine.dispose()


def test_connections_of_the_application_keep_their_threshold(pooled_uri):
    engine = sa.create_engine(parse_uri(pooled_uri), connect_args={"prepare_threshold": 7})
    with closing(SQLBackend(engine)) as backend:
        backend.init_storage()
        with engine.connect() as connection:
            assert connection.connection.dbapi_connection.prepare_threshold == 7
    engine.dispose()
