"""Last uses of keys: time and caller address, separately for current and previous secrets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, NamedTuple

from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import to_microseconds

_PAGE = 500


@dataclass(frozen=True, slots=True)
class KeyLastUse:
    """The last uses of one key: of its current secret, and of any earlier secret, expired or not."""

    current: LastUse | None = None
    previous: LastUse | None = None

    @property
    def latest(self) -> LastUse | None:
        """Last use of any secret of the key."""
        return _latest([use for use in (self.current, self.previous) if use is not None])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with times in ISO 8601."""
        values: dict[str, Any] = {}
        for prefix, use in (("", self.latest), ("current_secret_", self.current), ("previous_secret_", self.previous)):
            values[f"{prefix}last_used_at"] = None if use is None else use.at.isoformat()
            values[f"{prefix}last_used_from"] = None if use is None else use.address
        return values


class FoldedLastUses(NamedTuple):
    """Changes that leave one last use for all earlier secrets of each key.

    Attributes:
        merged: Last uses of previous secrets to store first, by key id.
        removed: Last uses to delete after that unless they have changed, ordered by key.
    """

    merged: Mapping[str, LastUse]
    removed: Sequence[LastUse]


def folded_last_uses(uses: Iterable[LastUse], current_secrets: Mapping[str, int]) -> FoldedLastUses:
    """Fold the last uses of all earlier secrets of each key into one.

    Args:
        uses: The stored last uses.
        current_secrets: `LastUse.secret` of the current secret by key id. Deleted keys are absent.

    Returns:
        The changes to make in the storage.
    """
    removed = sorted(
        (
            use
            for use in uses
            if use.key_id not in current_secrets or use.secret not in {PREVIOUS_SECRET, current_secrets[use.key_id]}
        ),
        key=lambda use: (use.key_id, use.secret),
    )
    by_key = groupby((use for use in removed if use.key_id in current_secrets), key=lambda use: use.key_id)
    latest = {key_id: max(group, key=lambda use: use.at) for key_id, group in by_key}
    return FoldedLastUses({key_id: replace(use, secret=PREVIOUS_SECRET) for key_id, use in latest.items()}, removed)


def current_secret(record: APIKey) -> int:
    """Return `LastUse.secret` of the current secret of a key."""
    return to_microseconds(record.issued_at)


def with_last_uses(storage: UsageStore, records: Iterable[APIKey]) -> Iterator[tuple[APIKey, KeyLastUse]]:
    """Yield each key with its last uses, which are read a page at a time."""
    remaining = iter(records)
    while page := list(islice(remaining, _PAGE)):
        uses: dict[str, list[LastUse]] = {record.id: [] for record in page}
        for use in storage.last_uses(list(uses)):
            uses[use.key_id].append(use)
        yield from ((record, _key_last_use(record, uses[record.id])) for record in page)


def last_uses_of(storage: UsageStore, records: Iterable[APIKey]) -> Mapping[str, KeyLastUse]:
    """Read the last uses of keys by key id, with an entry for each key."""
    return {record.id: last_use for record, last_use in with_last_uses(storage, records)}


def _key_last_use(record: APIKey, uses: Sequence[LastUse]) -> KeyLastUse:
    # Compared for equality only: after a clock jump, an earlier secret may carry a later time.
    current = current_secret(record)
    return KeyLastUse(
        current=_latest([use for use in uses if use.secret == current]),
        previous=_latest([use for use in uses if use.secret != current]),
    )


def _latest(uses: Sequence[LastUse]) -> LastUse | None:
    return max(uses, key=lambda use: use.at, default=None)
