"""Checks of a rotation of the Fernet key, and of keys that cannot be unsealed."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.rotation.status import UNREADABLE_KEYS, RotationStage, RotationStatus
from flask_apikey.doctor.findings import Finding, Severity, problem


def unreadable_keys(ring: FernetKeyring, counts: Mapping[str, int]) -> Iterator[Finding]:
    """Report keys sealed under Fernet keys that this process lacks, from their number by fingerprint."""
    unreadable = {name: count for name, count in counts.items() if name not in ring.fingerprints}
    if unreadable:
        yield problem(
            "keys_unreadable",
            f"Keys sealed under a Fernet key that is not configured: {sum(unreadable.values())}. They get 503.",
            f"Add that Fernet key to APIKEY_FERNET_KEY_FALLBACKS. If it is lost, {UNREADABLE_KEYS}.",
            details=tuple({"fingerprint": name, "keys": count} for name, count in sorted(unreadable.items())),
        )


def rotation(status: RotationStatus) -> Iterator[Finding]:
    """Report the next step of a rotation, if there is one."""
    if status.stage is RotationStage.NONE:
        return
    yield Finding(
        code="rotation_overdue" if status.is_overdue else f"rotation_{status.stage.value}",
        severity=_SEVERITIES.get(status.stage, Severity.WARNING),
        message=_message(status),
        advice=status.next_step,
        details=tuple(asdict(each) for each in status.seals if each.setting is not None),
    )


def _message(status: RotationStatus) -> str:
    rotation = status.rotation
    match status.stage:
        case RotationStage.ADDED:
            return "A Fernet key is configured under which nothing is sealed."
        case RotationStage.UNRECORDED:
            return "Keys are sealed under a fallback, and no rotation was started."
        case RotationStage.BEHIND:
            return "This process seals under a Fernet key that the last rotation retired."
        case _ if rotation is None or rotation.finished_at is not None:
            return "The rotation of the Fernet key is finished, and the retired one is still configured."
        case _:
            since = f"since {rotation.started_at:%Y-%m-%d}"
            overdue = f", and was due on {rotation.due_at:%Y-%m-%d}" if status.is_overdue else ""
            left = f"Keys that are not sealed under {rotation.to_fingerprint} yet: {status.remaining}."
            return f"A rotation of the Fernet key has been under way {since}{overdue}. {left}"


_SEVERITIES = {
    RotationStage.ADDED: Severity.OK,
    RotationStage.NOT_CONFIGURED: Severity.PROBLEM,
    RotationStage.BEHIND: Severity.PROBLEM,
}
