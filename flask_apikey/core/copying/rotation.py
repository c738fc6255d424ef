"""State of a Fernet key rotation, copied to the target."""

from flask_apikey.core.copying.summary import stored_in
from flask_apikey.core.errors import Conflict, TargetInUse
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.storage.contract import Backend


def newer_rotation(source: Backend, target: Backend) -> Rotation | None:
    """Return the rotation of the source if the target lacks it or has an earlier state.

    Raises:
        TargetInUse: The rotation of the target is not an earlier state of the source's.
    """
    store = target.rotation
    if store is None:
        return None
    ours = None if source.rotation is None else source.rotation.get()
    theirs = next(stored_in(target, lambda: [store.get()]), None)
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
    if target.rotation is None:
        return
    stored = target.rotation.get()
    version = 0 if stored is None else stored.version
    if version >= rotation.version:
        raise Conflict("the rotation of the target has changed")
    target.rotation.put(rotation, expected_version=version)
