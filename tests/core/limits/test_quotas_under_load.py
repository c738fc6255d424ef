"""Quotas are exact: gunicorn with threads, workers that are restarted, many clients."""

import os
import signal
from pathlib import Path

import pytest
from flask import Flask

from flask_apikey import APIKeys
from tests.core.usage.test_usage_under_load import GUNICORN, THREADS, Clients, CountedApp
from tests.support.serving import Server

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

QUOTA = 500
REQUESTS = 700


class LimitedApp(CountedApp):
    """The application, with a key that has a quota."""

    attributes = {"quota": f"{QUOTA}/total"}  # noqa: RUF012  # declared in the base class

    def used(self) -> int:
        """Return what the storage has counted of the quota."""
        app = Flask(__name__)
        app.config.update(self._settings)
        api_keys = APIKeys(app)
        with app.app_context():
            (record,) = api_keys.list()
            quota = api_keys.limits(record.id).quota
        api_keys.close()
        assert quota is not None
        return quota.used


@pytest.fixture(autouse=True)
def _no_control_socket(tmp_path: Path) -> None:
    # Newer versions of gunicorn create one in the home directory.
    (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True\n")


def test_quota_is_exact(any_storage_uri: str, tmp_path: Path) -> None:
    check_exactness(any_storage_uri, tmp_path, THREADS)


def test_quota_is_exact_under_gevent(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    check_exactness(
        f"sqlite:///{tmp_path}/keys.db", tmp_path, (*GUNICORN, "--worker-class", "gevent", "--workers", "2")
    )


def check_exactness(uri: str, directory: Path, command: tuple[str, ...]) -> None:
    """Send more requests than the quota allows while workers are restarted, and count the accepted ones."""
    limited = LimitedApp(uri, directory)
    with limited.serving(*command) as server, Clients(server, limited.key, REQUESTS) as clients:
        clients.wait_for(QUOTA // 2)
        restart_workers(server)
    assert sum(clients.answered.values()) + clients.refused[429] + sum(clients.unanswered.values()) == REQUESTS
    assert sum(clients.answered.values()) == QUOTA, clients.refused
    assert limited.used() == QUOTA


def restart_workers(server: Server) -> None:
    """Have new workers take over from the old ones, which finish their requests."""
    os.kill(server.process.pid, signal.SIGHUP)
