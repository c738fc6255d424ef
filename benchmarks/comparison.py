"""A valid key, checked by this extension and by hand-made checks."""

from pathlib import Path

from benchmarks import applications
from benchmarks.estimates import median, ratio, ratio_of_costs
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, environ_with, measure
from flask_apikey.core.model.sealing import generate_fernet_key

STORED = 100

BARE = "bare view"
OURS = "flask-apikey"
HAND_MADE = "Flask-HTTPAuth, SHA-256, ORM"
RAW = "Fernet and sqlite3 by hand"


def run(directory: Path, samples: int, warm_up: int) -> Report:
    """Measure all checks, presenting the stored keys in turn."""
    database, fernet_key = directory / "flask_apikey.db", generate_fernet_key()
    authorizations = applications.store_keys(database, fernet_key, stored=STORED, presented=STORED)
    guarded = {
        OURS: applications.Guarded(applications.flask_apikey(f"sqlite:///{database}", fernet_key), authorizations),
        RAW: applications.fernet_and_sqlite3(directory / "fernet_and_sqlite3.db", STORED),
        HAND_MADE: applications.flask_httpauth(directory / "flask_httpauth.db", STORED),
    }
    contenders = [Contender(BARE, applications.bare(), [environ_with()])]
    for name, each in guarded.items():
        Contender(name, each.app, [environ_with()], status=401).prove()
        contenders.append(Contender(name, each.app, [environ_with(value) for value in each.authorizations]))
    times = measure(contenders, samples, warm_up=warm_up)

    rows = [Row(BARE, median(times[BARE]))]
    for name in guarded:
        per_bare = ratio(times[name], times[BARE])
        per_hand_made = ratio_of_costs(times[name], times[BARE], times[HAND_MADE])
        rows.append(Row(name, median(times[name]), {"/ bare": per_bare, "check / hand-made": per_hand_made}))
    ours = rows[1].ratios
    return Report(
        f"A valid key, {STORED} keys stored",
        rows,
        [
            Target("valid / bare", 2.2, ours["/ bare"]),
            Target("(valid - bare) / (hand-made - bare)", 0.3, ours["check / hand-made"]),
        ],
    )
