"""State of a Fernet key rotation, copied to the target."""

from flask_apikey.core.copying.summary import stored_in
from flask_apikey.core.errors import Conflict, TargetInUse
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.storage.contract import Backend, KeepsRotation


def newer_rotation(source: Backend, target: Backend) -> Rotation | None:
    """Return the rotation of the source if the target lacks it or has an earlier state.

    Raises:
        TargetInUse: The rotation of the target is not an earlier state of the source's.
    """
    if not isinstance(target, KeepsRotation):
        return None
    ours = source.get_rotation() if isinstance(source, KeepsRotation) else None
    theirs = next(stored_in(target, lambda: [target.get_rotation()]), None)
    if ours == theirs:
        return None
    if theirs is not None and (ours is None or theirs.version >= ours.version):
        raise TargetInUse("its state of a rotation of the Fernet key is not from the source")
    return ours


def write_rotation(rotation: Rotation, target: Backend) -> None:
    """Store a rotation at the target in place of an earlier one.

    Raises:
        Conflict: The rotation of the target has changed during the copy.
    """
    if not isinstance(target, KeepsRotation):
        return
    stored = target.get_rotation()
    version = 0 if stored is None else stored.version
    if version >= rotation.version:
        raise Conflict("the rotation of the target has changed")
    target.put_rotation(rotation, expected_version=version)
