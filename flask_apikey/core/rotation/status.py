"""Where a rotation of the Fernet key stands, and what is to be done next."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealing import FernetKeyring

SETTING = "APIKEY_FERNET_KEY"
FALLBACKS = "APIKEY_FERNET_KEY_FALLBACKS"

UNREADABLE_KEYS = (
    "give the active ones among those keys a new secret with 'flask apikey roll ID --grace 0s'; revoke the others, "
    "and remove what has ended with 'flask apikey prune --older-than 0s'"
)
"""What can be done about keys whose Fernet key is lost, or whose seal is damaged."""


class RotationStage(Enum):
    """How far a rotation is, as one process sees it.

    Attributes:
        NONE: There is nothing to do.
        ADDED: None is under way, and nothing is sealed under the fallbacks.
        UNRECORDED: None is under way, and keys are sealed under a fallback.
        NOT_CONFIGURED: One is under way to a Fernet key that this process lacks.
        STARTED: One is under way to a fallback of this process.
        PROMOTED: One is under way to ``APIKEY_FERNET_KEY`` of this process, and keys remain.
        RESEALED: One is under way, and no key remains.
        FINISHED: The last one is finished, and this process still has the retired Fernet key.
        BEHIND: The last one is finished, and this process still seals under the retired Fernet key.
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
    """How many keys are sealed under a Fernet key.

    Attributes:
        fingerprint: Of the Fernet key.
        keys: How many.
        setting: Where this process has it from; None where it lacks it.
    """

    fingerprint: str
    keys: int
    setting: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """Where a rotation stands.

    Attributes:
        stage: How far it is.
        rotation: The one that was started last; None when there was none.
        seals: How many keys are sealed under each Fernet key: those that this process has,
            and any others that sealed keys.
        remaining: Keys that are sealed under another Fernet key than the one that is rotated
            to; where no rotation is under way, than ``APIKEY_FERNET_KEY``.
        is_overdue: Whether it should be finished and is not.
    """

    stage: RotationStage
    rotation: Rotation | None
    seals: tuple[SealedKeys, ...]
    remaining: int
    is_overdue: bool

    @property
    def next_step(self) -> str:
        """What is to be done now; empty when there is nothing to do."""
        lacking = [each for each in self.seals if each.setting is None]
        is_stuck = bool(lacking) and self.remaining == sum(each.keys for each in lacking)
        if is_stuck and self.stage in (RotationStage.NONE, RotationStage.PROMOTED):
            names = ", ".join(each.fingerprint for each in lacking)
            return f"Add the Fernet key {names} to {FALLBACKS}. If it is lost, {UNREADABLE_KEYS}."
        return _NEXT_STEPS[self.stage].format(
            setting=SETTING,
            fallbacks=FALLBACKS,
            old="" if self.rotation is None else self.rotation.from_fingerprint,
            new="" if self.rotation is None else self.rotation.to_fingerprint,
            place="" if self.rotation is None else self.setting_of(self.rotation.from_fingerprint),
        )

    def setting_of(self, fingerprint: str) -> str | None:
        """The setting from which this process has a Fernet key."""
        return next((each.setting for each in self.seals if each.fingerprint == fingerprint), None)

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return {
            "stage": self.stage.value,
            "rotation": None if self.rotation is None else self.rotation.to_dict(),
            "overdue": self.is_overdue,
            "remaining": self.remaining,
            "seals": [
                {"fingerprint": each.fingerprint, "keys": each.keys, "setting": each.setting} for each in self.seals
            ],
            "next": self.next_step,
        }


def status_of(
    ring: FernetKeyring, counts: Mapping[str, int], rotation: Rotation | None, now: datetime
) -> RotationStatus:
    """Where a rotation stands, as a process with these Fernet keys sees it.

    Args:
        ring: The Fernet keys of the process.
        counts: How many keys are sealed under each Fernet key.
        rotation: The rotation that was started last.
        now: The present moment.
    """
    counts = {fingerprint: count for fingerprint, count in counts.items() if count}
    is_under_way = rotation is not None and rotation.finished_at is None
    wanted = rotation.to_fingerprint if rotation is not None and is_under_way else ring.fingerprint
    unknown = sorted(counts.keys() - ring.fingerprints)
    return RotationStatus(
        stage=_stage_under_way(ring, counts, wanted) if is_under_way else _stage_otherwise(ring, counts, rotation),
        rotation=rotation,
        seals=tuple(
            SealedKeys(each, counts.get(each, 0), ring.settings.get(each)) for each in [*ring.settings, *unknown]
        ),
        remaining=sum(count for fingerprint, count in counts.items() if fingerprint != wanted),
        is_overdue=rotation is not None and rotation.is_overdue(now),
    )


def _stage_under_way(ring: FernetKeyring, counts: Mapping[str, int], wanted: str) -> RotationStage:
    if wanted not in ring.fingerprints:
        return RotationStage.NOT_CONFIGURED
    if wanted != ring.fingerprint:
        return RotationStage.STARTED
    return RotationStage.PROMOTED if counts.keys() - {wanted} else RotationStage.RESEALED


def _stage_otherwise(ring: FernetKeyring, counts: Mapping[str, int], rotation: Rotation | None) -> RotationStage:
    fallbacks = ring.fingerprints - {ring.fingerprint}
    if rotation is not None and rotation.from_fingerprint == ring.fingerprint:
        return RotationStage.BEHIND
    if fallbacks & counts.keys():
        return RotationStage.UNRECORDED
    if rotation is not None and rotation.from_fingerprint in fallbacks:
        return RotationStage.FINISHED
    return RotationStage.ADDED if fallbacks else RotationStage.NONE


_NEXT_STEPS = {
    RotationStage.NONE: "",
    RotationStage.ADDED: (
        "When every process has the new Fernet key in {fallbacks}, run 'flask apikey rotation start'. "
        "If it is an old one, remove it."
    ),
    RotationStage.UNRECORDED: (
        "When every process uses the present {setting}, run 'flask apikey rotation start', "
        "and then 'flask apikey rotation run'."
    ),
    RotationStage.NOT_CONFIGURED: (
        "Add the Fernet key with the fingerprint {new} to {fallbacks} of this process: "
        "keys that are sealed under it get 503 here. If it is lost or has leaked, run 'flask apikey rotation cancel'."
    ),
    RotationStage.STARTED: (
        "When every process has the Fernet key {new} in {fallbacks}, make it {setting} everywhere, "
        "and put {old} into {fallbacks}. If {new} is lost or has leaked, run 'flask apikey rotation cancel' instead."
    ),
    RotationStage.PROMOTED: (
        "When every process uses the Fernet key {new} as {setting}, run 'flask apikey rotation run'."
    ),
    RotationStage.RESEALED: "Run 'flask apikey rotation finish'.",
    RotationStage.FINISHED: "Remove {place} ({old}) from every process: nothing is sealed under it any more.",
    RotationStage.BEHIND: (
        "This process seals under the Fernet key {old}, which the last rotation retired: make {new} its {setting}. "
        "To go back to {old} in every process instead, run 'flask apikey rotation start' with {new} in {fallbacks}."
    ),
}
