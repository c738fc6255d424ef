"""Names for writing a storage backend."""

from flask_apikey.core.errors import AlreadyExists, Conflict, RowDamaged, StorageError, StorageMissing
from flask_apikey.core.model.history import STORAGE_ID, EventPosition, LifecycleEvent, stored_event
from flask_apikey.core.model.keys import APIKey, Cursor, DamagedKey, Resealing, Rotation, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.quotas import QuotaCounter, QuotaState
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.model.usage import (
    PREVIOUS_SECRET,
    LastUse,
    UsageBatch,
    UsageField,
    UsageFilter,
    UsageLabel,
    UsageOutcome,
    UsageRow,
)
from flask_apikey.core.storage.contract import (
    Backend,
    Changes,
    ChangeStore,
    EventFilter,
    HistoryStore,
    KeyFilter,
    QuotaStore,
    RotationStore,
    UsageStore,
)
from flask_apikey.core.storage.search import matches_search
from flask_apikey.core.usage.last_use import FoldedLastUses, folded_last_uses

__all__ = [
    "PREVIOUS_SECRET",
    "STORAGE_ID",
    "APIKey",
    "AlreadyExists",
    "Backend",
    "ChangeStore",
    "Changes",
    "Conflict",
    "Cursor",
    "DamagedKey",
    "EventFilter",
    "EventPosition",
    "FoldedLastUses",
    "HistoryStore",
    "KeyFilter",
    "LastUse",
    "LifecycleEvent",
    "QuotaCounter",
    "QuotaState",
    "QuotaStore",
    "Resealing",
    "Rotation",
    "RotationStore",
    "RowDamaged",
    "Seal",
    "StorageError",
    "StorageMissing",
    "StoredKey",
    "UsageBatch",
    "UsageField",
    "UsageFilter",
    "UsageLabel",
    "UsageOutcome",
    "UsageRow",
    "UsageStore",
    "folded_last_uses",
    "is_id",
    "matches_search",
    "stored_event",
]
