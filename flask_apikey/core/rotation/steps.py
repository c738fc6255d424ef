"""Steps of a rotation of the Fernet key."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from flask_apikey.core.errors import ConfigurationError, Conflict, InvalidValue, RotationRefused
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.keys import Rotation
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.rotation.direction import Direction, default_direction, start_command
from flask_apikey.core.rotation.reseal import Pace, Progress, ResealingReport, reseal_all
from flask_apikey.core.rotation.status import FALLBACKS, PRIMARY, UNREADABLE_KEYS, RotationStatus, status_of
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, utc_now


class FernetRotation:
    """Rotation of the Fernet key. Any process may take any step, and repeat it."""

    def __init__(
        self,
        backend: Backend,
        ring: FernetKeyring,
        *,
        period: timedelta = timedelta(days=7),
        clock: Clock = utc_now,
        event_context: Callable[[], Mapping[str, str]] = dict,
        announce: Callable[[str, str], object] = lambda _event, _description: None,
    ) -> None:
        if backend.rotation is None:
            raise ConfigurationError(f"the storage ({type(backend).__name__}) cannot re-seal keys")
        self._backend = backend
        self._store = backend.rotation
        self._ring = ring
        self._period = period
        self._clock = clock
        self._announce = announce
        self._repository = KeyRepository(backend, ring, clock, event_context)

    def status(self) -> RotationStatus:
        """Return the status of the rotation, as this process sees it."""
        # Counted after the rotation is read, so that 'finish' cannot pair a rotation with an older count.
        rotation = self._store.get()
        return status_of(self._ring, self._store.count_seals(), rotation, self._clock())

    def start(self, *, from_fingerprint: str | None = None, to_fingerprint: str | None = None) -> Rotation:
        """Record the start of a rotation.

        Without arguments, ``APIKEY_FERNET_KEY`` replaces the fallback that sealed keys. Before
        any key is sealed under the fallback, the fallback is to replace ``APIKEY_FERNET_KEY``.

        With both arguments, the direction may be any, and the rotation may take the place of
        one that is under way to another Fernet key.

        Args:
            from_fingerprint: Fingerprint of the Fernet key to retire.
            to_fingerprint: Fingerprint of its replacement.

        Raises:
            RotationRefused: A rotation is under way, the direction is ambiguous, or a fingerprint is unknown.
            Conflict: Another process changed the rotation at the same moment.
        """
        last = self._store.get()
        if last is not None and last.finished_at is None and to_fingerprint in (None, last.to_fingerprint):
            raise RotationRefused(
                f"a rotation from {last.from_fingerprint} to {last.to_fingerprint} has been under way since "
                f"{last.started_at:%Y-%m-%d %H:%M} UTC: finish it first, as 'flask apikey rotation status' advises, "
                "or abandon it with 'flask apikey rotation cancel'"
            )
        counts = self._store.count_seals()
        if from_fingerprint is None and to_fingerprint is None:
            return self._start(last, default_direction(self._ring, counts, last))
        if from_fingerprint is None or to_fingerprint is None or from_fingerprint == to_fingerprint:
            raise RotationRefused("name two Fernet keys, with --from and --to, or none")
        _require_known(from_fingerprint, self._ring.fingerprints | counts.keys())
        _require_known(to_fingerprint, self._ring.fingerprints)
        return self._start(last, (from_fingerprint, to_fingerprint))

    def prepare(self) -> RotationStatus:
        """Check that `run` is possible, and start a rotation to ``APIKEY_FERNET_KEY`` if none is under way.

        `run` calls this itself.

        Raises:
            RotationRefused: ``APIKEY_FERNET_KEY`` of this process is not the replacement, or
                the direction is ambiguous.
        """
        last = self._store.get()
        if last is None or last.finished_at is not None:
            old, new = default_direction(self._ring, self._store.count_seals(), last)
            if new != self._ring.fingerprint:
                raise RotationRefused(
                    f"no key is sealed under {FALLBACKS}: to retire {old}, make {new} {PRIMARY} of every process "
                    f"first, with {old} in {FALLBACKS}"
                )
            # On a conflict another process has started a rotation: go on with that one.
            with suppress(Conflict):
                self._start(last, (old, new))
        status = self.status()
        self._require_promoted(status)
        return status

    def run(self, *, rate: int | None = None, progress: Progress | None = None) -> ResealingReport:
        """Re-seal every key that another configured Fernet key has sealed.

        Args:
            rate: Maximum number of keys per second.
            progress: Called with the number of keys read in each batch.

        Raises:
            RotationRefused: ``APIKEY_FERNET_KEY`` of this process is not the replacement, or
                the direction is ambiguous.
        """
        if rate is not None and rate < 1:
            raise InvalidValue("rate must be at least 1 key in a second")
        self.prepare()
        report = reseal_all(self._backend, self._store, self._ring, pace=Pace(rate), progress=progress)
        self._record("rotation.run", report.to_dict())
        return report

    def finish(self) -> RotationStatus:
        """Record the end of the rotation.

        Raises:
            RotationRefused: Keys are sealed under another Fernet key, or no rotation is under way.
            Conflict: Another process changed the rotation at the same moment.
        """
        status = self.status()
        rotation = self._require_promoted(status)
        if status.remaining:
            others = [each for each in status.seals if each.keys and each.fingerprint != rotation.to_fingerprint]
            counts = ", ".join(f"{each.fingerprint or 'no fingerprint'}: {each.keys}" for each in others)
            raise RotationRefused(
                f"{_count_keys(status.remaining)} still sealed under another Fernet key ({counts}). {status.next_step}"
            )
        return self._end(rotation, "rotation.finished", rotation)

    def cancel(self) -> RotationStatus:
        """Abandon the rotation while no key is sealed under the replacement.

        The rotation is stored in reverse, as finished: the replacement counts as retired.

        Raises:
            RotationRefused: Keys are sealed under the replacement, this process seals under
                it, or no rotation is under way.
            Conflict: Another process changed the rotation at the same moment.
        """
        rotation = self._store.get()
        if rotation is None or rotation.finished_at is not None:
            raise RotationRefused("no rotation is under way: there is nothing to cancel")
        old, new = rotation.from_fingerprint, rotation.to_fingerprint
        count = self._store.count_seals().get(new, 0)
        if self._ring.fingerprint == new:
            raise RotationRefused(f"this process seals under {new}: {self._way_out(old, new)}")
        if count:
            raise RotationRefused(f"{_count_keys(count)} sealed under {new} already: {self._way_out(old, new)}")
        reverse = replace(rotation, from_fingerprint=new, to_fingerprint=old)
        return self._end(rotation, "rotation.cancelled", reverse)

    def _start(self, last: Rotation | None, direction: Direction) -> Rotation:
        old, new = direction
        now = self._clock()
        version = 0 if last is None else last.version
        due = now + self._period
        rotation = Rotation(from_fingerprint=old, to_fingerprint=new, started_at=now, due_at=due, version=version + 1)
        self._store.put(rotation, expected_version=version)
        self._record("rotation.started", {"from": old, "to": new, "due_at": rotation.due_at.isoformat()})
        return rotation

    def _end(self, rotation: Rotation, event: str, end: Rotation) -> RotationStatus:
        finished = replace(end, finished_at=self._clock(), version=rotation.version + 1)
        self._store.put(finished, expected_version=rotation.version)
        self._record(event, {"from": rotation.from_fingerprint, "to": rotation.to_fingerprint})
        return self.status()

    def _require_promoted(self, status: RotationStatus) -> Rotation:
        rotation, primary = status.rotation, self._ring.fingerprint
        if rotation is None or rotation.finished_at is not None:
            raise RotationRefused("no rotation is under way: begin with 'flask apikey rotation run'")
        old, new = rotation.from_fingerprint, rotation.to_fingerprint
        if primary != new:
            advice = f" To rotate to {primary} instead, run {start_command(new, primary)}." if primary != old else ""
            raise RotationRefused(
                f"the rotation leads to the Fernet key {new}, and this process seals under {primary}. "
                f"{status.next_step}{advice}"
            )
        return rotation

    def _way_out(self, old: str, new: str) -> str:
        if new not in self._ring.fingerprints:
            return f"add that Fernet key to {FALLBACKS} first. If it is lost, {UNREADABLE_KEYS}"
        return (
            f"to go back, make {old} {PRIMARY} of every process, with {new} in {FALLBACKS}, and run "
            f"{start_command(new, old)}. To go on to a third Fernet key, make it {PRIMARY} of every process, with "
            f"the others in {FALLBACKS}, and run {start_command(new, 'FINGERPRINT')}"
        )

    def _record(self, event: str, details: Mapping[str, object]) -> None:
        self._repository.record_without_key(event, details)
        shown = {name: value for name, value in details.items() if isinstance(value, str | int)}
        self._announce(event, ", ".join(f"{name} {value}" for name, value in shown.items()))


def _require_known(fingerprint: str, known: AbstractSet[str]) -> None:
    if fingerprint not in known:
        raise RotationRefused(
            f"no Fernet key has the fingerprint {fingerprint} here; there are: {', '.join(sorted(known))}"
        )


def _count_keys(count: int) -> str:
    return "1 key is" if count == 1 else f"{count} keys are"
