"""The Fernet key of an application is replaced, and no client notices."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import timedelta

from flask_apikey.core.errors import ConfigurationError, Conflict, InvalidValue, RotationRefused
from flask_apikey.core.recorded_changes import RecordedChanges
from flask_apikey.core.records import Rotation
from flask_apikey.core.resealing import Pace, Progress, ResealingReport, reseal_all
from flask_apikey.core.rotation_status import FALLBACKS, SETTING, RotationStatus, status_of
from flask_apikey.core.sealing import FernetRing
from flask_apikey.core.storage import Backend, KeepsRotation
from flask_apikey.core.times import Clock, utc_now

Direction = tuple[str, str]
"""The fingerprints of a Fernet key and of the one that takes its place."""


class FernetRotation:
    """The steps of a rotation. Each may be taken by any process, at any time, and repeated.

    Args:
        backend: Where the keys are kept.
        ring: The application's Fernet keys.
        period: After so long a rotation should be finished.
        clock: The present moment, in UTC.
        origin: Gives what an event should tell of where a step is taken.
        tell: Called with the name of each step that was taken, and what it did.

    Raises:
        ConfigurationError: The storage cannot re-seal keys.
    """

    def __init__(
        self,
        backend: Backend,
        ring: FernetRing,
        *,
        period: timedelta = timedelta(days=7),
        clock: Clock = utc_now,
        origin: Callable[[], Mapping[str, str]] = dict,
        tell: Callable[[str, str], object] | None = None,
    ) -> None:
        self._backend = backend
        self._storage = rotation_storage(backend)
        self._ring = ring
        self._period = period
        self._clock = clock
        self._tell = tell
        self._changes = RecordedChanges(backend, ring, clock, origin)

    def status(self) -> RotationStatus:
        """Where the rotation stands, as this process sees it."""
        return status_of(self._ring, self._storage.count_seals(), self._storage.get_rotation(), self._clock())

    def start(self, *, from_fingerprint: str | None = None, to_fingerprint: str | None = None) -> Rotation:
        """Record that one Fernet key is to take the place of another.

        Which they are is told by the settings and by what is sealed: the one to retire is
        ``APIKEY_FERNET_KEY`` while nothing is sealed under the fallback, and afterwards the
        fallback under which keys are sealed.

        Args:
            from_fingerprint: Of the Fernet key that is to be retired, where that is ambiguous.
            to_fingerprint: Of the one that takes its place.

        Raises:
            RotationRefused: A rotation is under way, or it is not clear which keys are meant.
            Conflict: Somebody else has started one at the same moment.
        """
        last = self._storage.get_rotation()
        if last is not None and last.finished_at is None:
            raise RotationRefused(
                f"a rotation from {last.from_fingerprint} to {last.to_fingerprint} has been under way since "
                f"{last.started_at:%Y-%m-%d %H:%M} UTC: finish it first; 'flask apikey rotation status' tells how"
            )
        return self._start(last, self._direction(last, from_fingerprint, to_fingerprint))

    def prepare(self, *, urgent: bool = False) -> RotationStatus:
        """See whether `run` may begin, as it does itself first.

        Args:
            urgent: Start the rotation, if none to the present ``APIKEY_FERNET_KEY`` is
                under way: after a Fernet key has leaked.

        Raises:
            RotationRefused: No rotation is under way, or the new Fernet key is not
                ``APIKEY_FERNET_KEY`` of this process.
        """
        rotation = self._storage.get_rotation()
        if urgent and not self._leads_here(rotation):
            self._start_at_once(rotation)
        else:
            self._require_promoted(rotation)
        return self.status()

    def run(
        self, *, rate: int | None = None, urgent: bool = False, progress: Progress | None = None
    ) -> ResealingReport:
        """Seal every key under the new Fernet key that is sealed under another one that is configured.

        Args:
            rate: At most so many keys in a second.
            urgent: As in `prepare`.
            progress: Called with the number of keys that were looked at.

        Raises:
            RotationRefused: As in `prepare`.
        """
        if rate is not None and rate < 1:
            raise InvalidValue("rate must be at least 1 key in a second")
        self.prepare(urgent=urgent)
        report = reseal_all(self._backend, self._storage, self._ring, pace=Pace(rate), progress=progress)
        self._note("rotation.run", report.to_dict())
        return report

    def finish(self) -> RotationStatus:
        """Record that nothing is sealed under another Fernet key any more.

        Raises:
            RotationRefused: Something is, or no rotation is under way.
            Conflict: Somebody else has finished it at the same moment.
        """
        rotation = self._require_promoted(self._storage.get_rotation())
        remaining = self._others(self._storage.count_seals())
        if remaining:
            counts = ", ".join(f"{name or 'no fingerprint'}: {count}" for name, count in sorted(remaining.items()))
            raise RotationRefused(
                f"{sum(remaining.values())} keys are still sealed under another Fernet key ({counts}): "
                "run 'flask apikey rotation run' first"
            )
        finished = replace(rotation, finished_at=self._clock(), version=rotation.version + 1)
        self._storage.put_rotation(finished, expected_version=rotation.version)
        self._note("rotation.finished", {"from": rotation.from_fingerprint, "to": rotation.to_fingerprint})
        return self.status()

    def _start(self, last: Rotation | None, direction: Direction) -> Rotation:
        now = self._clock()
        version = 0 if last is None else last.version
        rotation = Rotation(
            from_fingerprint=direction[0],
            to_fingerprint=direction[1],
            started_at=now,
            due_at=now + self._period,
            version=version + 1,
        )
        self._storage.put_rotation(rotation, expected_version=version)
        self._note(
            "rotation.started", {"from": direction[0], "to": direction[1], "due_at": rotation.due_at.isoformat()}
        )
        return rotation

    def _direction(self, last: Rotation | None, from_fingerprint: str | None, to_fingerprint: str | None) -> Direction:
        counts = self._storage.count_seals()
        if len(self._ring.fingerprints) == 1:
            raise RotationRefused(
                "only one Fernet key is configured here: make another with 'flask apikey generate-fernet-key', "
                f"and add it to {FALLBACKS} of every process first"
            )
        _require_known(from_fingerprint, self._ring.fingerprints | counts.keys())
        _require_known(to_fingerprint, self._ring.fingerprints)
        if from_fingerprint and to_fingerprint:
            possible = [(from_fingerprint, to_fingerprint)] if from_fingerprint != to_fingerprint else []
        else:
            possible = [
                each
                for each in _directions(self._ring, counts, last)
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

    def _leads_here(self, rotation: Rotation | None) -> bool:
        return (
            rotation is not None
            and rotation.finished_at is None
            and self._ring.fingerprint in (rotation.from_fingerprint, rotation.to_fingerprint)
        )

    def _require_promoted(self, rotation: Rotation | None) -> Rotation:
        if rotation is None or rotation.finished_at is not None:
            raise RotationRefused("no rotation is under way: begin with 'flask apikey rotation start'")
        wanted = rotation.to_fingerprint
        if wanted != self._ring.fingerprint:
            raise RotationRefused(
                f"the rotation leads to the Fernet key {wanted}, and this process seals under "
                f"{self._ring.fingerprint}: promote {wanted} to {SETTING} first, with the old one in {FALLBACKS}"
            )
        return rotation

    def _start_at_once(self, last: Rotation | None) -> None:
        present = self._ring.fingerprint
        counts = self._storage.count_seals()
        others = self._others(counts)
        known = {name: count for name, count in others.items() if name in self._ring.fingerprints}
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
        try:
            self._start(last, (max(known, key=lambda name: known[name]), present))
        except Conflict:
            # Another urgent run was first.
            self._require_promoted(self._storage.get_rotation())

    def _others(self, counts: Mapping[str, int]) -> dict[str, int]:
        return {name: count for name, count in counts.items() if name != self._ring.fingerprint and count}

    def _note(self, event: str, details: Mapping[str, object]) -> None:
        self._changes.note_about_no_key(event, details)
        if self._tell is not None:
            told = {name: value for name, value in details.items() if isinstance(value, str | int)}
            self._tell(event, ", ".join(f"{name} {value}" for name, value in told.items()))


def rotation_storage(backend: Backend) -> KeepsRotation:
    """The backend as one that can re-seal keys.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(backend, KeepsRotation):
        raise ConfigurationError(f"the storage ({type(backend).__name__}) cannot re-seal keys")
    return backend


def _require_known(fingerprint: str | None, known: AbstractSet[str]) -> None:
    if fingerprint is not None and fingerprint not in known:
        raise RotationRefused(
            f"no Fernet key has the fingerprint {fingerprint} here; there are: {', '.join(sorted(known))}"
        )


def _directions(ring: FernetRing, counts: Mapping[str, int], last: Rotation | None) -> Iterator[Direction]:
    retired = None if last is None else last.from_fingerprint
    for fallback in ring.settings:
        if fallback == ring.fingerprint:
            continue
        if counts.get(fallback):
            yield fallback, ring.fingerprint
        elif fallback != retired:
            yield ring.fingerprint, fallback
