"""The steps of a rotation of the Fernet key, as processes with different settings take them on one storage."""

import json
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import update

from flask_apikey import ConfigurationError, Conflict, InvalidValue, RotationRefused
from flask_apikey.core.copying.rotation import newer_rotation
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.issuance import Issuance
from flask_apikey.core.keys.lifecycle import Lifecycle
from flask_apikey.core.model.history import all_events, verify_chain
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.rotation.reseal import BATCH, Pace, reseal_all
from flask_apikey.core.rotation.status import RotationStage
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey_sql import SQLBackend
from tests.conftest import WatchedBackend

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
OLD, NEW, THIRD = (generate_fernet_key() for _ in range(3))
OLD_PRINT, NEW_PRINT, THIRD_PRINT = (FernetKeyring(key).fingerprint for key in (OLD, NEW, THIRD))


class BusyBackend(SQLBackend):
    """A real backend that lets somebody else in before a write."""

    before_next_update = None
    before_next_reseal = None
    before_next_put = None

    def update_recorded(self, key, **rest):
        self._step("before_next_update")
        super().update_recorded(key, **rest)

    def reseal(self, resealings):
        self._step("before_next_reseal")
        return super().reseal(resealings)

    def put_rotation(self, rotation, *, expected_version):
        self._step("before_next_put")
        super().put_rotation(rotation, expected_version=expected_version)

    def _step(self, name):
        step = getattr(self, name)
        setattr(self, name, None)
        if step is not None:
            step()


class Process:
    """What one process of a deployment has, by its Fernet keys."""

    def __init__(self, backend, clock, primary, *fallbacks):
        self.ring = FernetKeyring(primary, fallbacks)
        self.told = []
        self.lifecycle = Lifecycle(backend, self.ring, Issuance(recoverable=True), clock)
        self.rotation = FernetRotation(
            backend, self.ring, clock=clock, tell=lambda event, what: self.told.append((event, what))
        )
        self._authenticator = Authenticator(backend, self.ring, clock)

    def verdict(self, key):
        return self._authenticator.authenticate(Credentials(key), None).verdict


@pytest.fixture
def backend():
    backend = BusyBackend("sqlite://")
    backend.init_storage()
    yield backend
    backend.close()


@pytest.fixture
def process(backend, clock):
    return lambda *fernet_keys: Process(backend, clock, *fernet_keys)


@pytest.fixture
def before(process):
    """As deployed before anything was changed."""
    return process(OLD)


@pytest.fixture
def added(process):
    """The new Fernet key is a fallback."""
    return process(OLD, NEW)


@pytest.fixture
def promoted(process):
    """The new Fernet key seals."""
    return process(NEW, OLD)


@pytest.fixture
def keys(before):
    return [before.lifecycle.create(name=f"key {number}") for number in range(10)]


def counts(backend):
    return dict(backend.count_seals())


def damage(backend, key_id, **columns):
    with backend._database().engine.begin() as connection:
        connection.execute(update(backend._keys).where(backend._keys.c.id == key_id).values(columns))


def refusal(attempt, *arguments, **options):
    with pytest.raises(RotationRefused) as refused:
        attempt(*arguments, **options)
    return str(refused.value)


class TestWholeRotation:
    def test_every_key_works_at_every_stage_and_ends_under_the_new_fernet_key(
        self, backend, process, before, added, promoted, keys, clock
    ):
        def work_everywhere(*processes):
            return {each.verdict(key.key) for each in processes for key in keys} == {Verdict.ACCEPTED}

        assert work_everywhere(before, added)
        added.rotation.start()
        assert added.rotation.status().stage is RotationStage.STARTED
        keys.append(promoted.lifecycle.create(name="made by one that is ahead"))
        assert work_everywhere(added, promoted)
        assert promoted.rotation.status().stage is RotationStage.PROMOTED
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining) == (10, 0)
        assert work_everywhere(added, promoted)
        assert promoted.rotation.status().stage is RotationStage.RESEALED
        finished = promoted.rotation.finish()
        assert finished.stage is RotationStage.FINISHED
        assert f"Remove APIKEY_FERNET_KEY_FALLBACKS[0] ({OLD_PRINT})" in finished.next_step
        alone = process(NEW)
        assert work_everywhere(promoted, alone)
        assert alone.rotation.status().stage is RotationStage.NONE
        assert counts(backend) == {NEW_PRINT: 11}

    def test_a_recoverable_key_is_revealed_after_it(self, process, added, promoted, keys):
        added.rotation.start()
        promoted.rotation.run()
        assert process(NEW).lifecycle.reveal(keys[3].record.id) == keys[3].key

    def test_records_and_versions_stay_as_they_were(self, backend, added, promoted, keys):
        added.rotation.start()
        promoted.rotation.run()
        assert {key.record.id: key.record for key in backend.all_keys()} == {key.record.id: key.record for key in keys}

    def test_a_roll_back_before_the_end_is_a_rotation_like_any_other(self, backend, process, added, promoted, keys):
        added.rotation.start()
        promoted.rotation.run()
        promoted.rotation.finish()
        back = process(OLD, NEW)
        assert back.rotation.start().to_fingerprint == OLD_PRINT
        back.rotation.run()
        assert counts(backend) == {OLD_PRINT: 10}


class TestStart:
    def test_it_is_due_after_the_period(self, backend, added, keys, clock):
        rotation = added.rotation.start()
        assert (rotation.from_fingerprint, rotation.to_fingerprint) == (OLD_PRINT, NEW_PRINT)
        assert (rotation.started_at, rotation.due_at) == (clock(), clock() + 7 * DAY)
        assert backend.get_rotation() == rotation

    def test_after_the_promotion_the_fallback_under_which_keys_are_sealed_is_retired(self, promoted, keys):
        promoted.lifecycle.create(name="under the new one")
        rotation = promoted.rotation.start()
        assert (rotation.from_fingerprint, rotation.to_fingerprint) == (OLD_PRINT, NEW_PRINT)

    def test_one_fernet_key_cannot_be_rotated(self, before, keys):
        assert "add it to APIKEY_FERNET_KEY_FALLBACKS of every process" in refusal(before.rotation.start)

    def test_what_is_ambiguous_is_listed(self, process, keys):
        ambiguous = process(OLD, NEW, THIRD)
        said = refusal(ambiguous.rotation.start)
        assert f"--from {OLD_PRINT} --to {NEW_PRINT}" in said
        assert f"--from {OLD_PRINT} --to {THIRD_PRINT}" in said
        assert ambiguous.rotation.start(to_fingerprint=THIRD_PRINT).to_fingerprint == THIRD_PRINT

    def test_a_direction_that_is_named_is_taken_as_it_is(self, process, keys):
        rotation = process(NEW, OLD, THIRD).rotation.start(from_fingerprint=NEW_PRINT, to_fingerprint=OLD_PRINT)
        assert (rotation.from_fingerprint, rotation.to_fingerprint) == (NEW_PRINT, OLD_PRINT)

    @pytest.mark.parametrize(
        ("named", "said"),
        [
            ({"to_fingerprint": "0" * 16}, f"no Fernet key has the fingerprint {'0' * 16} here"),
            ({"from_fingerprint": "0" * 16}, f"no Fernet key has the fingerprint {'0' * 16} here"),
            ({"to_fingerprint": OLD_PRINT}, "cannot take each other's place"),
            ({"from_fingerprint": OLD_PRINT, "to_fingerprint": OLD_PRINT}, "cannot take each other's place"),
        ],
    )
    def test_fingerprints_that_make_no_sense(self, added, keys, named, said):
        assert said in refusal(added.rotation.start, **named)

    def test_a_second_rotation_waits_for_the_first(self, added, promoted, keys):
        added.rotation.start()
        for process in (added, promoted):
            assert f"from {OLD_PRINT} to {NEW_PRINT} has been under way" in refusal(process.rotation.start)

    def test_of_two_that_start_at_once_one_wins(self, backend, added, keys):
        backend.before_next_put = added.rotation.start
        with pytest.raises(Conflict):
            added.rotation.start()
        assert backend.get_rotation().version == 1
        assert [event for event, _ in added.told] == ["rotation.started"]

    def test_a_fernet_key_that_was_just_retired_is_not_taken_back(self, added, promoted, keys):
        added.rotation.start()
        promoted.rotation.run()
        promoted.rotation.finish()
        assert "was retired by the last rotation: remove it" in refusal(promoted.rotation.start)

    def test_a_storage_that_cannot_reseal(self, fernet_key, clock):
        with pytest.raises(ConfigurationError, match="WatchedBackend"):
            FernetRotation(WatchedBackend(SQLBackend("sqlite://")), FernetKeyring(fernet_key))


class TestRun:
    @pytest.fixture(autouse=True)
    def started(self, added, keys):
        added.rotation.start()

    def test_before_the_promotion_it_is_refused(self, backend, added):
        assert f"promote {NEW_PRINT} to APIKEY_FERNET_KEY first" in refusal(added.rotation.run)
        assert counts(backend) == {OLD_PRINT: 10}

    def test_a_process_that_lacks_the_new_fernet_key_cannot_run_it(self, before):
        assert NEW_PRINT in refusal(before.rotation.run)

    def test_every_batch_is_told(self, backend, promoted, before, monkeypatch):
        monkeypatch.setattr("flask_apikey.core.rotation.reseal.BATCH", 4)
        progress = []
        promoted.rotation.run(progress=progress.append)
        assert progress == [4, 4, 2]

    def test_again_it_changes_nothing(self, backend, promoted):
        promoted.rotation.run()
        seals = [key.seal for key in backend.all_keys()]
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining) == (0, 0)
        assert [key.seal for key in backend.all_keys()] == seals

    def test_keys_under_any_fernet_key_of_the_ring_are_resealed(self, backend, process):
        process(THIRD).lifecycle.create(name="from long ago")
        report = process(NEW, OLD, THIRD).rotation.run()
        assert report.resealed == 11
        assert counts(backend) == {NEW_PRINT: 11}

    def test_a_key_that_is_changed_meanwhile_is_looked_at_again(self, backend, added, promoted, keys):
        rolled = []
        backend.before_next_reseal = lambda: rolled.append(added.lifecycle.roll(keys[4].record.id, grace=HOUR))
        report = promoted.rotation.run()
        assert (report.resealed, report.changed_meanwhile, report.remaining) == (10, 1, 0)
        assert counts(backend) == {NEW_PRINT: 10}
        assert promoted.verdict(rolled[0].key) is Verdict.ACCEPTED
        assert promoted.verdict(keys[4].key) is Verdict.ACCEPTED

    def test_a_key_that_is_removed_meanwhile_is_not_missed(self, backend, promoted, keys):
        backend.before_next_reseal = lambda: backend.delete(keys[4].record.id, expected_version=1)
        report = promoted.rotation.run()
        assert (report.resealed, report.changed_meanwhile, report.remaining) == (9, 1, 0)

    def test_a_key_that_is_made_meanwhile_under_the_old_fernet_key_is_resealed_too(self, backend, added, promoted):
        backend.before_next_reseal = lambda: added.lifecycle.create(name="by one that is behind")
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining) == (11, 0)

    def test_it_ends_although_another_process_goes_on_sealing_under_the_old_fernet_key(self, backend, added, promoted):
        def create_again():
            added.lifecycle.create(name="by one that is behind")
            backend.before_next_reseal = create_again

        create_again()
        report = promoted.rotation.run()
        assert report.remaining == report.unaccounted == 1
        assert "still sealed" in refusal(promoted.rotation.finish)

    def test_keys_under_a_fernet_key_that_is_not_configured_are_counted_and_left(self, backend, process, promoted):
        lost = process(THIRD).lifecycle.create(name="sealed elsewhere")
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining, report.not_configured) == (10, 1, {THIRD_PRINT: 1})
        assert report.examples == (lost.record.id,)
        assert report.unaccounted == 0
        assert f"{THIRD_PRINT}: 1" in refusal(promoted.rotation.finish)

    @pytest.mark.parametrize("token", ["", "not a token", "gAAAAA=="])
    def test_damaged_seals_are_counted_and_left(self, backend, promoted, keys, token):
        damage(backend, keys[2].record.id, seal=token)
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining, report.damaged) == (9, 1, 1)
        assert report.examples == (keys[2].record.id,)
        assert f"{OLD_PRINT}: 1" in refusal(promoted.rotation.finish)
        promoted.lifecycle.roll(keys[2].record.id)
        assert promoted.rotation.run().remaining == 0

    def test_rows_that_cannot_be_read_are_counted(self, backend, promoted, keys):
        damage(backend, keys[2].record.id, previous_secrets_expire_at="nonsense")
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining, report.unaccounted) == (9, 1, 1)
        assert "still sealed" in refusal(promoted.rotation.finish)

    def test_a_run_beside_another_changes_each_key_once(self, backend, process, promoted):
        reports = []
        other = process(NEW, OLD)
        backend.before_next_reseal = lambda: reports.append(other.rotation.run())
        reports.append(promoted.rotation.run())
        assert [report.resealed for report in reports] == [10, 0]
        assert [report.remaining for report in reports] == [0, 0]

    def test_a_rate_below_one(self, promoted):
        with pytest.raises(InvalidValue, match="rate"):
            promoted.rotation.run(rate=0)


class TestPace:
    @pytest.mark.parametrize(("rate", "batch"), [(None, BATCH), (1_000_000, BATCH), (1000, 100), (30, 3), (1, 1)])
    def test_batches_are_as_large_as_the_rate_allows(self, rate, batch):
        assert Pace(rate).batch == batch

    def test_a_run_takes_as_long_as_the_rate_demands(self, backend, promoted, keys):
        waits = []
        now = [100.0]

        def sleep(seconds):
            waits.append(seconds)
            now[0] += seconds

        reseal_all(backend, backend, promoted.ring, pace=Pace(20, lambda: now[0], sleep))
        assert waits == pytest.approx([0.1] * 5)

    def test_time_that_was_lost_is_not_made_up_for(self):
        waits = []
        now = [0.0]
        pace = Pace(10, lambda: now[0], waits.append)
        now[0] = 60.0
        pace.keep(1)
        assert waits == pytest.approx([0.1])


class TestUrgently:
    def test_it_starts_the_rotation_itself(self, backend, promoted, keys):
        report = promoted.rotation.run(urgent=True)
        assert (report.resealed, report.remaining) == (10, 0)
        assert (backend.get_rotation().from_fingerprint, backend.get_rotation().to_fingerprint) == (
            OLD_PRINT,
            NEW_PRINT,
        )
        assert [event for event, _ in promoted.told] == ["rotation.started", "rotation.run"]
        assert promoted.rotation.finish().stage is RotationStage.FINISHED

    def test_one_that_was_started_is_taken_further(self, backend, added, promoted, keys):
        added.rotation.start()
        assert promoted.rotation.run(urgent=True).resealed == 10
        assert backend.get_rotation().version == 1

    def test_one_between_other_fernet_keys_is_replaced(self, backend, added, process, keys):
        added.rotation.start()
        process(THIRD, NEW, OLD).rotation.run(urgent=True)
        assert backend.get_rotation().to_fingerprint == THIRD_PRINT
        assert counts(backend) == {THIRD_PRINT: 10}

    @pytest.mark.parametrize("started", [True, False])
    def test_before_the_promotion_it_is_refused(self, backend, added, keys, started):
        if started:
            added.rotation.start()
        said = refusal(added.rotation.run, urgent=True)
        assert "promote" in said or "make a new one APIKEY_FERNET_KEY of every process first" in said
        assert counts(backend) == {OLD_PRINT: 10}

    def test_without_the_leaked_fernet_key_nothing_can_be_resealed(self, process, keys):
        said = refusal(process(NEW).rotation.run, urgent=True)
        assert f"add the Fernet key that sealed them ({OLD_PRINT}) to APIKEY_FERNET_KEY_FALLBACKS" in said

    def test_a_process_that_is_behind_does_not_seal_under_the_leaked_fernet_key_again(
        self, backend, added, promoted, keys
    ):
        promoted.lifecycle.create(name="by one that is ahead")
        said = refusal(added.rotation.run, urgent=True)
        assert f"if {OLD_PRINT} is the Fernet key that leaked, promote the new one" in said
        assert counts(backend) == {OLD_PRINT: 10, NEW_PRINT: 1}
        assert promoted.rotation.run(urgent=True).remaining == 0

    def test_a_process_that_is_behind_does_not_bring_the_leaked_fernet_key_back_after_the_end(
        self, backend, added, promoted, keys
    ):
        promoted.rotation.run(urgent=True)
        promoted.rotation.finish()
        said = refusal(added.rotation.run, urgent=True)
        assert f"seals under {OLD_PRINT}, which the last rotation retired" in said
        assert f"make {NEW_PRINT} its APIKEY_FERNET_KEY" in said
        assert counts(backend) == {NEW_PRINT: 10}

    def test_two_at_once_are_one_rotation(self, backend, process, promoted, keys):
        other = process(NEW, OLD)
        backend.before_next_put = lambda: other.rotation.run(urgent=True)
        assert promoted.rotation.run(urgent=True).remaining == 0
        assert backend.get_rotation().version == 1


class TestStatus:
    @pytest.fixture
    def stage(self):
        return lambda process: process.rotation.status().stage

    def test_keys_are_counted_under_each_fernet_key_and_its_setting(self, process, added, keys):
        process(THIRD).lifecycle.create(name="sealed elsewhere")
        seals = added.rotation.status().seals
        assert [(each.fingerprint, each.keys, each.setting) for each in seals] == [
            (OLD_PRINT, 10, "APIKEY_FERNET_KEY"),
            (NEW_PRINT, 0, "APIKEY_FERNET_KEY_FALLBACKS[0]"),
            (THIRD_PRINT, 1, None),
        ]

    def test_each_process_sees_its_own_stage(self, process, before, added, promoted, keys, stage):
        assert [stage(each) for each in (before, added, promoted)] == [
            RotationStage.NONE,
            RotationStage.ADDED,
            RotationStage.UNRECORDED,
        ]
        added.rotation.start()
        assert [stage(each) for each in (before, added, promoted)] == [
            RotationStage.NOT_CONFIGURED,
            RotationStage.STARTED,
            RotationStage.PROMOTED,
        ]
        promoted.rotation.run()
        assert [stage(each) for each in (added, promoted)] == [RotationStage.STARTED, RotationStage.RESEALED]
        promoted.rotation.finish()
        assert [stage(each) for each in (promoted, process(NEW))] == [RotationStage.FINISHED, RotationStage.NONE]
        assert [stage(each) for each in (before, added)] == [RotationStage.BEHIND, RotationStage.BEHIND]

    def test_a_process_that_was_forgotten_is_not_told_to_rotate_back(self, before, added, promoted, keys):
        added.rotation.start()
        promoted.rotation.run()
        promoted.rotation.finish()
        for forgotten in (before, added):
            assert f"make {NEW_PRINT} its APIKEY_FERNET_KEY" in forgotten.rotation.status().next_step
        added.rotation.start()
        assert added.rotation.status().stage is RotationStage.PROMOTED

    def test_keys_under_a_fernet_key_that_is_not_here_are_not_passed_over_in_silence(self, process, keys):
        elsewhere = process(THIRD).rotation.status()
        assert elsewhere.stage is RotationStage.NONE
        assert f"Add the Fernet key {OLD_PRINT} to APIKEY_FERNET_KEY_FALLBACKS" in elsewhere.next_step

    def test_a_run_that_would_help_nothing_is_not_the_next_step(self, process, added, promoted, keys):
        process(THIRD).lifecycle.create(name="sealed elsewhere")
        added.rotation.start()
        assert "run 'flask apikey rotation run'" in promoted.rotation.status().next_step
        promoted.rotation.run()
        status = promoted.rotation.status()
        assert status.stage is RotationStage.PROMOTED
        assert f"Add the Fernet key {THIRD_PRINT} to APIKEY_FERNET_KEY_FALLBACKS" in status.next_step

    def test_what_remains_is_what_is_not_under_the_new_fernet_key(self, added, promoted, keys):
        assert added.rotation.status().remaining == 0
        added.rotation.start()
        promoted.lifecycle.create(name="under the new one")
        assert {each.rotation.status().remaining for each in (added, promoted)} == {10}

    def test_it_is_overdue_from_the_day_on_that_it_is_due(self, added, promoted, keys, clock):
        added.rotation.start()
        clock.advance(7 * DAY - timedelta(microseconds=1))
        assert not added.rotation.status().is_overdue
        clock.advance(timedelta(microseconds=1))
        assert added.rotation.status().is_overdue
        promoted.rotation.run()
        assert not promoted.rotation.finish().is_overdue


class TestFinish:
    def test_without_a_rotation_it_is_refused(self, promoted, keys):
        assert "no rotation is under way" in refusal(promoted.rotation.finish)

    def test_it_is_refused_while_a_key_remains(self, backend, added, promoted, keys):
        added.rotation.start()
        assert f"10 keys are still sealed under another Fernet key ({OLD_PRINT}: 10)" in refusal(
            promoted.rotation.finish
        )
        assert backend.get_rotation().finished_at is None

    def test_it_is_refused_before_the_promotion(self, added):
        added.rotation.start()
        assert "promote" in refusal(added.rotation.finish)

    def test_it_is_finished_once(self, backend, added, promoted, clock):
        added.rotation.start()
        clock.advance(HOUR)
        promoted.rotation.finish()
        assert backend.get_rotation().finished_at == clock()
        assert "no rotation is under way" in refusal(promoted.rotation.finish)
        assert "no rotation is under way" in refusal(promoted.rotation.run)

    def test_another_rotation_can_follow(self, backend, added, promoted, process, keys):
        added.rotation.start()
        promoted.rotation.run()
        promoted.rotation.finish()
        assert process(NEW, THIRD).rotation.start().version == 3
        process(THIRD, NEW).rotation.run()
        assert counts(backend) == {THIRD_PRINT: 10}

    def test_what_is_sealed_under_a_fernet_key_that_is_not_here_is_not_waited_for_in_vain(
        self, process, added, promoted, keys
    ):
        process(THIRD).lifecycle.create(name="sealed elsewhere")
        added.rotation.start()
        both = refusal(promoted.rotation.finish)
        promoted.rotation.run()
        lost = refusal(promoted.rotation.finish)
        for said in (both, lost):
            assert f"{THIRD_PRINT} is not configured here: add that Fernet key to APIKEY_FERNET_KEY_FALLBACKS" in said
        assert ("run 'flask apikey rotation run' first" in both, "rotation run' first" in lost) == (True, False)

    def test_what_is_said_of_a_lost_fernet_key_lets_the_rotation_finish(
        self, backend, process, added, promoted, keys, clock
    ):
        elsewhere = process(THIRD).lifecycle
        active, revoked, expired = (
            elsewhere.create(name=name, lifetime=lifetime).record.id
            for name, lifetime in (("active", DAY), ("revoked", DAY), ("expired", HOUR))
        )
        elsewhere.revoke(revoked)
        clock.advance(2 * HOUR)
        added.rotation.start()
        assert promoted.rotation.run().not_configured == {THIRD_PRINT: 3}
        assert (
            "give the active ones among those keys a new secret with 'flask apikey roll ID --grace 0s'; revoke the "
            "others, and remove what has ended with 'flask apikey prune --older-than 0s'"
        ) in refusal(promoted.rotation.finish)
        promoted.lifecycle.roll(active)
        promoted.lifecycle.prune(ended_before=clock())
        assert promoted.rotation.finish().stage is RotationStage.FINISHED
        assert {active, revoked, expired} & {key.record.id for key in backend.all_keys()} == {active}


class TestCancel:
    def test_a_new_fernet_key_that_is_lost_is_forgotten(self, process, before, added, keys, clock):
        added.rotation.start()
        clock.advance(30 * DAY)
        for attempt in (before.rotation.start, before.rotation.run, before.rotation.finish):
            assert "abandon" in (said := refusal(attempt))
            assert "'flask apikey rotation cancel'" in said
        assert "'flask apikey rotation cancel'" in before.rotation.status().next_step
        status = before.rotation.cancel()
        assert (status.stage, status.is_overdue, status.next_step) == (RotationStage.NONE, False, "")
        assert process(OLD, THIRD).rotation.start().to_fingerprint == THIRD_PRINT

    def test_a_new_fernet_key_that_has_leaked_is_removed_and_not_taken_again(self, backend, added, keys, clock):
        added.rotation.start()
        assert "'flask apikey rotation cancel'" in added.rotation.status().next_step
        status = added.rotation.cancel()
        assert status.stage is RotationStage.FINISHED
        assert f"Remove APIKEY_FERNET_KEY_FALLBACKS[0] ({NEW_PRINT}) from every process" in status.next_step
        assert "was retired by the last rotation: remove it" in refusal(added.rotation.start)
        assert counts(backend) == {OLD_PRINT: 10}

    def test_who_changes_his_mind_names_both(self, added, promoted, keys):
        added.rotation.start()
        added.rotation.cancel()
        rotation = added.rotation.start(from_fingerprint=OLD_PRINT, to_fingerprint=NEW_PRINT)
        assert (rotation.to_fingerprint, rotation.version) == (NEW_PRINT, 3)
        promoted.rotation.run()
        assert promoted.rotation.finish().stage is RotationStage.FINISHED

    def test_without_a_rotation_it_is_refused(self, added, promoted):
        assert "there is nothing to cancel" in refusal(added.rotation.cancel)
        added.rotation.start()
        promoted.rotation.finish()
        assert "there is nothing to cancel" in refusal(added.rotation.cancel)

    def test_a_process_that_seals_under_the_new_fernet_key_does_not_cancel(self, backend, added, promoted, keys):
        started = added.rotation.start()
        assert f"make {OLD_PRINT} APIKEY_FERNET_KEY of every process first" in refusal(promoted.rotation.cancel)
        assert backend.get_rotation() == started

    def test_once_keys_are_sealed_under_the_new_fernet_key_the_way_back_is_a_rotation(
        self, backend, process, added, promoted, keys
    ):
        started = added.rotation.start()
        ahead = promoted.lifecycle.create(name="made by one that is ahead")
        said = refusal(added.rotation.cancel)
        assert f"1 key is sealed under {NEW_PRINT} already" in said
        assert f"'flask apikey rotation start --from {NEW_PRINT} --to {OLD_PRINT}'" in said
        assert backend.get_rotation() == started
        back = added.rotation.start(from_fingerprint=NEW_PRINT, to_fingerprint=OLD_PRINT)
        assert (back.from_fingerprint, back.to_fingerprint, back.finished_at) == (NEW_PRINT, OLD_PRINT, None)
        assert added.rotation.run().resealed == 1
        assert added.rotation.finish().stage is RotationStage.FINISHED
        assert process(OLD).verdict(ahead.key) is Verdict.ACCEPTED

    def test_or_it_leads_on_to_a_third_fernet_key(self, backend, process, added, promoted, keys):
        added.rotation.start()
        promoted.lifecycle.create(name="made by one that is ahead")
        said = "in APIKEY_FERNET_KEY_FALLBACKS, and use 'flask apikey rotation run --urgent'"
        assert all(said in refusal(each.rotation.cancel) for each in (added, promoted))
        third = process(THIRD, OLD, NEW)
        assert third.rotation.run(urgent=True).remaining == 0
        assert third.rotation.finish().stage is RotationStage.FINISHED
        assert counts(backend) == {THIRD_PRINT: 11}

    def test_keys_that_a_lost_fernet_key_has_sealed_are_in_the_way(self, before, added, promoted, keys):
        added.rotation.start()
        ahead = promoted.lifecycle.create(name="made by one that is ahead").record.id
        assert "If it is lost, give the active ones among those keys a new secret" in refusal(before.rotation.cancel)
        before.lifecycle.roll(ahead)
        assert before.rotation.cancel().stage is RotationStage.NONE

    def test_a_step_that_was_taken_meanwhile_is_not_undone(self, backend, added, promoted):
        added.rotation.start()
        backend.before_next_put = promoted.rotation.finish
        with pytest.raises(Conflict):
            added.rotation.cancel()
        assert backend.get_rotation().to_fingerprint == NEW_PRINT
        assert "rotation.cancelled" not in [event for event, _ in added.told]

    def test_a_copy_takes_it_for_further_than_one_that_is_under_way_even_where_a_clock_is_slow(
        self, backend, added, clock
    ):
        started = added.rotation.start()
        clock.advance(-HOUR)
        added.rotation.cancel()
        with closing(SQLBackend("sqlite://")) as target:
            target.init_storage()
            target.put_rotation(started, expected_version=0)
            assert newer_rotation(backend, target) == backend.get_rotation()
            assert newer_rotation(target, backend) is None

    def test_only_the_exact_way_back_is_started_while_one_is_under_way(self, added, promoted, keys):
        added.rotation.start()
        for named in (
            {"from_fingerprint": OLD_PRINT, "to_fingerprint": NEW_PRINT},
            {"to_fingerprint": OLD_PRINT},
            {"from_fingerprint": NEW_PRINT},
        ):
            assert "abandon it with 'flask apikey rotation cancel'" in refusal(promoted.rotation.start, **named)

    def test_it_is_told_and_kept_in_the_history(self, backend, added, keys):
        added.rotation.start()
        added.rotation.cancel()
        kept = [each.event for each in all_events(backend) if not each.event.key_id]
        assert [each.event for each in kept] == ["rotation.started", "rotation.cancelled"]
        assert json.loads(kept[1].details) == {"from": OLD_PRINT, "to": NEW_PRINT}
        assert added.told[1] == ("rotation.cancelled", f"from {OLD_PRINT}, to {NEW_PRINT}")


class TestEvents:
    def test_each_step_is_told_and_kept_in_the_history(self, backend, added, promoted, keys):
        added.rotation.start()
        promoted.rotation.run()
        promoted.rotation.finish()
        kept = [each.event for each in all_events(backend) if not each.event.key_id]
        assert [(each.event, each.key_version) for each in kept] == [
            ("rotation.started", 0),
            ("rotation.run", 0),
            ("rotation.finished", 0),
        ]
        details = [json.loads(each.details) for each in kept]
        assert (details[0]["from"], details[0]["to"]) == (OLD_PRINT, NEW_PRINT)
        assert (details[1]["resealed"], details[1]["remaining"]) == (10, 0)
        assert [event for event, _ in added.told + promoted.told] == [each.event for each in kept]
        assert "resealed 10" in promoted.told[0][1]

    def test_the_chain_is_intact(self, backend, added, promoted, keys):
        added.rotation.start()
        promoted.lifecycle.update(keys[0].record.id, name="renamed")
        promoted.rotation.run()
        promoted.lifecycle.revoke(keys[1].record.id)
        versions = {key.record.id: key.record.version for key in backend.all_keys()}
        assert verify_chain(all_events(backend), versions).number == 14

    def test_a_step_that_is_refused_leaves_no_event(self, backend, added):
        added.rotation.start()
        refusal(added.rotation.start)
        refusal(added.rotation.run)
        refusal(added.rotation.finish)
        assert [each.event.event for each in all_events(backend)] == ["rotation.started"]


class TestChangesOfKeys:
    """No change of a key brings a seal of the old Fernet key back."""

    CHANGES = (
        lambda lifecycle, key_id: lifecycle.update(key_id, name="renamed"),
        lambda lifecycle, key_id: lifecycle.update(key_id, expires_at=None),
        lambda lifecycle, key_id: lifecycle.revoke(key_id),
    )

    def test_a_roll_seals_under_the_fernet_key_that_seals_now(self, backend, promoted, keys):
        promoted.lifecycle.roll(keys[0].record.id, grace=HOUR)
        assert backend.get(keys[0].record.id).seal.fingerprint == NEW_PRINT
        assert promoted.verdict(keys[0].key) is Verdict.ACCEPTED

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_that_makes_no_secret_leaves_the_seal(self, backend, promoted, keys, change):
        seal = backend.get(keys[0].record.id).seal
        change(promoted.lifecycle, keys[0].record.id)
        assert backend.get(keys[0].record.id).seal == seal

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize(
        "fernet_keys", [(NEW,), (NEW, OLD), (OLD, NEW), (OLD,)], ids=["after", "now", "behind", "lost"]
    )
    def test_a_key_that_is_resealed_while_it_is_changed_stays_so(
        self, backend, process, added, promoted, keys, change, fernet_keys
    ):
        added.rotation.start()
        backend.before_next_update = promoted.rotation.run
        change(process(*fernet_keys).lifecycle, keys[0].record.id)
        assert backend.get(keys[0].record.id).record.version == 2
        assert counts(backend) == {NEW_PRINT: 10}
        promoted.rotation.finish()

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_process_that_is_behind_leaves_the_new_seal(self, backend, added, promoted, keys, change):
        added.rotation.start()
        promoted.rotation.run()
        change(added.lifecycle, keys[0].record.id)
        assert counts(backend) == {NEW_PRINT: 10}

    def test_a_roll_while_the_key_is_resealed_seals_under_the_new_fernet_key(
        self, backend, process, added, promoted, keys
    ):
        added.rotation.start()
        backend.before_next_update = promoted.rotation.run
        process(NEW, OLD).lifecycle.roll(keys[0].record.id, grace=HOUR)
        assert counts(backend) == {NEW_PRINT: 10}
        assert process(NEW).verdict(keys[0].key) is Verdict.ACCEPTED

    def test_a_key_whose_fernet_key_is_lost_can_still_be_changed_and_revoked(self, backend, process, keys):
        lifecycle = process(NEW).lifecycle
        seal = backend.get(keys[0].record.id).seal
        lifecycle.update(keys[0].record.id, name="renamed")
        assert lifecycle.revoke(keys[0].record.id).record.revoked_at is not None
        assert backend.get(keys[0].record.id).seal == seal
