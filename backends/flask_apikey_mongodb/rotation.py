"""Seals, and the state of a rotation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bson import Int64
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError
from typing_extensions import override

from flask_apikey.core.errors import Conflict, RowDamaged
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keys import Resealing, Rotation
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.storage.contract import RotationStore
from flask_apikey.core.times import from_microseconds, to_microseconds
from flask_apikey_mongodb.changes import CHANGED_NOW
from flask_apikey_mongodb.collections import Collections
from flask_apikey_mongodb.errors import storage_errors
from flask_apikey_mongodb.queries import by_id, checked_number, checked_text

_ONLY_DOCUMENT = "rotation"


class MongoDBRotation(RotationStore):
    """Seals in the documents of keys, and the rotation in one document."""

    def __init__(self, opened: PerProcess[Collections]) -> None:
        self._opened = opened

    @override
    @storage_errors()
    def reseal(self, resealings: Sequence[Resealing]) -> int:
        """Replace seals, each in one operation."""
        if not resealings:
            return 0
        changes = [
            UpdateOne(
                {**by_id(each.key_id), "seal": checked_text(each.old.token, "seal")},
                {"$set": {"seal": each.new.token, "sealed_by": each.new.fingerprint}, **CHANGED_NOW},
            )
            for each in resealings
        ]
        return self._opened.get().keys.bulk_write(changes, ordered=False).matched_count

    @override
    @storage_errors()
    def count_seals(self) -> Mapping[str, int]:
        """Count keys by fingerprint. Invalid fingerprints are counted under the empty string."""
        counts: Counter[str] = Counter()
        groups: list[dict[str, Any]] = [
            {"$match": {"_id": {"$ne": STORAGE_ID}}},
            {"$group": {"_id": "$sealed_by", "keys": {"$sum": 1}}},
        ]
        for group in self._opened.get().keys.aggregate(groups):
            counts[group["_id"] if isinstance(group["_id"], str) else ""] += group["keys"]
        return counts

    @override
    @storage_errors()
    def get(self) -> Rotation | None:
        document = self._opened.get().rotation.find_one({"_id": _ONLY_DOCUMENT})
        if document is None:
            return None
        try:
            return _from_document(document)
        except (ArithmeticError, KeyError, TypeError, ValueError):
            raise RowDamaged("the stored document of the rotation is damaged") from None

    @override
    @storage_errors()
    def put(self, rotation: Rotation, *, expected_version: int) -> None:
        rotations, document = self._opened.get().rotation, _to_document(rotation)
        stored = 1
        try:
            if expected_version:
                version = checked_number(expected_version, "version")
                stored = rotations.replace_one({"_id": _ONLY_DOCUMENT, "version": version}, document).matched_count
            else:
                rotations.insert_one(document)
        except DuplicateKeyError:
            stored = 0
        if not stored:
            raise Conflict("another process changed the rotation at the same time; nothing was written")


def _to_document(rotation: Rotation) -> dict[str, Any]:
    return {
        "_id": _ONLY_DOCUMENT,
        "from_fingerprint": rotation.from_fingerprint,
        "to_fingerprint": rotation.to_fingerprint,
        "started_at": Int64(to_microseconds(rotation.started_at)),
        "due_at": Int64(to_microseconds(rotation.due_at)),
        "finished_at": None if rotation.finished_at is None else Int64(to_microseconds(rotation.finished_at)),
        "version": rotation.version,
    }


def _from_document(document: Mapping[str, Any]) -> Rotation:
    fingerprints = document["from_fingerprint"], document["to_fingerprint"]
    if not all(isinstance(each, str) for each in fingerprints) or not isinstance(document["version"], int):
        raise TypeError
    finished_at = document["finished_at"]
    return Rotation(
        from_fingerprint=fingerprints[0],
        to_fingerprint=fingerprints[1],
        started_at=from_microseconds(document["started_at"]),
        due_at=from_microseconds(document["due_at"]),
        finished_at=None if finished_at is None else from_microseconds(finished_at),
        version=document["version"],
    )
