#!/usr/bin/env python3
"""Database servers for the tests, made from Debian's packages and from PyPI, and gone afterwards.

    python3 scripts/servers.py up                    print what to export, serve until Ctrl-C
    python3 scripts/servers.py run -- COMMAND...     run a command with the servers, then stop them

Every server listens on a spare port of 127.0.0.1 and keeps its files in a
temporary directory. Neither PostgreSQL nor MariaDB wants to run as root; when
this script does, they run as the users that their packages made.

In place of MongoDB runs a server of its wire protocol, the package secantusdb of
the `test` extra. It is found beside the Python that runs this script, in the
checkout's .venv and in PATH, and left out where it is not installed: the tests
start one of their own anyway.
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
    """A server cannot be had; the message says why and what to do."""


class NotInstalled(ServerError):
    """Its programs are nowhere."""


class Server(ABC):
    """A database server in a directory of its own.

    Args:
        directory: Where its files go.

    Attributes:
        variable: The environment variable that tells the tests its URI.
        package: The package that it comes from.
        account: Who it runs as when this script runs as root; None stays root.
        is_optional: Whether the others do without it where it is not installed.
    """

    variable: ClassVar[str]
    package: ClassVar[str]
    account: ClassVar[str | None]
    is_optional: ClassVar[bool] = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = spare_port()
        self.password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where the tests find it."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the data directory."""

    @abstractmethod
    def command(self) -> list[str]:
        """What serves, in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client with the password gets an answer."""

    @property
    @abstractmethod
    def stop_signal(self) -> signal.Signals:
        """What makes it stop without waiting for its clients."""

    def start(self) -> None:
        """Return when it answers.

        Raises:
            ServerError: It does not, or it is not installed.
        """
        self._give_away(self.directory)
        self.prepare()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self._unprivileged())
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{type(self).__name__} did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Return when it is gone."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def binary(self, name: str) -> str:
        """Where a program of the package is.

        Raises:
            NotInstalled: Nowhere.
        """
        # Debian keeps these out of PATH: server programs of each PostgreSQL version, newest first, and MariaDB's.
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        path = [os.environ.get("PATH", os.defpath), "/usr/sbin", *(str(version) for version in reversed(versions))]
        found = shutil.which(name, path=os.pathsep.join(path))
        if found is None:
            raise NotInstalled(f"{name} is not installed: apt-get install {self.package}")
        return found

    def call(self, *command: str) -> None:
        """Run a program of the package to its end.

        Raises:
            ServerError: It failed.
        """
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **self._unprivileged()
        )
        if done.returncode:
            raise ServerError(f"{shlex.join(command)} failed:\n{done.stdout.decode(errors='replace')}")

    def succeeds(self, *command: str, environment: Mapping[str, str]) -> bool:
        """Whether a client program gets what it asks for."""
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
        """A file that only the server may read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(content)
        self._give_away(path)
        return path

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def _unprivileged(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.directory, "stdin": subprocess.DEVNULL}
        if os.geteuid() == 0 and self.account is not None:
            options |= {"user": self.account, "group": self.account, "extra_groups": []}
        # Ctrl-C is for this script, which then stops the servers in turn.
        return {**options, "start_new_session": True}

    def _give_away(self, path: Path) -> None:
        if os.geteuid() == 0 and self.account is not None:
            shutil.chown(path, self.account, self.account)


class PostgreSQL(Server):
    """PostgreSQL, with durability off."""

    variable = "FLASK_APIKEY_TEST_POSTGRESQL_URI"
    package = "postgresql"
    account = "postgres"
    stop_signal = signal.SIGINT

    @property
    def uri(self) -> str:
        """Where the tests find it."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        """Make the cluster; its superuser is the tests' user."""
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
        """What serves."""
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
        """Whether the tests' user can ask for something."""
        client = [self.binary("psql"), "--no-psqlrc", "--host=127.0.0.1", f"--port={self.port}", f"--username={USER}"]
        return self.succeeds(*client, "--command=SELECT 1", "postgres", environment={"PGPASSWORD": self.password})


class MariaDB(Server):
    """MariaDB, with durability off."""

    variable = "FLASK_APIKEY_TEST_MYSQL_URI"
    package = "mariadb-server"
    account = "mysql"
    stop_signal = signal.SIGTERM

    @property
    def uri(self) -> str:
        """Where the tests find it."""
        return f"mysql://{USER}:{self.password}@127.0.0.1:{self.port}/flask_apikey"

    def prepare(self) -> None:
        """Make the system tables."""
        self.call(
            self.binary("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def command(self) -> list[str]:
        """What serves; the tests' database and user are made before it accepts anybody."""
        statements = [
            "CREATE DATABASE flask_apikey CHARACTER SET utf8mb4;",
            f"CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{self.password}';",
            f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1';",
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
        """Whether the tests' user can ask for something."""
        client = [self.binary("mariadb"), "--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={self.port}"]
        return self.succeeds(
            *client, f"--user={USER}", "--execute=SELECT 1", "flask_apikey", environment={"MYSQL_PWD": self.password}
        )


class MongoDB(Server):
    """A server of MongoDB's wire protocol. It asks for no password."""

    variable = "FLASK_APIKEY_TEST_MONGODB_URI"
    package = "secantusdb"
    account = None
    is_optional = True
    stop_signal = signal.SIGTERM

    @property
    def uri(self) -> str:
        """Where the tests find it."""
        return f"mongodb://127.0.0.1:{self.port}/flask_apikey"

    def prepare(self) -> None:
        """Nothing: the server makes its data directory."""

    def command(self) -> list[str]:
        """What serves."""
        arguments = ["--host=127.0.0.1", f"--port={self.port}", f"--storage-path={self.directory / 'data'}"]
        return [self.binary("secantusd-py"), *arguments, "--sync-on-commit"]

    def answers(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def binary(self, name: str) -> str:
        """Where a program of the package is.

        Raises:
            NotInstalled: Nowhere.
        """
        path = [str(Path(sys.executable).parent), str(CHECKOUT / ".venv" / "bin"), os.environ.get("PATH", os.defpath)]
        found = shutil.which(name, path=os.pathsep.join(path))
        if found is None:
            raise NotInstalled(f"{name} is not installed: .venv/bin/pip install '.[test]'")
        return found


SERVERS: tuple[type[Server], ...] = (PostgreSQL, MariaDB, MongoDB)


@contextmanager
def running_servers() -> Iterator[dict[str, str]]:
    """All servers, while they run; gives the environment that tells the tests about them."""
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
                print(f"servers.py: without {server_class.__name__}: {exc}", file=sys.stderr)
            else:
                environment[server.variable] = server.uri
        yield environment


def spare_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def up() -> int:
    """Serve until somebody says stop."""
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
        The command's exit code.
    """
    with running_servers() as environment:
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="print what to export, serve until Ctrl-C")
    actions.add_parser("run", help="run a command with the servers").add_argument("command", nargs="+")
    arguments = parser.parse_args()
    # Whoever ends this script ends the servers too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        return up() if arguments.action == "up" else run(arguments.command)
    except ServerError as exc:
        print(f"servers.py: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
