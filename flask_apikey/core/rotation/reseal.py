"""Re-sealing of stored keys under the primary Fernet key.

The rows hold all state: a run can be interrupted and repeated, and several runs can
work at once. Each seal is replaced by compare-and-set; keys that changed are read again.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from flask_apikey.core.errors import RowTampered, SealUnreadable
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keys import DamagedKey, Resealing, StoredKey
from flask_apikey.core.model.sealed_rows import resealed_row
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, KeyFilter, RotationStore

BATCH = 500
"""Maximum number of keys re-sealed in one operation."""

MAX_PASSES = 20
MAX_EXAMPLES = 20

Progress = Callable[[int], object]


class Pace:
    """Rate limit of keys per second: waits after each batch. Batches have `batch` keys at most."""

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
        """Wait as long as the rate requires after a batch of this many keys."""
        if self._rate is not None:
            now = self._monotonic()
            self._due = max(self._due, now) + keys / self._rate
            self._sleep(self._due - now)


@dataclass(slots=True)
class ResealingReport:
    """Result of a run.

    Attributes:
        resealed: Number of keys re-sealed.
        conflicts: Number of keys that changed while they were re-sealed, and were read again.
        remaining: Number of keys still sealed under another Fernet key.
        not_configured: Number of those whose Fernet key this process lacks, by fingerprint.
        damaged: Number of those whose row or seal is damaged, or whose seal does not fit the row.
        examples: Ids of keys that could not be re-sealed, 20 at most.
    """

    resealed: int = 0
    conflicts: int = 0
    remaining: int = 0
    not_configured: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def unaccounted(self) -> int:
        """Number of remaining keys that other processes sealed during the run."""
        return max(0, self.remaining - sum(self.not_configured.values()) - self.damaged)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "unaccounted": self.unaccounted}


def reseal_all(
    backend: Backend, store: RotationStore, ring: FernetKeyring, *, pace: Pace, progress: Progress | None = None
) -> ResealingReport:
    """Re-seal every key that another Fernet key of the ring has sealed, in passes until none is left."""
    report = ResealingReport()
    for _ in range(MAX_PASSES):
        last = report
        report = _reseal_once(backend, store, ring, pace, progress)
        is_stuck = not (report.resealed or report.conflicts)
        report.resealed += last.resealed
        report.conflicts += last.conflicts
        report.remaining = sum(count for name, count in store.count_seals().items() if name != ring.fingerprint)
        if is_stuck or not report.unaccounted:
            break
    return report


def _reseal_once(
    backend: Backend, store: RotationStore, ring: FernetKeyring, pace: Pace, progress: Progress | None
) -> ResealingReport:
    report = ResealingReport()
    # The row of the storage itself gets a new seal with each event of the rotation.
    rows = backend.scan(KeyFilter(not_sealed_by=ring.fingerprint, pruned=None))
    others = (row for row in rows if not (isinstance(row, StoredKey) and row.record.id == STORAGE_ID))
    while page := list(islice(others, pace.batch)):
        resealings = [each for key in page if (each := _resealing(key, ring, report)) is not None]
        replaced = store.reseal(resealings)
        report.resealed += replaced
        report.conflicts += len(resealings) - replaced
        if progress is not None:
            progress(len(page))
        pace.wait_after(len(page))
    return report


def _resealing(key: StoredKey | DamagedKey, ring: FernetKeyring, report: ResealingReport) -> Resealing | None:
    if isinstance(key, StoredKey):
        fingerprint = key.seal.fingerprint
        try:
            return Resealing(key.record.id, key.seal, resealed_row(key, ring).seal)
        except (RowTampered, SealUnreadable):
            if fingerprint in ring.fingerprints:
                report.damaged += 1
            else:
                report.not_configured[fingerprint] = report.not_configured.get(fingerprint, 0) + 1
    else:
        report.damaged += 1
    if len(report.examples) < MAX_EXAMPLES:
        report.examples.append(key.record.id if isinstance(key, StoredKey) else key.id)
    return None
