"""The example application in processes of its own, and requests to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "example_app"
TIMEOUT = 60


@dataclass(frozen=True)
class Answer:
    """A response.

    Attributes:
        status: The HTTP status.
        headers: The HTTP headers.
        body: The JSON document, or the text of another content type.
        started_at: The start of the request, by the monotonic clock.
    """

    status: int
    headers: HTTPMessage
    body: Any
    started_at: float

    @property
    def verdict(self) -> str:
        """The ``code`` of a problem; ``"ok"`` for a success."""
        return "ok" if self.status < 400 else self.body["code"]


@dataclass(frozen=True)
class Server:
    """A server process that accepts connections.

    Attributes:
        port: The port on 127.0.0.1.
        log: The file with the output.
        process: The process that was started.
    """

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(encoding="utf-8")

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end of the process."""
        self.process.send_signal(by)
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> Answer:
        """Send one request over a new connection."""
        started_at = time.monotonic()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_subtype() in {"json", "problem+json"}
        return Answer(
            response.status, response.headers, json.loads(content) if is_json else content.decode(), started_at
        )

    def get(self, path: str, key: str) -> Answer:
        """Send a GET request with a key."""
        return self.request("GET", path, headers={"Authorization": f"Api-Key {key}"})


class Site:
    """A copy of the example, with an instance folder of its own.

    Args:
        directory: The directory for the copy.
        environment: Settings of the example, as environment variables.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        shutil.copytree(EXAMPLE, directory / EXAMPLE.name, ignore=shutil.ignore_patterns("__pycache__"))
        self.directory = directory
        # The example would read other FLASK_ variables as settings.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
        self.environment = {**inherited, "PYTHONUNBUFFERED": "1", **(environment or {})}

    @property
    def instance(self) -> Path:
        """The instance folder."""
        return self.directory / "instance"

    def flask(self, *arguments: str) -> str:
        """Run a ``flask`` command, and return its output."""
        command = [sys.executable, "-m", "flask", "--app", EXAMPLE.name, *arguments]
        return self.run(command)

    def apikey(self, *arguments: str) -> Any:
        """Run a ``flask apikey`` command, and return its JSON output."""
        return json.loads(self.flask("apikey", *arguments, "--json"))

    def run(self, command: list[str]) -> str:
        """Run a command, and return its output."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, *arguments: str, port: int | None = None) -> Iterator[Server]:
        """Serve with ``python -m`` and these arguments, where ``{port}`` stands for the port."""
        with running([sys.executable, "-m", *arguments], self.directory, self.environment, port=port) as server:
            yield server


@contextmanager
def running(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], *, port: int | None = None
) -> Iterator[Server]:
    """Start a server, where ``{port}`` in its command stands for the port, and stop it on exit."""
    port = spare_port() if port is None else port
    log = directory / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [argument.replace("{port}", str(port)) for argument in command],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(port, log, process)
    try:
        wait_until_it_accepts(process, server)
        yield server
    finally:
        server.stop()


def spare_port() -> int:
    """Return a port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_accepts(process: subprocess.Popen[bytes], server: Server) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"the server exited with {process.returncode}:\n{server.output}"
            assert time.monotonic() < deadline, f"the server does not accept connections:\n{server.output}"
            time.sleep(0.02)
        else:
            return
