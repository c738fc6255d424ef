"""Which Fernet key takes the place of which, as the settings and the stored keys tell."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from flask_apikey.core.errors import RotationRefused
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.rotation.status import FALLBACKS, SETTING

Direction = tuple[str, str]
"""The fingerprints of a Fernet key and of the one that takes its place."""


def direction_of(
    ring: FernetKeyring,
    counts: Mapping[str, int],
    last: Rotation | None,
    from_fingerprint: str | None,
    to_fingerprint: str | None,
) -> Direction:
    """The direction of a rotation that is to start.

    Args:
        ring: The Fernet keys of this process.
        counts: How many keys are sealed under each Fernet key.
        last: The rotation that was started last.
        from_fingerprint: Of the Fernet key that is to be retired, if it was named.
        to_fingerprint: Of the one that takes its place, if it was named.

    Raises:
        RotationRefused: It is not clear which they are.
    """
    if len(ring.fingerprints) == 1:
        raise RotationRefused(
            "only one Fernet key is configured here: make another with 'flask apikey generate-fernet-key', "
            f"and add it to {FALLBACKS} of every process first"
        )
    _require_known(from_fingerprint, ring.fingerprints | counts.keys())
    _require_known(to_fingerprint, ring.fingerprints)
    if from_fingerprint and to_fingerprint:
        possible = [(from_fingerprint, to_fingerprint)] if from_fingerprint != to_fingerprint else []
    else:
        possible = [
            each
            for each in _directions(ring, counts, last)
            if from_fingerprint in (None, each[0]) and to_fingerprint in (None, each[1])
        ]
    if len(possible) == 1:
        return possible[0]
    if possible:
        named = ", or ".join(f"--from {each[0]} --to {each[1]}" for each in possible)
        raise RotationRefused(f"it is not clear which Fernet key is to take the place of which: name them, {named}")
    if from_fingerprint is None and to_fingerprint is None:
        raise RotationRefused(
            "the other Fernet key was retired by the last rotation: remove it, "
            f"and add a new one to {FALLBACKS} of every process first"
        )
    raise RotationRefused("these Fernet keys cannot take each other's place: name both, with --from and --to")


def urgent_direction(ring: FernetKeyring, counts: Mapping[str, int], last: Rotation | None) -> Direction:
    """The direction of a rotation to the primary Fernet key, after another one has leaked.

    Args:
        ring: The Fernet keys of this process.
        counts: How many keys are sealed under each Fernet key.
        last: The rotation that was started last.

    Raises:
        RotationRefused: There is nothing that can be re-sealed, or the primary may be the one that leaked.
    """
    present = ring.fingerprint
    if last is not None and last.finished_at is not None and last.from_fingerprint == present:
        raise RotationRefused(
            f"this process seals under {present}, which the last rotation retired, perhaps because it leaked: make "
            f"{last.to_fingerprint} its {SETTING}. To go back to {present} all the same, take the steps one by one, "
            "with 'flask apikey rotation start'"
        )
    others = {name: count for name, count in counts.items() if name != present and count}
    known = {name: count for name, count in others.items() if name in ring.fingerprints}
    if not others:
        raise RotationRefused(
            f"every key is sealed under {SETTING} already ({present}): if that is the Fernet key that leaked, "
            f"make a new one {SETTING} of every process first, with the leaked one in {FALLBACKS}"
        )
    if not known:
        raise RotationRefused(
            f"no key can be re-sealed: add the Fernet key that sealed them ({', '.join(sorted(others))}) "
            f"to {FALLBACKS} first"
        )
    if counts.get(present, 0) > sum(known.values()):
        raise RotationRefused(
            f"more keys are sealed under {SETTING} ({present}) than under the {FALLBACKS}: if {present} is the "
            f"Fernet key that leaked, promote the new one to {SETTING} first; if not, take the steps one by one, "
            "with 'flask apikey rotation start'"
        )
    return max(known, key=lambda name: known[name]), present


def _require_known(fingerprint: str | None, known: AbstractSet[str]) -> None:
    if fingerprint is not None and fingerprint not in known:
        raise RotationRefused(
            f"no Fernet key has the fingerprint {fingerprint} here; there are: {', '.join(sorted(known))}"
        )


def _directions(ring: FernetKeyring, counts: Mapping[str, int], last: Rotation | None) -> Iterator[Direction]:
    retired = None if last is None else last.from_fingerprint
    for fallback in ring.settings:
        if fallback == ring.fingerprint:
            continue
        if counts.get(fallback):
            yield fallback, ring.fingerprint
        elif fallback != retired:
            yield ring.fingerprint, fallback
