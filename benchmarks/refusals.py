"""Refusals, without the minimum time that they take by default."""

import logging
from pathlib import Path

from benchmarks import applications
from benchmarks.estimates import median, ratio
from benchmarks.report import Report, Row
from benchmarks.timing import Contender, environ_with, measure
from flask_apikey.core.audit_log import LOGGER_NAME
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import generate_fernet_key

STORED = 100

BARE = "bare view"
REFUSING = "bare view that aborts with 401"


def run(directory: Path, samples: int, warm_up: int) -> Report:
    """Measure all kinds of refusal."""
    # Without a handler, summaries of repeated failures would be printed between the tables.
    logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())
    database, fernet_key = directory / "refusals.db", generate_fernet_key()
    valid = applications.store_keys(database, fernet_key, stored=STORED, presented=STORED)
    uri = f"sqlite:///{database}"
    app = applications.flask_apikey(uri, fernet_key, min_failure_time=0, failure_limit=None)
    exhausted = applications.flask_apikey(uri, fernet_key, failure_limit="1/day")
    # The first attempt uses up the budget.
    Contender("first attempt", exhausted, [environ_with("Api-Key malformed")], status=401).prove()
    ids = [value.split("_")[-2] for value in valid]
    presented: dict[str, list[str | None]] = {
        "valid": [*valid],
        "no key": [None],
        "malformed": [value[:-1] + ("0" if value[-1] != "0" else "1") for value in valid],
        "unknown id": [f"Api-Key {keystring.mint(applications.PREFIX, keystring.new_id())}" for _ in ids],
        "wrong secret": [f"Api-Key {keystring.mint(applications.PREFIX, each)}" for each in ids],
    }
    contenders = [
        Contender(BARE, applications.bare(), [environ_with()]),
        Contender(REFUSING, applications.refusing(), [environ_with()], status=401),
    ]
    for name, values in presented.items():
        environs = [environ_with(value) for value in values]
        contenders.append(Contender(name, app, environs, status=200 if name == "valid" else 401))
    malformed = environ_with("Api-Key malformed")
    contenders.append(Contender("malformed, too many failures", exhausted, [malformed], status=429))
    times = measure(contenders, samples, warm_up=warm_up)
    return Report(
        f"Refusals with APIKEY_MIN_FAILURE_TIME = 0, {STORED} keys stored",
        [
            Row(name, median(each), {"/ bare": ratio(each, times[BARE]), "/ aborting": ratio(each, times[REFUSING])})
            for name, each in times.items()
        ],
    )
