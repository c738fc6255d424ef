"""A valid key on every backend, beside the look-up of its row with the driver alone."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks import applications, lookups
from benchmarks.estimates import difference, median, ratio
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, environ_with, measure
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.storage.contract import backend_for

STORED = 100
LIMIT = 60.0

BARE = "bare view"

SERVERS: dict[str, tuple[str, lookups.Driver]] = {
    "PostgreSQL": ("FLASK_APIKEY_TEST_POSTGRESQL_URI", lookups.postgresql),
    "MariaDB or MySQL": ("FLASK_APIKEY_TEST_MYSQL_URI", lookups.mysql),
    "MongoDB": ("FLASK_APIKEY_TEST_MONGODB_URI", lookups.mongodb),
}


def run(directory: Path, samples: int, warm_up: int) -> Report:
    """Measure and compare, one storage after another; the keys stored are presented in turn.

    An application has one storage. To measure all of them in the same rounds would leave to each the processor's
    caches as the drivers of all the others filled them.
    """
    storages: dict[str, tuple[str, lookups.Driver]] = {"SQLite": (f"sqlite:///{directory / 'keys.db'}", lookups.sqlite)}
    for name, (variable, driver) in SERVERS.items():
        if os.environ.get(variable):
            storages[name] = os.environ[variable], driver
    fernet_key = generate_fernet_key()
    rows = []
    targets = []
    for name, (uri, driver) in storages.items():
        bare, raw = f"{name}, {BARE}", f"{name}, {BARE} + raw look-up"
        with _stored_keys(uri, fernet_key) as keys, driver(uri) as look_up:
            # What counting costs is measured by itself, and counts would stay on the server.
            guarded = applications.flask_apikey(uri, fernet_key, usage="off")
            Contender(name, guarded, [environ_with()], status=401).prove()
            contenders = [
                Contender(bare, applications.bare(), [environ_with()]),
                Contender(raw, applications.looking_up(look_up, list(keys)), [environ_with()]),
                Contender(name, guarded, [environ_with(f"Api-Key {key}") for key in keys.values()]),
            ]
            times = measure(contenders, samples, warm_up=warm_up)
        added = difference(times[name], times[raw])
        rows += [
            Row(bare, median(times[bare])),
            Row(raw, median(times[raw]), {"/ bare": ratio(times[raw], times[bare])}),
            Row(name, median(times[name]), {"/ bare": ratio(times[name], times[bare]), "- row above, µs": added}),
        ]
        targets.append(Target(f"{name}: valid - (bare + raw look-up), µs", LIMIT, added))
    return Report(f"A valid key on each backend, {STORED} keys stored", rows, targets)


@contextmanager
def _stored_keys(uri: str, fernet_key: str) -> Iterator[dict[str, str]]:
    """Keys by id, which are stored as long as they are needed."""
    ring = FernetKeyring(fernet_key)
    made = [applications.make_key(ring, number) for number in range(STORED)]
    with closing(backend_for(uri)) as backend:
        backend.init_storage()
        backend.add_many([stored for _, stored in made])
        try:
            yield {stored.record.id: key for key, stored in made}
        finally:
            for _, stored in made:
                backend.delete(stored.record.id, expected_version=stored.record.version)
