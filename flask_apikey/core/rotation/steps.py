"""The Fernet key of an application is replaced, and no client notices."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import timedelta

from flask_apikey.core.errors import ConfigurationError, Conflict, InvalidValue, RotationRefused
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.rotation.direction import Direction, direction_of, urgent_direction
from flask_apikey.core.rotation.reseal import Pace, Progress, ResealingReport, reseal_all
from flask_apikey.core.rotation.status import FALLBACKS, SETTING, UNREADABLE_KEYS, RotationStatus, status_of
from flask_apikey.core.storage.contract import Backend, KeepsRotation
from flask_apikey.core.times import Clock, utc_now


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
        ring: FernetKeyring,
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
        self._changes = KeyRepository(backend, clock, origin)

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
            RotationRefused: A rotation is under way, and these are not its Fernet keys the
                other way round; or it is not clear which keys are meant.
            Conflict: Somebody else has started one at the same moment.
        """
        last = self._storage.get_rotation()
        if last is not None and last.finished_at is None:
            there, back = (last.from_fingerprint, last.to_fingerprint), (last.to_fingerprint, last.from_fingerprint)
            if (from_fingerprint, to_fingerprint) != back:
                raise RotationRefused(
                    f"a rotation from {there[0]} to {there[1]} has been under way since "
                    f"{last.started_at:%Y-%m-%d %H:%M} UTC: finish it first, as 'flask apikey rotation status' tells, "
                    "or abandon it with 'flask apikey rotation cancel'"
                )
        counts = self._storage.count_seals()
        return self._start(last, direction_of(self._ring, counts, last, from_fingerprint, to_fingerprint))

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
        counts = self._storage.count_seals()
        remaining = {name: count for name, count in counts.items() if name != self._ring.fingerprint and count}
        if remaining:
            raise RotationRefused(_what_remains(remaining, self._ring.fingerprints))
        finished = replace(rotation, finished_at=self._clock(), version=rotation.version + 1)
        self._storage.put_rotation(finished, expected_version=rotation.version)
        self._note("rotation.finished", {"from": rotation.from_fingerprint, "to": rotation.to_fingerprint})
        return self.status()

    def cancel(self) -> RotationStatus:
        """Abandon the rotation that is under way, while nothing is sealed under the new Fernet key.

        What is kept is a finished rotation back: the new Fernet key counts as the retired one.

        Raises:
            RotationRefused: Keys are sealed under the new Fernet key, or this process
                seals under it, or no rotation is under way.
            Conflict: Somebody else has changed it at the same moment.
        """
        rotation = self._storage.get_rotation()
        if rotation is None or rotation.finished_at is not None:
            raise RotationRefused("no rotation is under way: there is nothing to cancel")
        old, new = rotation.from_fingerprint, rotation.to_fingerprint
        if self._ring.fingerprint == new:
            raise RotationRefused(
                f"this process seals under {new}, to which the rotation leads: to go back, make {old} {SETTING} of "
                f"every process first, with {new} in {FALLBACKS}; {_third_instead(old, new)}"
            )
        count = self._storage.count_seals().get(new, 0)
        if count:
            raise RotationRefused(f"{_keys_are(count)} sealed under {new} already: {self._way_back(old, new)}")
        back = replace(
            rotation,
            from_fingerprint=new,
            to_fingerprint=old,
            finished_at=self._clock(),
            version=rotation.version + 1,
        )
        self._storage.put_rotation(back, expected_version=rotation.version)
        self._note("rotation.cancelled", {"from": old, "to": new})
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
                f"{self._ring.fingerprint}: promote {wanted} to {SETTING} first, with the old one in {FALLBACKS}. "
                f"If {wanted} is lost or has leaked, abandon the rotation with 'flask apikey rotation cancel'"
            )
        return rotation

    def _way_back(self, old: str, new: str) -> str:
        if new not in self._ring.fingerprints:
            return f"add that Fernet key to {FALLBACKS} first. If it is lost, {UNREADABLE_KEYS}"
        return (
            f"to go back, make {old} {SETTING} of every process, with {new} in {FALLBACKS}, and take the steps from "
            f"'flask apikey rotation start --from {new} --to {old}' on; {_third_instead(old, new)}"
        )

    def _start_at_once(self, last: Rotation | None) -> None:
        direction = urgent_direction(self._ring, self._storage.count_seals(), last)
        try:
            self._start(last, direction)
        except Conflict:
            # Another urgent run was first.
            self._require_promoted(self._storage.get_rotation())

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


def _keys_are(count: int) -> str:
    return "1 key is" if count == 1 else f"{count} keys are"


def _what_remains(counts: Mapping[str, int], configured: AbstractSet[str]) -> str:
    each = ", ".join(f"{name or 'no fingerprint'}: {count}" for name, count in sorted(counts.items()))
    unknown = [name or "no fingerprint" for name in sorted(counts.keys() - configured)]
    steps = ["run 'flask apikey rotation run' first"] if counts.keys() & configured else []
    if unknown:
        steps.append(
            f"{', '.join(unknown)} is not configured here: add that Fernet key to {FALLBACKS} and run "
            f"'flask apikey rotation run'. If it is lost, {UNREADABLE_KEYS}"
        )
    return f"{_keys_are(sum(counts.values()))} still sealed under another Fernet key ({each}): {'; '.join(steps)}"


def _third_instead(old: str, new: str) -> str:
    return (
        f"to go on to a third Fernet key, make that one {SETTING} of every process, with {old} and {new} in "
        f"{FALLBACKS}, and use 'flask apikey rotation run --urgent'"
    )
