"""``python -m benchmarks.copying``: many used keys from SQLite to MongoDB to PostgreSQL, interrupted and resumed.

Each copy runs ``flask apikey copy`` in its own process. The first is killed
(``kill -9``) when a fifth of the keys has arrived, and is then resumed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import click

from benchmarks import applications
from benchmarks.report import environment
from benchmarks.timing import Contender, environ_with
from flask_apikey.core.copying.summary import row_id
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.core.text import redacted_uri
from flask_apikey.core.times import utc_now
from flask_apikey_sql import SQLBackend

PRESENTED = 100
FIRST_HOUR = 490_000
POLL_INTERVAL = 0.005


@dataclass(frozen=True)
class Copied:
    """Measurements of one copy.

    Attributes:
        seconds: Duration, including the start of Python and the verification.
        peak: Largest resident memory, in MiB.
        result: Printed JSON; empty if the copy was killed.
    """

    seconds: float
    peak: int
    result: dict[str, Any]


@click.command()
@click.option("--keys", type=click.IntRange(min=1000), default=100_000, show_default=True, help="Number of keys.")
@click.option("--through", envvar="FLASK_APIKEY_TEST_MONGODB_URI", show_envvar=True, required=True, metavar="URI")
@click.option(
    "--to", "target", envvar="FLASK_APIKEY_TEST_POSTGRESQL_URI", show_envvar=True, required=True, metavar="URI"
)
def main(keys: int, through: str, target: str) -> None:
    """Copy keys from SQLite to a second and on to a third storage, and present some of them there.

    Both targets must be empty. They keep the copied keys.
    """
    for uri in (through, target):
        _require_empty(uri)
    fernet_key = generate_fernet_key()
    with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        database = Path(directory) / "keys.db"
        authorizations = applications.store_keys(database, fernet_key, stored=keys, presented=PRESENTED)
        source = f"sqlite:///{database}"
        requests = _use(source)
        _say("killed", _copy(fernet_key, source, through, kill_at=_id_at(source, keys // 5)))
        resumed = _copy(fernet_key, source, through)
        _say("resumed", resumed)
        again = _copy(fernet_key, through, target)
        _say("second", again)
    if not 0 < resumed.result["unchanged"] < keys:
        raise click.ClickException("the first copy was not interrupted in the middle")
    contents = [each.result[side] for each in (resumed, again) for side in ("source", "target")]
    content = {"keys": keys, "digest": contents[0]["digest"], "requests": requests}
    if any(each != content for each in contents):
        raise click.ClickException(f"the storages differ: {contents}")
    click.echo(f"all three hold {keys:,} keys, digest {content['digest']}, and {requests:,} counted requests")
    guarded = applications.flask_apikey(target, fernet_key)
    presented = Contender("the last storage", guarded, [environ_with(each) for each in authorizations])
    for number in range(PRESENTED):
        presented.prove(number)
    click.echo(f"{PRESENTED} of them, issued for the first, open an API on the last")
    click.echo(", ".join(f"{name} {value}" for name, value in environment().items()))


def _copy(fernet_key: str, source: str, target: str, *, kill_at: str | None = None) -> Copied:
    """Run the command, and kill it when the key with id `kill_at` has arrived."""
    command = [sys.executable, "-m", "flask", "--app", "benchmarks.command_app", "apikey", "copy", "--verify", "--json"]
    settings = {
        "BENCHMARK_APIKEY_FERNET_KEY": fernet_key,
        "BENCHMARK_APIKEY_STORAGE_URI": target,
        "APIKEY_COPY_FROM": source,
    }
    begin, peak = time.monotonic(), 0
    with TemporaryFile("w+") as printed, closing(backend_for(target)) as backend:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=printed)
        while process.poll() is None:
            peak = max(peak, _peak_memory(process.pid))
            if kill_at is not None and backend.get(kill_at) is not None:
                process.kill()
            time.sleep(POLL_INTERVAL)
        seconds = time.monotonic() - begin
        if process.returncode != (0 if kill_at is None else -signal.SIGKILL):
            raise click.ClickException(f"the copy ended with {process.returncode}")
        printed.seek(0)
        return Copied(seconds, peak, json.loads(printed.read() or "{}"))


def _peak_memory(process: int) -> int:
    # Not from wait4(): its high-water mark includes the parent's memory.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _require_empty(uri: str) -> None:
    with closing(backend_for(uri)) as backend:
        backend.init_storage()
        if backend.find(KeyFilter(), after=None, limit=1):
            raise click.ClickException(f"{redacted_uri(uri)} holds keys already")


def _use(uri: str) -> int:
    """Count requests of every tenth key in two hours, and return their number."""
    used = 0
    with closing(SQLBackend(uri)) as backend:
        ids = (row_id(row) for row in islice(backend.scan(KeyFilter()), 0, None, 10))
        while page := list(islice(ids, 1000)):
            rows = [
                UsageRow(UsageLabel(key_id, FIRST_HOUR + hour, "/reports", "GET", "2xx"), 1 + hour)
                for key_id in page
                for hour in range(2)
            ]
            uses = [LastUse(key_id, 1, utc_now(), "192.0.2.7") for key_id in page]
            backend.usage.add(UsageBatch(new_id(), 1, rows, uses, utc_now()))
            used += sum(row.count for row in rows)
    return used


def _id_at(uri: str, position: int) -> str:
    with closing(backend_for(uri)) as backend:
        return row_id(next(islice(backend.scan(KeyFilter()), position, None)))


def _say(name: str, copied: Copied) -> None:
    counts = {name: value for name, value in copied.result.items() if isinstance(value, int)}
    click.echo(f"{name}: {copied.seconds:.1f} s, at most {copied.peak} MiB {counts or ''}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.copying")
