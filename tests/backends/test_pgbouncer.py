"""Keys behind pgbouncer in transaction mode."""

import os
import shutil
import socket
import subprocess
from contextlib import closing

import pytest
from sqlalchemy import make_url

from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from tests.support.storages import POSTGRESQL, named_servers, new_database

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

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
default_pool_size = 1
logfile = {log}
"""


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=named_servers(POSTGRESQL))
def pooled_uri(request, tmp_path, unused_port):
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    with new_database(request.param) as uri:
        url = make_url(uri)
        users, settings, log = tmp_path / "users", tmp_path / "settings.ini", tmp_path / "log"
        users.write_text(f'"{url.username}" "{url.password}"\n')
        settings.write_text(SETTINGS.format(server_port=url.port, port=unused_port, users=users, log=log))
        account = []
        if os.geteuid() == 0:
            # pgbouncer refuses to run as root.
            account = ["--user=nobody"]
            for path in (tmp_path, users, settings):
                shutil.chown(path, "nobody")
            for folder in tmp_path.parents[:2]:
                folder.chmod(0o755)
        process = subprocess.Popen([PGBOUNCER, "--quiet", *account, settings], stderr=subprocess.DEVNULL)
        try:
            while not listens(unused_port):
                assert process.poll() is None
            yield url.set(port=unused_port).render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("options", ["", "?prepare_threshold=0", "?prepare_threshold=1"])
def test_transaction_pooling(pooled_uri, options):
    uri = f"{pooled_uri}{options}"
    # Both have the same process of the server, where statements of one name cannot be prepared twice.
    with closing(SQLBackend(uri)) as backend, closing(SQLBackend(uri)) as other:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        assert all(each.get(key.record.id) == key for each in (backend, other) for _ in range(10))
