"""Re-sealing, and changes of keys during it."""

import pytest
from sqlalchemy import update

from flask_apikey import InvalidValue, SealUnreadable
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.keys.verification import verify_all
from flask_apikey.core.rotation.reseal import BATCH, Pace, reseal_all
from tests.core.rotation.conftest import HOUR, NEW, NEW_PRINT, OLD, OLD_PRINT, THIRD, THIRD_PRINT, refusal


def damage(backend, key_id, **columns):
    with backend._opened.get().engine.begin() as connection:
        connection.execute(update(backend._keys).where(backend._keys.c.id == key_id).values(columns))


@pytest.mark.usefixtures("started")
class TestRun:
    def test_progress_by_batch(self, promoted, monkeypatch):
        monkeypatch.setattr("flask_apikey.core.rotation.reseal.BATCH", 4)
        progress = []
        promoted.rotation.run(progress=progress.append)
        assert progress == [4, 4, 2]

    def test_every_fallback_is_resealed(self, backend, process):
        process(THIRD).lifecycle.create(name="from long ago")
        assert process(NEW, OLD, THIRD).rotation.run().resealed == 11
        assert backend.rotation.count_seals() == {NEW_PRINT: 11}

    def test_key_rolled_during_the_run(self, backend, added, promoted, keys):
        rolled = []
        backend.before_next_reseal = lambda: rolled.append(added.lifecycle.roll(keys[4].record.id, grace=HOUR))
        report = promoted.rotation.run()
        assert (report.resealed, report.conflicts, report.remaining) == (10, 1, 0)
        assert backend.rotation.count_seals() == {NEW_PRINT: 10}
        assert promoted.verdict(rolled[0].key) is Verdict.ACCEPTED
        assert promoted.verdict(keys[4].key) is Verdict.ACCEPTED

    def test_key_removed_during_the_run(self, backend, added, promoted, clock, keys):
        added.lifecycle.revoke(keys[4].record.id)
        backend.before_next_reseal = lambda: added.lifecycle.prune(ended_before=clock() + HOUR)
        report = promoted.rotation.run()
        assert (report.resealed, report.conflicts, report.remaining) == (10, 1, 0)

    def test_key_created_under_the_old_fernet_key_during_the_run(self, backend, added, promoted):
        backend.before_next_reseal = lambda: added.lifecycle.create(name="by one that is behind")
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining) == (11, 0)

    def test_run_ends_while_another_process_keeps_sealing_under_the_old_fernet_key(self, backend, added, promoted):
        def create_again():
            added.lifecycle.create(name="by one that is behind")
            backend.before_next_reseal = create_again

        create_again()
        report = promoted.rotation.run()
        assert report.remaining == report.unaccounted == 1
        assert "still sealed" in refusal(promoted.rotation.finish)

    def test_concurrent_runs_reseal_each_key_once(self, backend, process, promoted):
        reports = []
        other = process(NEW, OLD)
        backend.before_next_reseal = lambda: reports.append(other.rotation.run())
        reports.append(promoted.rotation.run())
        assert [report.resealed for report in reports] == [10, 0]
        assert [report.remaining for report in reports] == [0, 0]

    def test_fernet_key_not_configured(self, process, promoted):
        lost = process(THIRD).lifecycle.create(name="sealed elsewhere")
        assert "run 'flask apikey rotation run'" in refusal(promoted.rotation.finish)
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining, report.not_configured) == (10, 1, {THIRD_PRINT: 1})
        assert (report.examples, report.unaccounted) == ([lost.record.id], 0)
        message = refusal(promoted.rotation.finish)
        assert f"1 key is still sealed under another Fernet key ({THIRD_PRINT}: 1)" in message
        assert f"Add the Fernet key {THIRD_PRINT} to APIKEY_FERNET_KEY_FALLBACKS. If it is lost" in message

    @pytest.mark.parametrize("token", ["", "not a token", "gAAAAA=="])
    def test_damaged_seal(self, backend, promoted, keys, token):
        damage(backend, keys[2].record.id, seal=token)
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining, report.damaged) == (9, 1, 1)
        assert report.examples == [keys[2].record.id]
        assert f"{OLD_PRINT}: 1" in refusal(promoted.rotation.finish)
        with pytest.raises(SealUnreadable):
            promoted.lifecycle.roll(keys[2].record.id)

    @pytest.mark.parametrize(
        "columns", [{"previous_secrets_expire_at": "nonsense"}, {"scopes": "*"}], ids=["damaged", "tampered"]
    )
    def test_damaged_or_tampered_row(self, backend, promoted, keys, columns):
        damage(backend, keys[2].record.id, **columns)
        report = promoted.rotation.run()
        assert (report.resealed, report.remaining, report.damaged) == (9, 1, 1)
        assert report.examples == [keys[2].record.id]
        assert "still sealed" in refusal(promoted.rotation.finish)

    def test_histories_are_verified_with_the_new_fernet_key_alone(self, backend, added, promoted, process, clock, keys):
        added.lifecycle.roll(keys[0].record.id, grace=HOUR)
        added.lifecycle.revoke(keys[1].record.id)
        added.lifecycle.prune(ended_before=clock() + HOUR)
        promoted.rotation.run()
        promoted.rotation.finish()
        verified = verify_all(backend, process(NEW).ring)
        assert (verified.keys, verified.tombstones, verified.problems) == (9, 1, [])

    def test_rate_below_one(self, promoted):
        with pytest.raises(InvalidValue, match="rate"):
            promoted.rotation.run(rate=0)


class TestPace:
    @pytest.mark.parametrize(("rate", "batch"), [(None, BATCH), (1_000_000, BATCH), (1000, 100), (30, 3), (1, 1)])
    def test_batch_size(self, rate, batch):
        assert Pace(rate).batch == batch

    def test_waits_between_batches(self, backend, promoted, keys):
        waits = []
        now = [100.0]

        def sleep(seconds):
            waits.append(seconds)
            now[0] += seconds

        reseal_all(backend, backend.rotation, promoted.ring, pace=Pace(20, lambda: now[0], sleep))
        assert waits == pytest.approx([0.1] * 5)

    def test_no_burst_after_a_delay(self):
        waits = []
        now = [0.0]
        pace = Pace(10, lambda: now[0], waits.append)
        now[0] = 60.0
        pace.wait_after(1)
        assert waits == pytest.approx([0.1])


class TestChangesOfKeys:
    """No change of a key restores a seal of the old Fernet key."""

    CHANGES = pytest.mark.parametrize(
        "change",
        [
            lambda lifecycle, key_id: lifecycle.update(key_id, name="renamed"),
            lambda lifecycle, key_id: lifecycle.revoke(key_id),
        ],
        ids=["update", "revoke"],
    )

    @CHANGES
    def test_change_without_a_new_secret_keeps_the_fernet_key(self, backend, promoted, keys, change):
        change(promoted.lifecycle, keys[0].record.id)
        assert backend.get(keys[0].record.id).seal.fingerprint == OLD_PRINT

    @CHANGES
    @pytest.mark.parametrize("fernet_keys", [(NEW, OLD), (OLD, NEW)], ids=["promoted", "added"])
    def test_key_resealed_during_a_change(self, backend, process, promoted, started, keys, change, fernet_keys):
        backend.before_next_update = promoted.rotation.run
        change(process(*fernet_keys).lifecycle, keys[0].record.id)
        assert backend.get(keys[0].record.id).record.version == 2
        assert backend.rotation.count_seals() == {NEW_PRINT: 10}
        promoted.rotation.finish()

    def test_key_resealed_during_a_roll(self, backend, process, promoted, started, keys):
        backend.before_next_update = promoted.rotation.run
        process(NEW, OLD).lifecycle.roll(keys[0].record.id, grace=HOUR)
        assert backend.rotation.count_seals() == {NEW_PRINT: 10}
        assert process(NEW).verdict(keys[0].key) is Verdict.ACCEPTED
