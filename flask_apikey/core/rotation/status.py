"""Status of a rotation of the Fernet key, and its next step."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealing import FernetKeyring

PRIMARY = "APIKEY_FERNET_KEY"
FALLBACKS = "APIKEY_FERNET_KEY_FALLBACKS"

UNREADABLE_KEYS = (
    "give each of those keys a new secret with 'flask apikey repair ID'; revoke those that nobody needs, and remove "
    "revoked and expired keys with 'flask apikey prune --older-than 0s'"
)
"""Advice on keys whose Fernet key is lost, or whose seal is damaged."""


class RotationStage(Enum):
    """Progress of a rotation, as one process sees it.

    Attributes:
        NONE: Nothing to do.
        ADDED: No rotation is under way, and no key is sealed under a fallback.
        UNRECORDED: No rotation is under way, and keys are sealed under a fallback.
        NOT_CONFIGURED: A rotation is under way to a Fernet key that this process lacks.
        STARTED: A rotation is under way to a fallback of this process.
        PROMOTED: A rotation is under way to the primary of this process, and keys remain.
        RESEALED: A rotation is under way to the primary of this process, and no key remains.
        FINISHED: The last rotation is finished, and this process still has the retired Fernet key.
        BEHIND: The last rotation is finished, and this process still seals under the retired Fernet key.
    """

    NONE = "none"
    ADDED = "added"
    UNRECORDED = "unrecorded"
    NOT_CONFIGURED = "not_configured"
    STARTED = "started"
    PROMOTED = "promoted"
    RESEALED = "resealed"
    FINISHED = "finished"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class SealedKeys:
    """Number of keys sealed under a Fernet key.

    Attributes:
        fingerprint: Fingerprint of the Fernet key.
        keys: Number of keys.
        setting: Setting of this process that holds the Fernet key; None where it lacks the key.
    """

    fingerprint: str
    keys: int
    setting: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """Status of a rotation, as one process sees it.

    Attributes:
        stage: Progress of the rotation.
        rotation: Latest rotation; None where none was ever started.
        seals: Number of keys sealed under each Fernet key: those of this process first, then
            others that sealed keys.
        remaining: Number of keys not sealed under the replacement; where no rotation is under
            way, not sealed under ``APIKEY_FERNET_KEY``.
        is_overdue: True if the rotation should be finished by now and is not.
    """

    stage: RotationStage
    rotation: Rotation | None
    seals: tuple[SealedKeys, ...]
    remaining: int
    is_overdue: bool

    @property
    def next_step(self) -> str:
        """Advice on the next step; empty when there is nothing to do."""
        missing = [each for each in self.seals if each.setting is None]
        is_stuck = bool(missing) and self.remaining == sum(each.keys for each in missing)
        if is_stuck and self.stage in (RotationStage.NONE, RotationStage.PROMOTED):
            names = ", ".join(each.fingerprint for each in missing)
            return f"Add the Fernet key {names} to {FALLBACKS}. If it is lost, {UNREADABLE_KEYS}."
        old, new = ("", "") if self.rotation is None else (self.rotation.from_fingerprint, self.rotation.to_fingerprint)
        setting = next((each.setting for each in self.seals if each.fingerprint == old), None)
        step = _NEXT_STEPS[self.stage]
        return step.format(primary=PRIMARY, fallbacks=FALLBACKS, old=old, new=new, setting=setting)

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return {
            "stage": self.stage.value,
            "rotation": None if self.rotation is None else self.rotation.to_dict(),
            "overdue": self.is_overdue,
            "remaining": self.remaining,
            "seals": [asdict(each) for each in self.seals],
            "next_step": self.next_step,
        }


def status_of(
    ring: FernetKeyring, counts: Mapping[str, int], rotation: Rotation | None, now: datetime
) -> RotationStatus:
    """Return the status of the latest rotation, as a process with these Fernet keys sees it."""
    counts = {fingerprint: count for fingerprint, count in counts.items() if count}
    is_under_way = rotation is not None and rotation.finished_at is None
    replacement = rotation.to_fingerprint if rotation is not None and is_under_way else ring.fingerprint
    unknown = sorted(counts.keys() - ring.fingerprints)
    return RotationStatus(
        stage=_stage_under_way(ring, counts, replacement) if is_under_way else _stage_at_rest(ring, counts, rotation),
        rotation=rotation,
        seals=tuple(
            SealedKeys(each, counts.get(each, 0), ring.settings.get(each)) for each in [*ring.settings, *unknown]
        ),
        remaining=sum(count for fingerprint, count in counts.items() if fingerprint != replacement),
        is_overdue=rotation is not None and rotation.is_overdue(now),
    )


def _stage_under_way(ring: FernetKeyring, counts: Mapping[str, int], replacement: str) -> RotationStage:
    if replacement not in ring.fingerprints:
        return RotationStage.NOT_CONFIGURED
    if replacement != ring.fingerprint:
        return RotationStage.STARTED
    return RotationStage.PROMOTED if counts.keys() - {replacement} else RotationStage.RESEALED


def _stage_at_rest(ring: FernetKeyring, counts: Mapping[str, int], rotation: Rotation | None) -> RotationStage:
    retired = None if rotation is None else rotation.from_fingerprint
    fallbacks = ring.fingerprints - {ring.fingerprint}
    if retired == ring.fingerprint:
        return RotationStage.BEHIND
    if fallbacks & counts.keys():
        return RotationStage.UNRECORDED
    if retired in fallbacks:
        return RotationStage.FINISHED
    return RotationStage.ADDED if fallbacks else RotationStage.NONE


_NEXT_STEPS = {
    RotationStage.NONE: "",
    RotationStage.ADDED: (
        "When every process has the new Fernet key in {fallbacks}, run 'flask apikey rotation start'. "
        "If it is an old one, remove it."
    ),
    RotationStage.UNRECORDED: "When every process uses the present {primary}, run 'flask apikey rotation run'.",
    RotationStage.NOT_CONFIGURED: (
        "Add the Fernet key with the fingerprint {new} to {fallbacks} of this process: "
        "keys that are sealed under it get 503 here. If it is lost or has leaked, run 'flask apikey rotation cancel'."
    ),
    RotationStage.STARTED: (
        "When every process has the Fernet key {new} in {fallbacks}, make it {primary} everywhere, "
        "and put {old} into {fallbacks}. If {new} is lost or has leaked, run 'flask apikey rotation cancel' instead."
    ),
    RotationStage.PROMOTED: (
        "When every process uses the Fernet key {new} as {primary}, run 'flask apikey rotation run'."
    ),
    RotationStage.RESEALED: "Run 'flask apikey rotation finish'.",
    RotationStage.FINISHED: "Remove {setting} ({old}) from every process: nothing is sealed under it any more.",
    RotationStage.BEHIND: (
        "This process seals under the Fernet key {old}, which the last rotation retired: make {new} its {primary}. "
        "To go back to {old} in every process instead, put {new} into {fallbacks} and run "
        "'flask apikey rotation start --from {new} --to {old}'."
    ),
}
