"""`expected_version`: changes of a key that somebody else has changed since it was read."""

import pytest

from flask_apikey import Conflict
from tests.support.keys import KeyScene

CHANGES = {
    "update": {"name": "renamed"},
    "suspend": {},
    "resume": {},
    "revoke": {},
    "roll": {"grace": "1d"},
    "finish_roll": {},
}


@pytest.fixture
def scene(app, clock):
    return KeyScene(app, clock)


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_another_version_is_refused(scene, change):
    issued = scene.issue(owner="team-7")
    seen = scene.do("update", issued.record.id, name="changed by somebody else").version - 1
    before = scene.do("get", issued.record.id)
    with pytest.raises(Conflict):
        scene.do(change, issued.record.id, expected_version=seen, **CHANGES[change])
    assert scene.do("get", issued.record.id) == before
    scene.do(change, issued.record.id, expected_version=before.version, **CHANGES[change])


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"resume"}))
def test_owner_cannot_change_another_version(scene, change):
    issued = scene.issue(owner="team-7")
    scene.do("update", issued.record.id, name="changed by somebody else")
    with scene.app.app_context(), pytest.raises(Conflict):
        getattr(scene.api_keys.for_owner("team-7"), change)(issued.record.id, expected_version=1, **CHANGES[change])


def test_change_between_reading_and_writing_is_refused(make_app, clock, backend):
    scene = KeyScene(make_app(), clock, backend=backend)
    issued = scene.issue()
    backend.before_next_update = lambda: scene.do("update", issued.record.id, name="first")
    with pytest.raises(Conflict):
        scene.do("update", issued.record.id, name="second", expected_version=1)
    assert scene.do("get", issued.record.id).name == "first"
