"""Cost of counting requests with a valid key, relative to the same requests without counting."""

from pathlib import Path

from benchmarks import applications
from benchmarks.estimates import median, ratio, ratio_of_ratios
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, Environ, environ_with, measure
from flask_apikey.core.model.sealing import generate_fernet_key

ENDPOINTS = 1_000
LIMIT = 1.1

ONE_KEY = "one key, one endpoint"


def run(directory: Path, samples: int, warm_up: int, *, stored: int) -> Report:
    """Measure and compare, with background flushes as in production.

    Args:
        directory: The directory of the database.
        samples: Number of measured requests.
        warm_up: Number of requests before the measurement.
        stored: Number of stored keys; at least one for each request.

    Returns:
        The report.

    Raises:
        ValueError: There are fewer keys than requests.
    """
    requests = samples + warm_up
    if stored < requests:
        raise ValueError(f"{requests} requests with a new key each need at least as many stored keys")
    fernet_key = generate_fernet_key()
    database = directory / "keys.db"
    keys = applications.store_keys(database, fernet_key, stored=stored, presented=requests)
    variants = {
        ONE_KEY: [environ_with(keys[0])],
        f"one key, {ENDPOINTS:,} endpoints": [environ_with(keys[0], f"/{number}") for number in range(ENDPOINTS)],
        f"no key twice, {stored:,} stored": [environ_with(key) for key in keys],
    }

    def contender(name: str, usage: str, environs: list[Environ]) -> Contender:
        # Separate applications, because they would share SQLite's cache otherwise.
        app = applications.flask_apikey(f"sqlite:///{database}", fernet_key, usage=usage, endpoints=ENDPOINTS)
        return Contender(f"{name}, {usage}", app, environs)

    pairs = {
        name: (contender(name, "off", environs), contender(name, "buffered", environs))
        for name, environs in variants.items()
    }
    synchronous = contender(ONE_KEY, "sync", variants[ONE_KEY])
    times = measure([*(each for pair in pairs.values() for each in pair), synchronous], samples, warm_up=warm_up)

    rows, targets = [], []
    base_off, base_counted = pairs[ONE_KEY]
    for name, (off, counted) in pairs.items():
        to_off = ratio(times[counted.name], times[off.name])
        rows += [
            Row(off.name, median(times[off.name])),
            Row(counted.name, median(times[counted.name]), {"/ off": to_off}),
        ]
        targets.append(Target(f"{name}: buffered / off", LIMIT, to_off))
        if name != ONE_KEY:
            growth = ratio_of_ratios(
                (times[counted.name], times[off.name]), (times[base_counted.name], times[base_off.name])
            )
            targets.append(Target(f"{name}: buffered / off, beside {ONE_KEY}", LIMIT, growth))
    to_off = ratio(times[synchronous.name], times[base_off.name])
    rows.append(Row(synchronous.name, median(times[synchronous.name]), {"/ off": to_off}))
    return Report("A valid key whose requests are counted", rows, targets)
