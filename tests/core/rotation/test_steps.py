"""Steps of a rotation, taken by processes with different settings on one storage."""

import json
from contextlib import closing

import pytest

from flask_apikey import Conflict
from flask_apikey.core.copying.keys import newer_rotation
from flask_apikey.core.copying.refusals import Refusals
from flask_apikey.core.errors import TargetInUse
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.rotation.status import RotationStage
from flask_apikey_sql import SQLBackend
from tests.core.rotation.conftest import (
    DAY,
    HOUR,
    NEW,
    NEW_PRINT,
    OLD,
    OLD_PRINT,
    THIRD,
    THIRD_PRINT,
    refusal,
)
from tests.support.stored import all_events


def direction(rotation):
    return rotation.from_fingerprint, rotation.to_fingerprint


def named(old, new):
    return {"from_fingerprint": old, "to_fingerprint": new}


def start_command(old, new):
    return f"'flask apikey rotation start --from {old} --to {new}'"


class TestWholeRotation:
    def test_every_key_works_at_every_stage(self, backend, process, before, added, promoted, keys):
        def work_everywhere(*processes):
            return {each.verdict(key.key) for each in processes for key in keys} == {Verdict.ACCEPTED}

        assert work_everywhere(before, added)
        added.rotation.start()
        keys.append(promoted.lifecycle.create(name="created by a process that is ahead"))
        assert work_everywhere(added, promoted)
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining) == (10, 0)
        assert work_everywhere(added, promoted)
        finished = promoted.rotation.finish()
        assert finished.stage is RotationStage.FINISHED
        assert f"Remove APIKEY_FERNET_KEY_FALLBACKS[0] ({OLD_PRINT})" in finished.next_step
        alone = process(NEW)
        assert work_everywhere(promoted, alone)
        assert alone.lifecycle.reveal(keys[3].record.id) == keys[3].key
        assert backend.rotation.count_seals() == {NEW_PRINT: 11}

    def test_another_rotation_follows(self, backend, process, finished):
        assert process(NEW, THIRD).rotation.start().version == 3
        process(THIRD, NEW).rotation.run()
        assert backend.rotation.count_seals() == {THIRD_PRINT: 10}


class TestStart:
    def test_due_after_the_period(self, backend, started, clock):
        assert direction(started) == (OLD_PRINT, NEW_PRINT)
        assert (started.started_at, started.due_at) == (clock(), clock() + 7 * DAY)
        assert backend.rotation.get() == started

    @pytest.mark.parametrize("fernet_keys", [(NEW, OLD), (NEW, OLD, THIRD)], ids=["one fallback", "an unused one too"])
    def test_primary_replaces_the_fallback_that_sealed_keys(self, process, promoted, keys, fernet_keys):
        promoted.lifecycle.create(name="under the new one")
        assert direction(process(*fernet_keys).rotation.start()) == (OLD_PRINT, NEW_PRINT)

    def test_only_one_fernet_key(self, before, keys):
        for step in (before.rotation.start, before.rotation.run):
            assert "to APIKEY_FERNET_KEY_FALLBACKS of every process first" in refusal(step)

    @pytest.mark.parametrize(
        ("fernet_keys", "directions"),
        [
            ((OLD, NEW, THIRD), [(OLD_PRINT, NEW_PRINT), (OLD_PRINT, THIRD_PRINT)]),
            ((THIRD, OLD, NEW), [(OLD_PRINT, THIRD_PRINT), (NEW_PRINT, THIRD_PRINT)]),
            ((OLD, NEW), [(OLD_PRINT, NEW_PRINT), (NEW_PRINT, OLD_PRINT)]),
        ],
        ids=["unused fallbacks", "fallbacks in use", "process that is behind"],
    )
    def test_ambiguous_direction(self, backend, process, promoted, keys, fernet_keys, directions):
        if fernet_keys[1:] != (NEW, THIRD):
            promoted.lifecycle.create(name="under the new one")
        seals = backend.rotation.count_seals()
        rotation = process(*fernet_keys).rotation
        for step in (rotation.start, rotation.run):
            message = refusal(step)
            assert f"{OLD_PRINT} (APIKEY_FERNET_KEY" in message
            assert [each for each in directions if start_command(*each) not in message] == []
        assert (backend.rotation.get(), backend.rotation.count_seals()) == (None, seals)
        assert direction(rotation.start(**named(*directions[1]))) == directions[1]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (named(OLD_PRINT, "0" * 16), f"no Fernet key has the fingerprint {'0' * 16} here"),
            (named("0" * 16, NEW_PRINT), f"no Fernet key has the fingerprint {'0' * 16} here"),
            (named(None, NEW_PRINT), "name two Fernet keys"),
            (named(OLD_PRINT, None), "name two Fernet keys"),
            (named(OLD_PRINT, OLD_PRINT), "name two Fernet keys"),
        ],
        ids=["unknown --to", "unknown --from", "only --to", "only --from", "the same twice"],
    )
    def test_invalid_names(self, added, keys, names, message):
        assert message in refusal(added.rotation.start, **names)

    @pytest.mark.parametrize(
        "names", [(None, None), (OLD_PRINT, NEW_PRINT), (NEW_PRINT, None)], ids=["none", "the same", "only --from"]
    )
    def test_second_rotation_waits_for_the_first(self, added, promoted, started, names):
        for each in (added, promoted):
            message = refusal(each.rotation.start, **named(*names))
            assert f"from {OLD_PRINT} to {NEW_PRINT} has been under way" in message
            assert "abandon it with 'flask apikey rotation cancel'" in message

    def test_concurrent_starts_have_one_winner(self, backend, added, keys):
        backend.before_next_put = added.rotation.start
        with pytest.raises(Conflict):
            added.rotation.start()
        assert backend.rotation.get().version == 1
        assert [event for event, _ in added.announced] == ["rotation.started"]

    def test_retired_fernet_key_is_not_used_again(self, backend, added, promoted, finished):
        for rotation in (added.rotation, promoted.rotation):
            for step in (rotation.start, rotation.run):
                message = refusal(step)
                assert f"{OLD_PRINT} was retired by the last rotation: make {NEW_PRINT} APIKEY_FERNET_KEY" in message
                assert start_command(NEW_PRINT, OLD_PRINT) in message
        assert backend.rotation.count_seals() == {NEW_PRINT: 10}


class TestRun:
    """Start of a run; its re-sealing has a file of its own."""

    def test_run_starts_the_rotation(self, backend, promoted, keys):
        promoted.lifecycle.create(name="under the new one")
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining) == (10, 0)
        assert direction(backend.rotation.get()) == (OLD_PRINT, NEW_PRINT)
        assert [event for event, _ in promoted.announced] == ["rotation.started", "rotation.run"]
        assert promoted.rotation.finish().stage is RotationStage.FINISHED

    def test_concurrent_runs_start_one_rotation(self, backend, process, promoted, keys):
        other = process(NEW, OLD)
        backend.before_next_put = other.rotation.run
        assert promoted.rotation.run().remaining == 0
        assert backend.rotation.get().version == 1

    def test_straggler_after_the_end_is_resealed(self, backend, added, promoted, finished):
        added.lifecycle.create(name="by one that is behind")
        assert promoted.rotation.run().resealed == 1
        assert backend.rotation.count_seals() == {NEW_PRINT: 11}

    def test_refused_before_the_promotion(self, backend, before, added, keys):
        assert f"make {NEW_PRINT} APIKEY_FERNET_KEY of every process first" in refusal(added.rotation.run)
        added.rotation.start()
        for each in (before, added):
            assert f"the rotation leads to the Fernet key {NEW_PRINT}" in refusal(each.rotation.run)
        assert backend.rotation.count_seals() == {OLD_PRINT: 10}


class TestFinish:
    def test_refused_while_a_key_remains(self, backend, promoted, started):
        message = refusal(promoted.rotation.finish)
        assert f"10 keys are still sealed under another Fernet key ({OLD_PRINT}: 10)" in message
        assert backend.rotation.get() == started

    def test_refused_before_the_promotion(self, added, started):
        assert "make it APIKEY_FERNET_KEY everywhere" in refusal(added.rotation.finish)

    def test_finished_once(self, backend, promoted, started, clock):
        promoted.rotation.run()
        clock.advance(HOUR)
        promoted.rotation.finish()
        assert backend.rotation.get().finished_at == clock()
        assert "no rotation is under way" in refusal(promoted.rotation.finish)


class TestCancel:
    def test_new_fernet_key_has_leaked(self, backend, added, promoted, started):
        assert "'flask apikey rotation cancel'" in added.rotation.status().next_step
        status = added.rotation.cancel()
        assert status.stage is RotationStage.FINISHED
        assert f"Remove APIKEY_FERNET_KEY_FALLBACKS[0] ({NEW_PRINT}) from every process" in status.next_step
        for each in (added, promoted):
            assert f"{NEW_PRINT} was retired by the last rotation" in refusal(each.rotation.start)
        assert backend.rotation.count_seals() == {OLD_PRINT: 10}

    def test_start_again_by_naming_both(self, added, promoted, started):
        added.rotation.cancel()
        rotation = added.rotation.start(**named(OLD_PRINT, NEW_PRINT))
        assert (rotation.to_fingerprint, rotation.version) == (NEW_PRINT, 3)
        promoted.rotation.run()
        assert promoted.rotation.finish().stage is RotationStage.FINISHED

    def test_finished_rotation(self, added, finished):
        assert "there is nothing to cancel" in refusal(added.rotation.cancel)

    def test_refused_where_the_new_fernet_key_seals(self, backend, promoted, started):
        assert f"make {OLD_PRINT} APIKEY_FERNET_KEY of every process" in refusal(promoted.rotation.cancel)
        assert backend.rotation.get() == started

    def test_rotation_is_reversed_once_keys_are_sealed(self, backend, process, added, promoted, started):
        ahead = promoted.lifecycle.create(name="created by a process that is ahead")
        message = refusal(added.rotation.cancel)
        assert f"1 key is sealed under {NEW_PRINT} already" in message
        assert start_command(NEW_PRINT, OLD_PRINT) in message
        assert backend.rotation.get() == started
        reverse = added.rotation.start(**named(NEW_PRINT, OLD_PRINT))
        assert (direction(reverse), reverse.finished_at) == ((NEW_PRINT, OLD_PRINT), None)
        assert added.rotation.run().resealed == 1
        assert added.rotation.finish().stage is RotationStage.FINISHED
        assert process(OLD).verdict(ahead.key) is Verdict.ACCEPTED

    def test_rotation_goes_on_to_a_third_fernet_key(self, backend, process, added, promoted, started):
        promoted.lifecycle.create(name="created by a process that is ahead")
        for each in (added, promoted):
            assert f"start --from {NEW_PRINT} --to FINGERPRINT'" in refusal(each.rotation.cancel)
        third = process(THIRD, OLD, NEW)
        assert start_command(NEW_PRINT, THIRD_PRINT) in refusal(third.rotation.run)
        assert backend.rotation.get() == started
        third.rotation.start(**named(NEW_PRINT, THIRD_PRINT))
        assert third.rotation.run().remaining == 0
        assert third.rotation.finish().stage is RotationStage.FINISHED
        assert backend.rotation.count_seals() == {THIRD_PRINT: 11}

    def test_keys_sealed_under_a_lost_fernet_key(self, before, promoted, started):
        ahead = promoted.lifecycle.create(name="created by a process that is ahead").record.id
        assert "If it is lost, give each of those keys a new secret" in refusal(before.rotation.cancel)
        before.lifecycle.repair(ahead)
        assert before.rotation.cancel().stage is RotationStage.NONE

    def test_concurrent_step_is_not_undone(self, backend, added, promoted):
        added.rotation.start()
        backend.before_next_put = promoted.rotation.finish
        with pytest.raises(Conflict):
            added.rotation.cancel()
        assert backend.rotation.get().to_fingerprint == NEW_PRINT
        assert "rotation.cancelled" not in [event for event, _ in added.announced]

    def test_copy_prefers_a_cancelled_rotation(self, backend, added, clock):
        """A cancelled rotation is newer than the one under way, even with a slow clock."""
        started = added.rotation.start()
        clock.advance(-HOUR)
        added.rotation.cancel()
        with closing(SQLBackend("sqlite:///:memory:")) as target:
            target.init_storage()
            target.rotation.put(started, expected_version=0)
            assert newer_rotation(backend, target, Refusals()) == (backend.rotation.get(), 1)
            with pytest.raises(TargetInUse):
                newer_rotation(target, backend, Refusals())


class TestEvents:
    def test_steps_are_announced_and_recorded(self, backend, added, promoted, finished):
        recorded = [each for each in all_events(backend.history) if each.key_id == STORAGE_ID]
        assert [(each.event, each.number) for each in recorded] == [
            ("rotation.started", 1),
            ("rotation.run", 2),
            ("rotation.finished", 3),
        ]
        details = [json.loads(each.details) for each in recorded]
        assert (details[0]["from"], details[0]["to"]) == (OLD_PRINT, NEW_PRINT)
        assert (details[1]["resealed"], details[1]["remaining"]) == (10, 0)
        assert [event for event, _ in added.announced + promoted.announced] == [each.event for each in recorded]
        assert "resealed 10" in promoted.announced[0][1]

    def test_cancel_is_announced_and_recorded(self, backend, added, started):
        added.rotation.cancel()
        recorded = [each for each in all_events(backend.history) if each.key_id == STORAGE_ID]
        assert [each.event for each in recorded] == ["rotation.started", "rotation.cancelled"]
        assert json.loads(recorded[1].details) == {"from": OLD_PRINT, "to": NEW_PRINT}
        assert added.announced[1] == ("rotation.cancelled", f"from {OLD_PRINT}, to {NEW_PRINT}")

    def test_refused_steps_leave_no_event(self, backend, added):
        added.rotation.start()
        for step in (added.rotation.start, added.rotation.run, added.rotation.finish):
            refusal(step)
        assert [each.event for each in all_events(backend.history)] == ["rotation.started"]
