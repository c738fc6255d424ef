"""Names for writing a storage backend."""

from flask_apikey.core.errors import AlreadyExists, Conflict, StorageError, StorageMissing
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent, Link, chained
from flask_apikey.core.model.keys import APIKey, Cursor, Resealing, Rotation, StoredKey
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.model.usage import (
    PREVIOUS_SECRET,
    LastUse,
    UsageBatch,
    UsageField,
    UsageFilter,
    UsageLabel,
    UsageRow,
)
from flask_apikey.core.storage.contract import Backend, HistoryStore, KeyFilter, RotationStore, UsageStore
from flask_apikey.core.usage.last_use import FoldedLastUses, folded_last_uses

__all__ = [
    "PREVIOUS_SECRET",
    "APIKey",
    "AlreadyExists",
    "Backend",
    "ChainedEvent",
    "Conflict",
    "Cursor",
    "FoldedLastUses",
    "HistoryStore",
    "KeyFilter",
    "LastUse",
    "LifecycleEvent",
    "Link",
    "Resealing",
    "Rotation",
    "RotationStore",
    "Seal",
    "StorageError",
    "StorageMissing",
    "StoredKey",
    "UsageBatch",
    "UsageField",
    "UsageFilter",
    "UsageLabel",
    "UsageRow",
    "UsageStore",
    "chained",
    "folded_last_uses",
    "is_id",
]
