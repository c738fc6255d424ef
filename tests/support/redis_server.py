"""A Redis server from Debian's package `redis-server`."""

import socket
import subprocess
import time
from pathlib import Path

import redis

from tests.support.programs import program

VARIABLE = "FLASK_APIKEY_TEST_REDIS"
TIMEOUT = 30


class RedisServer:
    """A Redis server without persistence. It keeps its port when it is stopped and started again.

    Args:
        directory: The directory for its files.

    Attributes:
        port: The port on 127.0.0.1.
        uri: The URI.
    """

    def __init__(self, directory: Path) -> None:
        self._program = program(VARIABLE, "redis-server")
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._directory, "save": "", "appendonly": "no"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *arguments], stdin=subprocess.DEVNULL, stdout=log)
        deadline = time.monotonic() + TIMEOUT
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert self._process.poll() is None, "redis-server exited"
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.02)
                else:
                    return

    def stop(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait()
