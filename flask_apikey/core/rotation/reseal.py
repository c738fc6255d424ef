"""Re-sealing of stored keys under the primary Fernet key.

The rows hold all state: a run can be interrupted and repeated, and several runs can
work at once. Each seal is replaced by compare-and-set; keys that changed are read again.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_apikey.core.errors import SealUnreadable
from flask_apikey.core.model.keys import Cursor, Resealing, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, KeyFilter, RotationStore

BATCH = 500
"""Maximum number of keys re-sealed in one operation."""

MAX_PASSES = 20
MAX_EXAMPLES = 20

Progress = Callable[[int], object]


class Pace:
    """Rate limit: waits after each batch.

    Args:
        rate: Maximum number of keys per second; None for no limit.
        monotonic: Monotonic clock, in seconds.
        sleep: Function that waits for a number of seconds.

    Attributes:
        batch: Number of keys to re-seal in one operation.
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
        # Ten batches a second spread the load on the database.
        self.batch = BATCH if rate is None else max(1, min(BATCH, rate // 10))

    def wait_after(self, keys: int) -> None:
        """Wait as long as the rate requires after a batch.

        Args:
            keys: Number of keys in the batch.
        """
        if self._rate is not None:
            now = self._monotonic()
            self._due = max(self._due, now) + keys / self._rate
            self._sleep(self._due - now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResealingReport:
    """Result of a run.

    Attributes:
        resealed: Number of keys re-sealed.
        conflicts: Number of keys that changed while they were re-sealed, and were read again.
        remaining: Number of keys still sealed under another Fernet key.
        not_configured: Number of those whose Fernet key this process lacks, by fingerprint.
        damaged: Number of those whose seal is damaged.
        examples: Ids of keys that could not be re-sealed, 20 at most.
    """

    resealed: int
    conflicts: int
    remaining: int
    not_configured: Mapping[str, int]
    damaged: int
    examples: tuple[str, ...]

    @property
    def unaccounted(self) -> int:
        """Number of remaining keys whose row is damaged, or that other processes sealed during the run."""
        return max(0, self.remaining - sum(self.not_configured.values()) - self.damaged)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "resealed": self.resealed,
            "conflicts": self.conflicts,
            "remaining": self.remaining,
            "not_configured": dict(self.not_configured),
            "damaged": self.damaged,
            "unaccounted": self.unaccounted,
            "examples": list(self.examples),
        }


def reseal_all(
    backend: Backend,
    store: RotationStore,
    ring: FernetKeyring,
    *,
    pace: Pace,
    progress: Progress | None = None,
) -> ResealingReport:
    """Re-seal every key that another Fernet key of the ring has sealed.

    Args:
        backend: Storage of the keys.
        store: Part of the storage that replaces seals.
        ring: Fernet keys of the application.
        pace: Rate limit.
        progress: Called with the number of keys read in each batch.
    """
    resealed = conflicts = 0
    for _ in range(MAX_PASSES):
        result = _reseal_once(backend, store, ring, pace, progress)
        resealed += result.resealed
        conflicts += result.conflicts
        remaining = sum(count for name, count in store.count_seals().items() if name != ring.fingerprint)
        unreadable = sum(result.not_configured.values()) + result.damaged
        if remaining <= unreadable or not (result.resealed or result.conflicts):
            break
    return ResealingReport(
        resealed=resealed,
        conflicts=conflicts,
        remaining=remaining,
        not_configured=dict(result.not_configured),
        damaged=result.damaged,
        examples=tuple(result.examples),
    )


@dataclass(slots=True)
class _Pass:
    """Result of one pass over the keys that another Fernet key has sealed."""

    resealed: int = 0
    conflicts: int = 0
    not_configured: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    examples: list[str] = field(default_factory=list)


def _reseal_once(
    backend: Backend, store: RotationStore, ring: FernetKeyring, pace: Pace, progress: Progress | None
) -> _Pass:
    result = _Pass()
    others = KeyFilter(not_sealed_by=ring.fingerprint)
    after = None
    while page := backend.find(others, after=after, limit=pace.batch):
        after = Cursor(page[-1].record.created_at, page[-1].record.id)
        resealings = [each for key in page if (each := _resealing(key, ring, result)) is not None]
        replaced = store.reseal(resealings)
        result.resealed += replaced
        result.conflicts += len(resealings) - replaced
        if progress is not None:
            progress(len(page))
        pace.wait_after(len(page))
    return result


def _resealing(key: StoredKey, ring: FernetKeyring, result: _Pass) -> Resealing | None:
    try:
        return Resealing(key.record.id, key.seal, ring.resealed(key.seal))
    except SealUnreadable:
        if key.seal.fingerprint in ring.fingerprints:
            result.damaged += 1
        else:
            result.not_configured[key.seal.fingerprint] += 1
        if len(result.examples) < MAX_EXAMPLES:
            result.examples.append(key.record.id)
        return None
