"""A valid key on every backend, compared with a bare look-up of its row by the driver."""

import os
from pathlib import Path

from benchmarks import applications, lookups
from benchmarks.estimates import difference, median, ratio
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, environ_with, measure
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key

STORED = 100
LIMIT = 60.0
CACHED_LIMIT = 1.5

BARE = "bare view"

SERVERS: dict[str, tuple[str, lookups.Driver]] = {
    "PostgreSQL": ("FLASK_APIKEY_TEST_POSTGRESQL_URI", lookups.postgresql),
    "MariaDB or MySQL": ("FLASK_APIKEY_TEST_MYSQL_URI", lookups.mysql),
    "MongoDB": ("FLASK_APIKEY_TEST_MONGODB_URI", lookups.mongodb),
}


def run(directory: Path, samples: int, warm_up: int) -> Report:
    """Measure one storage after another, presenting the stored keys in turn.

    Storages are not measured in the same rounds: the drivers would evict each other
    from the processor's caches, which does not happen to an application with one
    storage.
    """
    storages: dict[str, tuple[str, lookups.Driver]] = {"SQLite": (f"sqlite:///{directory / 'keys.db'}", lookups.sqlite)}
    for name, (variable, driver) in SERVERS.items():
        if os.environ.get(variable):
            storages[name] = os.environ[variable], driver
    fernet_key = generate_fernet_key()
    ring = FernetKeyring(fernet_key)
    keys = [applications.make_key(ring, number) for number in range(STORED)]
    ids = [stored.record.id for _, stored in keys]
    rows = []
    targets = []
    for name, (uri, driver) in storages.items():
        bare, raw, cached = f"{name}, {BARE}", f"{name}, {BARE} + raw look-up", f"{name}, rows cached"
        with applications.stored_temporarily(uri, [stored for _, stored in keys]), driver(uri) as look_up:
            # Counting is off: it has its own benchmark, and the counts would stay on the server.
            guarded = applications.flask_apikey(uri, fernet_key, usage="off")
            caching = applications.flask_apikey(uri, fernet_key, usage="off", max_staleness="1s")
            Contender(name, guarded, [environ_with()], status=401).prove()
            presented = [environ_with(f"Api-Key {key}") for key, _ in keys]
            contenders = [
                Contender(bare, applications.bare(), [environ_with()]),
                Contender(raw, applications.looking_up(look_up, ids), [environ_with()]),
                Contender(name, guarded, presented),
                Contender(cached, caching, presented),
            ]
            times = measure(contenders, samples, warm_up=warm_up)
            for app in (guarded, caching):
                app.extensions["apikey"].close()
        added = difference(times[name], times[raw])
        rows += [
            Row(bare, median(times[bare])),
            Row(raw, median(times[raw]), {"/ bare": ratio(times[raw], times[bare])}),
            Row(name, median(times[name]), {"/ bare": ratio(times[name], times[bare]), "- row above, µs": added}),
            Row(cached, median(times[cached]), {"/ bare": ratio(times[cached], times[bare])}),
        ]
        targets += [
            Target(f"{name}: valid - (bare + raw look-up), µs", LIMIT, added),
            Target(f"{cached}: valid / bare", CACHED_LIMIT, ratio(times[cached], times[bare])),
        ]
    return Report(f"A valid key on each backend, {STORED} keys stored", rows, targets)
