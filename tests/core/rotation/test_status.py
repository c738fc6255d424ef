"""Status of a rotation, as each process sees it."""

from datetime import timedelta

import pytest

from flask_apikey.core.rotation.status import RotationStage
from tests.core.rotation.conftest import DAY, NEW, NEW_PRINT, OLD_PRINT, THIRD, THIRD_PRINT


@pytest.fixture
def stages():
    return lambda *processes: [process.rotation.status().stage.name for process in processes]


def test_number_of_keys_by_fernet_key(process, added, keys):
    process(THIRD).lifecycle.create(name="sealed elsewhere")
    seals = added.rotation.status().seals
    assert [(each.fingerprint, each.keys, each.setting) for each in seals] == [
        (OLD_PRINT, 10, "APIKEY_FERNET_KEY"),
        (NEW_PRINT, 0, "APIKEY_FERNET_KEY_FALLBACKS[0]"),
        (THIRD_PRINT, 1, None),
    ]


def test_stage_of_each_process(process, before, added, promoted, keys, stages):
    assert stages(before, added, promoted) == ["NONE", "ADDED", "UNRECORDED"]
    added.rotation.start()
    assert stages(before, added, promoted) == ["NOT_CONFIGURED", "STARTED", "PROMOTED"]
    promoted.rotation.run()
    assert stages(added, promoted) == ["STARTED", "RESEALED"]
    promoted.rotation.finish()
    assert stages(before, added, promoted, process(NEW)) == ["BEHIND", "BEHIND", "FINISHED", "NONE"]


def test_forgotten_process_is_not_advised_to_rotate_back(before, added, finished):
    for forgotten in (before, added):
        assert f"make {NEW_PRINT} its APIKEY_FERNET_KEY" in forgotten.rotation.status().next_step


def test_next_step_when_run_cannot_reseal(process, promoted, started):
    process(THIRD).lifecycle.create(name="sealed elsewhere")
    assert "run 'flask apikey rotation run'" in promoted.rotation.status().next_step
    promoted.rotation.run()
    status = promoted.rotation.status()
    assert status.stage is RotationStage.PROMOTED
    assert f"Add the Fernet key {THIRD_PRINT} to APIKEY_FERNET_KEY_FALLBACKS" in status.next_step


def test_next_step_when_no_fernet_key_fits(process, keys):
    status = process(THIRD).rotation.status()
    assert status.stage is RotationStage.NONE
    assert f"Add the Fernet key {OLD_PRINT} to APIKEY_FERNET_KEY_FALLBACKS" in status.next_step


def test_remaining_keys(added, promoted, keys):
    assert added.rotation.status().remaining == 0
    added.rotation.start()
    promoted.lifecycle.create(name="under the new one")
    assert {each.rotation.status().remaining for each in (added, promoted)} == {10}


def test_overdue_from_the_due_date_until_finished(added, promoted, started, clock):
    clock.advance(7 * DAY - timedelta(microseconds=1))
    assert not added.rotation.status().is_overdue
    clock.advance(timedelta(microseconds=1))
    assert added.rotation.status().is_overdue
    promoted.rotation.run()
    assert not promoted.rotation.finish().is_overdue
