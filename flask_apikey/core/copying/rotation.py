"""What a rotation of the Fernet key has done to a storage is brought to another one."""

from collections.abc import Sequence
from dataclasses import replace

from flask_apikey.core.copying.unprepared import stored_in
from flask_apikey.core.errors import Conflict
from flask_apikey.core.model.keys import Resealing, Rotation, StoredKey
from flask_apikey.core.storage.contract import Backend, KeepsRotation


def is_resealed(ours: StoredKey, theirs: StoredKey, primary: str | None) -> bool:
    """Whether a key is the same on both sides, but only ours is sealed under the primary Fernet key."""
    return ours.record == theirs.record and ours.seal.fingerprint == primary != theirs.seal.fingerprint


def reseal_there(target: Backend, pairs: Sequence[tuple[StoredKey, StoredKey]]) -> int:
    """Let our seals take the place of theirs, where nobody has changed those meanwhile.

    Args:
        target: Where theirs are.
        pairs: The same key on our side and on theirs.

    Returns:
        How many did.
    """
    if isinstance(target, KeepsRotation):
        return target.reseal([Resealing(ours.record.id, theirs.seal, ours.seal) for ours, theirs in pairs])
    return sum(_update(target, ours) for ours, _ in pairs)


def newer_rotation(source: Backend, target: Backend) -> Rotation | None:
    """The rotation of the source, where it is further than the target's."""
    if not isinstance(source, KeepsRotation) or not isinstance(target, KeepsRotation):
        return None
    ours = source.get_rotation()
    theirs = next(stored_in(target, lambda: [target.get_rotation()]), None)
    if ours is None or (theirs is not None and _progress(ours) <= _progress(theirs)):
        return None
    return ours


def bring(ours: Rotation, target: Backend) -> bool:
    """Store a rotation at the target in place of its own. Tells whether nobody else was faster."""
    if not isinstance(target, KeepsRotation):
        return False
    theirs = target.get_rotation()
    version = 0 if theirs is None else theirs.version
    try:
        target.put_rotation(replace(ours, version=max(ours.version, version + 1)), expected_version=version)
    except Conflict:
        return False
    return True


def _update(target: Backend, key: StoredKey) -> bool:
    try:
        target.update(key, expected_version=key.record.version)
    except Conflict:
        return False
    return True


def _progress(rotation: Rotation) -> tuple[object, bool]:
    return rotation.started_at, rotation.finished_at is not None
