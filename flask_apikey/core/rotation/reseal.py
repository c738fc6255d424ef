"""Stored keys are sealed anew under the primary Fernet key.

Where a run stands is told by the rows alone: it can be interrupted at any point and
repeated, and several may go on at once. A seal is replaced only where it is still
the one that was read. Whatever others changed meanwhile is looked at again.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_apikey.core.errors import SealUnreadable
from flask_apikey.core.model.keys import Cursor, Resealing, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, KeepsRotation, KeyFilter

BATCH = 500
"""At most so many keys are re-sealed in one operation."""

MAX_PASSES = 20
MAX_LISTED = 20

Progress = Callable[[int], object]


class Pace:
    """Waits after each batch for as long as a rate demands.

    Args:
        rate: At most so many keys in a second; None for no limit.
        monotonic: Seconds.
        sleep: Waits for some seconds.

    Attributes:
        batch: So many keys are to be re-sealed in one operation.
    """

    def __init__(
        self,
        rate: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._sleep = sleep
        self._due = monotonic()
        # Ten batches a second, so that the database is not asked for a whole second's work at once.
        self.batch = BATCH if rate is None else max(1, min(BATCH, rate // 10))

    def keep(self, keys: int) -> None:
        """Return when the next batch may follow one of so many keys."""
        if self._rate is not None:
            now = self._monotonic()
            self._due = max(self._due, now) + keys / self._rate
            self._sleep(self._due - now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResealingReport:
    """What a run did, and what is left.

    Attributes:
        resealed: Keys that were sealed anew.
        changed_meanwhile: Seals that somebody else replaced first; such keys were looked at again.
        remaining: Keys that are still sealed under another Fernet key.
        not_configured: How many of those are sealed under Fernet keys that this process
            lacks, by fingerprint.
        damaged: How many of them have a seal that its Fernet key does not open.
        examples: Ids of keys that could not be re-sealed, 20 at most.
    """

    resealed: int
    changed_meanwhile: int
    remaining: int
    not_configured: Mapping[str, int]
    damaged: int
    examples: tuple[str, ...]

    @property
    def unaccounted(self) -> int:
        """Remaining keys that cannot be read, or that others went on sealing under another Fernet key."""
        return max(0, self.remaining - sum(self.not_configured.values()) - self.damaged)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "resealed": self.resealed,
            "changed_meanwhile": self.changed_meanwhile,
            "remaining": self.remaining,
            "not_configured": dict(self.not_configured),
            "damaged": self.damaged,
            "unaccounted": self.unaccounted,
            "examples": list(self.examples),
        }


def reseal_all(
    backend: Backend,
    seals: KeepsRotation,
    ring: FernetKeyring,
    *,
    pace: Pace,
    progress: Progress | None = None,
) -> ResealingReport:
    """Seal every key under the primary Fernet key that is sealed under another one of the ring.

    Args:
        backend: Where the keys are.
        seals: The same storage, as one that can replace seals.
        ring: The application's Fernet keys.
        pace: How fast.
        progress: Called with the number of keys that were looked at.
    """
    resealed = missed = 0
    for _ in range(MAX_PASSES):
        found = _pass(backend, seals, ring, pace, progress)
        resealed += found.resealed
        missed += found.missed
        remaining = sum(count for name, count in seals.count_seals().items() if name != ring.fingerprint)
        cannot_be_resealed = sum(found.not_configured.values()) + found.damaged
        if remaining <= cannot_be_resealed or not (found.resealed or found.missed):
            break
    return ResealingReport(
        resealed=resealed,
        changed_meanwhile=missed,
        remaining=remaining,
        not_configured=dict(found.not_configured),
        damaged=found.damaged,
        examples=tuple(found.examples),
    )


@dataclass(slots=True)
class _Pass:
    """What became of the keys in one reading of all that are sealed under another Fernet key."""

    resealed: int = 0
    missed: int = 0
    not_configured: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    examples: list[str] = field(default_factory=list)


def _pass(backend: Backend, seals: KeepsRotation, ring: FernetKeyring, pace: Pace, progress: Progress | None) -> _Pass:
    found = _Pass()
    others = KeyFilter(not_sealed_by=ring.fingerprint)
    after = None
    while page := backend.find(others, after=after, limit=pace.batch):
        after = Cursor(page[-1].record.created_at, page[-1].record.id)
        resealings = [each for key in page if (each := _resealing(key, ring, found)) is not None]
        replaced = seals.reseal(resealings)
        found.resealed += replaced
        found.missed += len(resealings) - replaced
        if progress is not None:
            progress(len(page))
        pace.keep(len(page))
    return found


def _resealing(key: StoredKey, ring: FernetKeyring, found: _Pass) -> Resealing | None:
    try:
        return Resealing(key.record.id, key.seal, ring.resealed(key.seal))
    except SealUnreadable:
        if key.seal.fingerprint in ring.fingerprints:
            found.damaged += 1
        else:
            found.not_configured[key.seal.fingerprint] += 1
        if len(found.examples) < MAX_LISTED:
            found.examples.append(key.record.id)
        return None
