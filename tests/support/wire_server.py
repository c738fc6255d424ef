"""A MongoDB wire server from PyPI."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import ServerSelectionTimeoutError

from flask_apikey_mongodb.clients import DEFAULT_DATABASE

TIMEOUT = 60
DATABASE = "flask_apikey_tests"


class WireServer:
    """A MongoDB wire server. It keeps its port and its data when it is killed and started again.

    Args:
        directory: The directory for its files.

    Attributes:
        port: The port on 127.0.0.1.
        uri: The URI with a database.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"mongodb://127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        arguments = ["--port", str(self.port), "--storage-path", str(self._directory / "data")]
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from secantus.cli import main; main()", *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with MongoClient(self.uri, serverSelectionTimeoutMS=1000) as client:
            for _ in range(TIMEOUT):
                try:
                    client.admin.command("ping")
                except ServerSelectionTimeoutError:
                    assert self._process.poll() is None, f"the wire server exited:\n{log.read_text()}"
                else:
                    return
        raise AssertionError(f"the wire server does not answer:\n{log.read_text()}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop answering until exit, and leave all connections open."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server, as a power cut would."""
        self._process.kill()
        self._process.wait(TIMEOUT)


@contextmanager
def running_wire_server(directory: Path) -> Iterator[WireServer]:
    """Start a wire server, and kill it on exit."""
    server = WireServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def emptied(uri: str) -> str:
    """Drop the collections of this library from a database, and return its URI."""
    with MongoClient(uri, serverSelectionTimeoutMS=TIMEOUT * 1000) as client:
        database = client.get_default_database(DEFAULT_DATABASE)
        for collection in database.list_collection_names(filter={"name": {"$regex": "^flask_apikey_"}}):
            database.drop_collection(collection)
    return uri
