"""Export of keys and events."""

import csv
import io
import json
from datetime import timedelta

from tests.support.stored_usage import StoredUsage


def test_exports(scene):
    issued = scene.issue("=cmd()", owner="@team", scopes=["a"])
    scene.issue("  +1")
    rows = list(csv.DictReader(io.StringIO(scene.show("/export/keys.csv"))))
    assert {(row["name"], row["owner"]) for row in rows} == {("'+1", ""), ("'=cmd()", "'@team")}
    keys = json.loads(scene.show("/export/keys.json?owner=@team"))
    assert [key["id"] for key in keys] == [issued.record.id]
    assert json.loads(scene.show("/export/keys.json?owner=nobody")) == []
    assert [event["event"] for event in json.loads(scene.show("/export/audit.json"))] == ["key.created"] * 2
    assert len(scene.show("/export/audit.csv").splitlines()) == 3
    scene.show("/export/keys.csv?status=odd", 400)


def test_export_has_last_uses(scene):
    issued = scene.issue(owner="team-7")
    rolled = scene.roll(issued, grace="1d")
    usage = StoredUsage(scene.backend)
    usage.last(rolled.record, scene.clock())
    usage.last(rolled.record, scene.clock() - timedelta(hours=1), secret=0, address="203.0.113.9")
    (key,) = json.loads(scene.show("/export/keys.json"))
    assert key["last_used_at"] == key["current_secret_last_used_at"] == scene.clock().isoformat()
    assert key["previous_secret_last_used_from"] == "203.0.113.9"
    (row,) = csv.DictReader(io.StringIO(scene.show("/export/keys.csv")))
    assert (row["last_used_from"], row["status"]) == ("203.0.113.7", "active")
