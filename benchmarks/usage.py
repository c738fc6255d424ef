"""A valid key whose requests are counted, beside the same request where they are not."""

from pathlib import Path

from benchmarks import applications
from benchmarks.estimates import median, ratio, ratio_of_ratios
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, Environ, environ_with, measure
from flask_apikey.core.model.sealing import generate_fernet_key

ENDPOINTS = 1_000
LIMIT = 1.1

ONE = "one key, one endpoint"


def run(directory: Path, samples: int, warm_up: int, *, stored: int) -> Report:
    """Measure and compare. Counts are flushed meanwhile, as they always are.

    Raises:
        ValueError: There are not enough keys to present a new one with each request.
    """
    requests = samples + warm_up
    if stored < requests:
        raise ValueError(f"to present a new key with each of {requests} requests, store as many or more")
    fernet_key = generate_fernet_key()
    database = directory / "keys.db"
    keys = applications.store_keys(database, fernet_key, stored=stored, presented=requests)
    variants = {
        ONE: [environ_with(keys[0])],
        f"one key, {ENDPOINTS:,} endpoints": [environ_with(keys[0], f"/{number}") for number in range(ENDPOINTS)],
        f"no key twice, {stored:,} stored": [environ_with(key) for key in keys],
    }

    def contender(name: str, usage: str, environs: list[Environ]) -> Contender:
        # An application each, so that none finds in SQLite's cache what another has read.
        app = applications.flask_apikey(f"sqlite:///{database}", fernet_key, usage=usage, endpoints=ENDPOINTS)
        return Contender(f"{name}, {usage}", app, environs)

    pairs = {
        name: (contender(name, "off", environs), contender(name, "buffered", environs))
        for name, environs in variants.items()
    }
    synchronous = contender(ONE, "sync", variants[ONE])
    times = measure([*(each for pair in pairs.values() for each in pair), synchronous], samples, warm_up=warm_up)

    rows, targets = [], []
    few_off, few_counted = pairs[ONE]
    for name, (off, counted) in pairs.items():
        of_off = ratio(times[counted.name], times[off.name])
        rows += [
            Row(off.name, median(times[off.name])),
            Row(counted.name, median(times[counted.name]), {"/ off": of_off}),
        ]
        targets.append(Target(f"{name}: buffered / off", LIMIT, of_off))
        if name != ONE:
            growth = ratio_of_ratios(
                (times[counted.name], times[off.name]), (times[few_counted.name], times[few_off.name])
            )
            targets.append(Target(f"{name}: buffered / off, beside {ONE}", LIMIT, growth))
    of_off = ratio(times[synchronous.name], times[few_off.name])
    rows.append(Row(synchronous.name, median(times[synchronous.name]), {"/ off": of_off}))
    return Report("A valid key whose requests are counted", rows, targets)
