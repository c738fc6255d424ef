"""When and from where the secrets of keys were last used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, NamedTuple

from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.times import to_microseconds

_PAGE = 500


@dataclass(frozen=True, slots=True)
class KeyLastUse:
    """The last uses of one key.

    Attributes:
        current: Of the secret that was issued last; None when it was never used.
        previous: Of every secret before it, whether it still works or not.
    """

    current: LastUse | None = None
    previous: LastUse | None = None

    @property
    def latest(self) -> LastUse | None:
        """Of the key, whichever its secret."""
        return _latest([use for use in (self.current, self.previous) if use is not None])

    def to_dict(self) -> dict[str, Any]:
        """The last uses as JSON values, times in ISO 8601."""
        told: dict[str, Any] = {}
        for prefix, use in (("", self.latest), ("current_secret_", self.current), ("previous_secret_", self.previous)):
            told[f"{prefix}last_used_at"] = None if use is None else use.at.isoformat()
            told[f"{prefix}last_used_from"] = None if use is None else use.address
        return told


class Folding(NamedTuple):
    """What is to be done so that the secrets of a key before the present one have one last use together.

    Attributes:
        noted: What is to be noted first of the previous secrets of keys, by id.
        removed: What is to be removed then, as long as it still says the same: a use that
            came meanwhile stays. In the order of the keys.
    """

    noted: Mapping[str, LastUse]
    removed: Sequence[LastUse]


def folding_of(uses: Iterable[LastUse], present: Mapping[str, int]) -> Folding:
    """How to fold last uses.

    Args:
        uses: What is stored.
        present: What `LastUse.secret` is for the current secret, of every key of these that there is.
    """
    removed = sorted(
        (use for use in uses if use.key_id not in present or use.secret not in {PREVIOUS_SECRET, present[use.key_id]}),
        key=lambda use: (use.key_id, use.secret),
    )
    of_keys = groupby((use for use in removed if use.key_id in present), key=lambda use: use.key_id)
    latest = {key_id: max(of_key, key=lambda use: use.at) for key_id, of_key in of_keys}
    return Folding({key_id: replace(use, secret=PREVIOUS_SECRET) for key_id, use in latest.items()}, removed)


def current_secret(record: APIKey) -> int:
    """What `LastUse.secret` is for the secret of a key that was issued last."""
    return to_microseconds(record.issued_at)


def with_last_uses(storage: KeepsUsage, records: Iterable[APIKey]) -> Iterator[tuple[APIKey, KeyLastUse]]:
    """Keys and their last uses, a page at a time."""
    remaining = iter(records)
    while page := list(islice(remaining, _PAGE)):
        uses: dict[str, list[LastUse]] = {record.id: [] for record in page}
        for use in storage.last_uses(list(uses)):
            uses[use.key_id].append(use)
        yield from ((record, _sorted_out(record, uses[record.id])) for record in page)


def last_uses_of(storage: KeepsUsage, records: Iterable[APIKey]) -> Mapping[str, KeyLastUse]:
    """The last uses of keys, by id; every key has an entry.

    Raises:
        StorageError: They could not be read.
    """
    return {record.id: last_use for record, last_use in with_last_uses(storage, records)}


def _sorted_out(record: APIKey, uses: Sequence[LastUse]) -> KeyLastUse:
    # What is not of the current secret is of an earlier one, even when a clock that jumped gave it a later moment.
    present = current_secret(record)
    return KeyLastUse(
        current=_latest([use for use in uses if use.secret == present]),
        previous=_latest([use for use in uses if use.secret != present]),
    )


def _latest(uses: Sequence[LastUse]) -> LastUse | None:
    return max(uses, key=lambda use: use.at, default=None)
