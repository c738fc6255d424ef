"""Direction of a rotation whose Fernet keys the caller does not name."""

from collections.abc import Iterable, Mapping

from flask_apikey.core.errors import RotationRefused
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.rotation.status import FALLBACKS, PRIMARY

Direction = tuple[str, str]
"""Fingerprints of the Fernet key to retire and of its replacement."""


def default_direction(ring: FernetKeyring, counts: Mapping[str, int], last: Rotation | None) -> Direction:
    """Return the direction that follows from the settings, after the last rotation is finished.

    The fallback that sealed keys is replaced by the primary. Only while no fallback
    has sealed a key, the primary is replaced by the fallback. A direction is refused
    if it is ambiguous or leads to the Fernet key that the last rotation retired.
    """
    primary = ring.fingerprint
    fallbacks = [fingerprint for fingerprint in ring.settings if fingerprint != primary]
    if not fallbacks:
        raise RotationRefused(
            "only one Fernet key is configured here: add the other one, or a new one from "
            f"'flask apikey generate-fernet-key', to {FALLBACKS} of every process first"
        )
    in_use = [fingerprint for fingerprint in fallbacks if counts.get(fingerprint)]
    directions = [(old, primary) for old in in_use] or [(primary, new) for new in fallbacks]
    old, new = directions[0]
    is_repeated = last is not None and last.to_fingerprint == primary
    if len(directions) == 1 and in_use and not is_repeated and counts.get(primary, 0) > counts[old]:
        # A process that was not promoted yet sees this, and must not undo what the promoted ones sealed.
        directions.append((new, old))
    if len(directions) > 1:
        raise _ambiguous(ring, counts, directions)
    if last is not None and last.from_fingerprint == new:
        raise RotationRefused(
            f"the Fernet key {new} was retired by the last rotation: make {last.to_fingerprint} {PRIMARY} of every "
            f"process, and remove {new}. To use it again nevertheless, run {start_command(old, new)}"
        )
    return old, new


def start_command(old: str, new: str) -> str:
    """Return the command that starts a rotation in a direction."""
    return f"'flask apikey rotation start --from {old} --to {new}'"


def _ambiguous(ring: FernetKeyring, counts: Mapping[str, int], directions: Iterable[Direction]) -> RotationRefused:
    configured = ", ".join(f"{name} ({setting}) seals {counts.get(name, 0)}" for name, setting in ring.settings.items())
    commands = ", or ".join(start_command(old, new) for old, new in directions)
    return RotationRefused(
        f"the direction of the rotation is ambiguous: {configured}. Make the Fernet key to keep {PRIMARY} of every "
        f"process, with the others in {FALLBACKS}, and name both: {commands}"
    )
