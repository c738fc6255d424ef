#!/usr/bin/env python3
"""Temporary database servers for the tests, from Debian's packages and from PyPI.

    python3 scripts/servers.py up                    print variables to export, serve until Ctrl-C
    python3 scripts/servers.py run -- COMMAND...     run a command with the servers, then stop them

Every server listens on a free port of 127.0.0.1 and stores its files in a
temporary directory. PostgreSQL and MariaDB refuse to run as root. If this script
runs as root, they run as the users that their packages created.

MongoDB is replaced by a server of its wire protocol: secantusdb, a package of the
`test` extra. It is looked up beside the Python that runs this script, in the .venv
of the checkout, and in PATH. It is skipped if it is not installed, because the
tests start their own.
"""

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

CHECKOUT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60
STOP_TIMEOUT = 30
USER = "flask_apikey"


class ServerError(Exception):
    """A server cannot be started. The message says why and what to do."""


class NotInstalled(ServerError):
    """The programs of a server are not installed."""


class Server(ABC):
    """Database server with its own directory.

    Args:
        directory: Directory of its files.

    Attributes:
        variable: Environment variable from which the tests read the URI.
        package: Package that contains the server.
        account: User that runs the server if this script runs as root. None means root.
        is_optional: Skip the server if it is not installed.
    """

    variable: ClassVar[str]
    package: ClassVar[str]
    account: ClassVar[str | None]
    is_optional: ClassVar[bool] = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def uri(self) -> str:
        """URI for the tests."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the data directory."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Send a request as a client.

        Returns:
            True if the server answers.
        """

    @property
    @abstractmethod
    def stop_signal(self) -> signal.Signals:
        """Signal that stops the server without waiting for its clients."""

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ServerError: The server is not installed, or does not answer in time.
        """
        self._chown(self.directory)
        self.prepare()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self._unprivileged())
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{type(self).__name__} did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def binary(self, name: str) -> str:
        """Find a program of the package.

        Raises:
            NotInstalled: The program does not exist.
        """
        # Debian keeps server programs out of PATH. Of PostgreSQL, the newest version is used.
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        path = [os.environ.get("PATH", os.defpath), "/usr/sbin", *(str(version) for version in reversed(versions))]
        found = shutil.which(name, path=os.pathsep.join(path))
        if found is None:
            raise NotInstalled(f"{name} is not installed: apt-get install {self.package}")
        return found

    def call(self, *command: str) -> None:
        """Run a program of the package.

        Raises:
            ServerError: The program failed.
        """
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **self._unprivileged()
        )
        if done.returncode:
            raise ServerError(f"{shlex.join(command)} failed:\n{done.stdout.decode(errors='replace')}")

    def succeeds(self, *command: str, environment: Mapping[str, str]) -> bool:
        """Run a client program.

        Returns:
            True if its exit status is 0.
        """
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            cwd=self.directory,
        )
        return done.returncode == 0

    def private_file(self, name: str, content: str) -> Path:
        """Create a file that only the server can read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(content)
        self._chown(path)
        return path

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def _unprivileged(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.directory, "stdin": subprocess.DEVNULL}
        if os.geteuid() == 0 and self.account is not None:
            options |= {"user": self.account, "group": self.account, "extra_groups": []}
        # Ctrl-C must reach this script only, which then stops the servers.
        return {**options, "start_new_session": True}

    def _chown(self, path: Path) -> None:
        if os.geteuid() == 0 and self.account is not None:
            shutil.chown(path, self.account, self.account)


class PostgreSQL(Server):
    """PostgreSQL without durability."""

    variable = "FLASK_APIKEY_TEST_POSTGRESQL_URI"
    package = "postgresql"
    account = "postgres"
    stop_signal = signal.SIGINT

    @property
    def uri(self) -> str:
        """URI for the tests."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        """Create the cluster, with the user of the tests as superuser."""
        password_file = self.private_file("password", self.password)
        self.call(
            self.binary("initdb"),
            f"--pgdata={self.directory / 'data'}",
            f"--username={USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self.binary("postgres"), "-D", str(self.directory / "data"), *options]

    def answers(self) -> bool:
        """Run a query as the user of the tests."""
        client = [self.binary("psql"), "--no-psqlrc", "--host=127.0.0.1", f"--port={self.port}", f"--username={USER}"]
        return self.succeeds(*client, "--command=SELECT 1", "postgres", environment={"PGPASSWORD": self.password})


class MariaDB(Server):
    """MariaDB without durability."""

    variable = "FLASK_APIKEY_TEST_MYSQL_URI"
    package = "mariadb-server"
    account = "mysql"
    stop_signal = signal.SIGTERM

    @property
    def uri(self) -> str:
        """URI for the tests."""
        return f"mysql://{USER}:{self.password}@127.0.0.1:{self.port}/flask_apikey"

    def prepare(self) -> None:
        """Create the system tables."""
        self.call(
            self.binary("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def command(self) -> list[str]:
        """Return the command, which creates the database and the user of the tests on start."""
        statements = [
            "CREATE DATABASE flask_apikey CHARACTER SET utf8mb4;",
            f"CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{self.password}';",
            f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1' WITH GRANT OPTION;",
        ]
        init_file = self.private_file("init.sql", "\n".join(statements) + "\n")
        return [
            self.binary("mariadbd"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--init-file={init_file}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=0",
        ]

    def answers(self) -> bool:
        """Run a query as the user of the tests."""
        client = [self.binary("mariadb"), "--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={self.port}"]
        return self.succeeds(
            *client, f"--user={USER}", "--execute=SELECT 1", "flask_apikey", environment={"MYSQL_PWD": self.password}
        )


class MongoDB(Server):
    """Server of MongoDB's wire protocol, without a password."""

    variable = "FLASK_APIKEY_TEST_MONGODB_URI"
    package = "secantusdb"
    account = None
    is_optional = True
    stop_signal = signal.SIGTERM

    @property
    def uri(self) -> str:
        """URI for the tests."""
        return f"mongodb://127.0.0.1:{self.port}/flask_apikey"

    def prepare(self) -> None:
        """Do nothing: the server creates its data directory."""

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        arguments = ["--host=127.0.0.1", f"--port={self.port}", f"--storage-path={self.directory / 'data'}"]
        return [self.binary("secantusd-py"), *arguments, "--sync-on-commit"]

    def answers(self) -> bool:
        """Open a connection."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def binary(self, name: str) -> str:
        """Find a program of the package.

        Raises:
            NotInstalled: The program does not exist.
        """
        path = [str(Path(sys.executable).parent), str(CHECKOUT / ".venv" / "bin"), os.environ.get("PATH", os.defpath)]
        found = shutil.which(name, path=os.pathsep.join(path))
        if found is None:
            raise NotInstalled(f"{name} is not installed: .venv/bin/pip install '.[test]'")
        return found


SERVERS: tuple[type[Server], ...] = (PostgreSQL, MariaDB, MongoDB)


@contextmanager
def running_servers() -> Iterator[dict[str, str]]:
    """Run all servers, and yield the environment variables with their URIs."""
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="flask-apikey-servers-"))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        base.chmod(0o755)
        environment = {}
        for server_class in SERVERS:
            directory = base / server_class.package
            directory.mkdir(mode=0o700)
            server = server_class(directory)
            stack.callback(server.stop)
            try:
                server.start()
            except NotInstalled as exc:
                if not server.is_optional:
                    raise
                print(f"servers.py: skipped {server_class.__name__}: {exc}", file=sys.stderr)
            else:
                environment[server.variable] = server.uri
        yield environment


def free_port() -> int:
    """Find a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def up() -> int:
    """Serve until Ctrl-C."""
    with running_servers() as environment:
        for name, value in environment.items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        print("serving until Ctrl-C", file=sys.stderr)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0


def run(command: Sequence[str]) -> int:
    """Run a command while the servers run.

    Returns:
        Exit status of the command.
    """
    with running_servers() as environment:
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main() -> int:
    """Parse the command line and run the action."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="print variables to export, serve until Ctrl-C")
    actions.add_parser("run", help="run a command with the servers").add_argument("command", nargs="+")
    arguments = parser.parse_args()
    # SIGTERM must stop the servers too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        return up() if arguments.action == "up" else run(arguments.command)
    except ServerError as exc:
        print(f"servers.py: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
