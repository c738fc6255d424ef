"""That the benchmarks run, and what they say of a target; how long anything takes is not looked at."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.samples import stored_key
from tests.support.wire_server import emptied

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).parents[1]

MISSED = """
import sys
from benchmarks import comparison
from benchmarks.estimates import Estimate
from benchmarks.report import Report, Target
measured = Report("A benchmark", [], [Target("a / b", {limit}, Estimate(2.0, 1.9, 2.1))])
comparison.run = lambda *_: measured
from benchmarks.__main__ import main
main(sys.argv[1:])
"""


NAMED_SERVERS = {
    name: value
    for name, value in os.environ.items()
    if name in {"FLASK_APIKEY_TEST_POSTGRESQL_URI", "FLASK_APIKEY_TEST_MYSQL_URI"}
}


def run(*arguments, program=("-m", "benchmarks"), servers=None):
    others = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *program, *arguments],
        cwd=ROOT,
        env={**others, **(servers or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def counted_in(uri):
    with closing(backend_for(uri)) as backend:
        return list(backend.usage.rows(after=None, limit=1))


def stored_keys_in(uri):
    with closing(backend_for(uri)) as backend:
        return sum(1 for _ in backend.all_keys())


def outcome(*arguments, limit):
    return run("comparison", *arguments, program=("-c", MISSED.format(limit=limit)))


def test_every_benchmark_measures_each_of_its_contenders():
    finished = run("--samples", "3", "--warm-up", "2", "--stored", "150", "--json")
    assert finished.returncode == 0, finished.stderr
    comparison, stored_keys, refusals, backends, usage = json.loads(finished.stdout)["benchmarks"]
    assert [row["name"] for row in comparison["rows"]] == [
        "bare view",
        "flask-apikey",
        "Fernet and sqlite3 by hand",
        "Flask-HTTPAuth, SHA-256, ORM",
    ]
    assert [row["name"] for row in stored_keys["rows"]] == [
        "bare view",
        "the same key, 100 stored",
        "the same key, 150 stored",
        "100 keys in turn, 100 stored",
        "100 keys in turn, 150 stored",
        "no key twice, 5 stored",
        "no key twice, 150 stored",
    ]
    assert {row["name"] for row in refusals["rows"]} >= {"no key", "malformed", "unknown id", "wrong secret"}
    assert [row["name"] for row in backends["rows"]] == [
        "SQLite, bare view",
        "SQLite, bare view + raw look-up",
        "SQLite",
    ]
    assert [row["name"] for row in usage["rows"]] == [
        "one key, one endpoint, off",
        "one key, one endpoint, buffered",
        "one key, 1,000 endpoints, off",
        "one key, 1,000 endpoints, buffered",
        "no key twice, 150 stored, off",
        "no key twice, 150 stored, buffered",
        "one key, one endpoint, sync",
    ]
    measured = (comparison, stored_keys, refusals, backends, usage)
    for row in (row for report in measured for row in report["rows"]):
        assert 0 < row["median"]["low"] <= row["median"]["value"] <= row["median"]["high"]


def test_servers_that_are_named_are_measured_beside_their_drivers_and_left_as_they_were(wire_server):
    servers = {**NAMED_SERVERS, "FLASK_APIKEY_TEST_MONGODB_URI": emptied(wire_server.uri)}
    finished = run("backends", "--samples", "3", "--warm-up", "2", "--json", servers=servers)
    assert finished.returncode == 0, finished.stderr
    (backends,) = json.loads(finished.stdout)["benchmarks"]
    names = [row["name"] for row in backends["rows"]]
    assert names[-2:] == ["MongoDB, bare view + raw look-up", "MongoDB"]
    assert len(names) == 3 * (1 + len(servers))
    assert [target["limit"] for target in backends["targets"]] == [60] * (1 + len(servers))
    assert stored_keys_in(wire_server.uri) == 0
    assert counted_in(wire_server.uri) == []


def test_a_rotation_is_timed_beside_requests():
    finished = run("rotation", "--rotated", "1500", "--warm-up", "5", "--json")
    assert finished.returncode == 0, finished.stderr
    (rotation,) = json.loads(finished.stdout)["benchmarks"]
    assert [row["name"] for row in rotation["rows"]] == [
        "a valid key, while the run is stopped",
        "a valid key, while it goes on",
    ]
    assert [(target["promise"], target["limit"]) for target in rotation["targets"]] == [
        ("re-sealing 1,500 keys, s", 30),
        ("median request during the run / without", 1.5),
    ]


def test_keys_are_copied_twice_with_a_kill_in_between_and_open_the_last_storage(wire_server, tmp_path):
    uris = ["--through", emptied(wire_server.uri), "--to", f"sqlite:///{tmp_path}/last.db"]
    finished = run("--keys", "4000", *uris, program=("-m", "benchmarks.copying"))
    assert finished.returncode == 0, finished.stderr
    assert [line.partition(":")[0] for line in finished.stdout.splitlines()[:3]] == ["killed", "resumed", "second"]
    assert "all three hold 4,000 keys, digest " in finished.stdout
    assert stored_keys_in(uris[1]) == stored_keys_in(uris[3]) == 4000


def test_a_copy_is_not_tried_onto_a_storage_that_holds_keys(wire_server, tmp_path):
    target = backend_for(f"sqlite:///{tmp_path}/last.db")
    target.init_storage()
    target.add(stored_key())
    target.close()
    uris = ["--through", emptied(wire_server.uri), "--to", f"sqlite:///{tmp_path}/last.db"]
    finished = run("--keys", "2000", *uris, program=("-m", "benchmarks.copying"))
    assert finished.returncode == 1
    assert "last.db holds keys already" in finished.stderr


def test_the_table_names_what_was_measured_and_on_what():
    finished = run("comparison", "--samples", "3", "--warm-up", "1")
    assert finished.returncode == 0, finished.stderr
    assert "flask-apikey" in finished.stdout
    assert "valid / bare" in finished.stdout
    assert "CPython" in finished.stdout or "PyPy" in finished.stdout


def test_too_few_keys_for_a_new_one_with_every_request_are_refused():
    finished = run("stored-keys", "--samples", "200", "--stored", "150")
    assert finished.returncode == 2
    assert "store 800 or more" in finished.stderr


def test_a_missed_target_is_told_and_fails_only_when_asked_to():
    assert outcome(limit=1.5).returncode == 0
    missed = outcome("--check", limit=1.5)
    assert missed.returncode == 1
    assert "MISSED: a / b ≤ 1.5: 2.00 (1.90 to 2.10)" in missed.stdout
    met = outcome("--check", limit=2.0)
    assert met.returncode == 0
    assert "met: a / b ≤ 2.0" in met.stdout


def test_a_contender_that_does_not_check_is_not_timed():
    program = """
from benchmarks import applications
from benchmarks.timing import Contender, environ_with, measure
measure([Contender("open to all", applications.bare(), [environ_with()], status=401)], 1, warm_up=1)
"""
    finished = run(program=("-c", program))
    assert finished.returncode == 1
    assert "open to all answers 200 OK, not 401" in finished.stderr


def test_costs_are_compared_after_the_bare_view_is_taken_off():
    program = """
import numpy as np
from benchmarks.estimates import median, ratio, ratio_of_costs
bare, valid, hand_made = (np.full(9, each) for each in (40_000, 80_000, 240_000))
print(median(bare).value, ratio(valid, bare).value, ratio_of_costs(valid, bare, hand_made).value)
"""
    assert run(program=("-c", program)).stdout.split() == ["40.0", "2.0", "0.2"]
