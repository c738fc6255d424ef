"""A valid key among few stored keys and among many."""

from pathlib import Path

from benchmarks import applications
from benchmarks.estimates import median, ratio, ratio_of_costs
from benchmarks.report import Report, Row, Target
from benchmarks.timing import Contender, Environ, environ_with, measure
from flask_apikey.core.model.sealing import generate_fernet_key

FEW = 100

BARE = "bare view"


def run(directory: Path, samples: int, warm_up: int, *, many: int) -> Report:
    """Measure pairs of contenders with few and many stored keys.

    A process caches the keys that it has accepted. So both contenders of a pair
    present the same number of different keys: one, a hundred in turn, or a new one
    with each request, which needs as many stored keys as there are requests.

    Raises:
        ValueError: There are fewer stored keys than requests.
    """
    requests = samples + warm_up
    if many < FEW + requests:
        raise ValueError(f"to present a new key with each of {requests} requests, store {FEW + requests} or more")
    fernet_key = generate_fernet_key()

    def presenting(database: str, stored: int, presented: int) -> list[Environ]:
        authorizations = applications.store_keys(directory / database, fernet_key, stored=stored, presented=presented)
        return [environ_with(authorization) for authorization in authorizations]

    def contender(name: str, database: str, environs: list[Environ]) -> Contender:
        # Each contender has its own application, so that they share no SQLite page cache.
        return Contender(name, applications.flask_apikey(f"sqlite:///{directory / database}", fernet_key), environs)

    few_keys = presenting("few.db", FEW, FEW)
    enough_keys = presenting("enough.db", requests, requests)
    many_keys = presenting("many.db", many, FEW + requests)
    bare = Contender(BARE, applications.bare(), [environ_with()])
    pairs = [
        (
            contender(f"the same key, {FEW:,} stored", "few.db", few_keys[:1]),
            contender(f"the same key, {many:,} stored", "many.db", many_keys[:1]),
        ),
        (
            contender(f"{FEW} keys in turn, {FEW:,} stored", "few.db", few_keys),
            contender(f"{FEW} keys in turn, {many:,} stored", "many.db", many_keys[:FEW]),
        ),
        (
            contender(f"no key twice, {requests:,} stored", "enough.db", enough_keys),
            contender(f"no key twice, {many:,} stored", "many.db", many_keys[FEW:]),
        ),
    ]
    times = measure([bare, *(each for pair in pairs for each in pair)], samples, warm_up=warm_up)

    rows = [Row(BARE, median(times[BARE]))]
    targets = []
    for fewer, more in pairs:
        per_bare = [ratio(times[each.name], times[BARE]) for each in (fewer, more)]
        per_request = ratio(times[more.name], times[fewer.name])
        per_check = ratio_of_costs(times[more.name], times[BARE], times[fewer.name])
        rows.append(Row(fewer.name, median(times[fewer.name]), {"/ bare": per_bare[0]}))
        rows.append(
            Row(
                more.name,
                median(times[more.name]),
                {"/ bare": per_bare[1], "/ row above": per_request, "check / row above": per_check},
            )
        )
        targets.append(Target(f"check, {more.name} / {fewer.name}", 1.2, per_check))
    return Report("A valid key among many", rows, targets)
