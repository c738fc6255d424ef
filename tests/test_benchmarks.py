"""Output and exit status of the benchmarks. Their durations are not checked."""

import json
import os
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.samples import stored_key
from tests.support.storages import MONGODB, MYSQL, POSTGRESQL, named_servers
from tests.support.stored import all_keys
from tests.support.wire_server import emptied

pytestmark = [pytest.mark.process, pytest.mark.slow]

SERVERS = (POSTGRESQL, MYSQL, MONGODB)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch):
    """Run ``python -m benchmarks`` in this process. The import is late because SciPy takes a second."""

    def run(*arguments, program="benchmarks.__main__", servers=()):
        for name in SERVERS:
            monkeypatch.delenv(name, raising=False)
        for name, uri in dict(servers).items():
            monkeypatch.setenv(name, uri)
        return CliRunner().invoke(import_module(program).main, arguments)

    return run


def reports_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["benchmarks"]


def rows_of(report):
    return [row["name"] for row in report["rows"]]


def usage_rows_in(uri):
    with closing(backend_for(uri)) as backend:
        return list(backend.usage.rows(after=None, limit=1))


def number_of_keys_in(uri):
    with closing(backend_for(uri)) as backend:
        return sum(1 for _ in all_keys(backend))


def test_rows_of_every_benchmark(run):
    reports = reports_of(run("--samples", "3", "--warm-up", "2", "--stored", "150", "--json"))
    comparison, stored_keys, refusals, backends, usage = reports
    assert rows_of(comparison) == [
        "bare view",
        "flask-apikey",
        "Fernet and sqlite3 by hand",
        "Flask-HTTPAuth, SHA-256, ORM",
    ]
    assert rows_of(stored_keys) == [
        "bare view",
        "the same key, 100 stored",
        "the same key, 150 stored",
        "100 keys in turn, 100 stored",
        "100 keys in turn, 150 stored",
        "no key twice, 5 stored",
        "no key twice, 150 stored",
    ]
    assert {*rows_of(refusals)} >= {"no key", "malformed", "unknown id", "wrong secret"}
    assert rows_of(backends) == [
        "SQLite, bare view",
        "SQLite, bare view + raw look-up",
        "SQLite",
        "SQLite, rows cached",
    ]
    assert rows_of(usage) == [
        "one key, one endpoint, off",
        "one key, one endpoint, buffered",
        "one key, 1,000 endpoints, off",
        "one key, 1,000 endpoints, buffered",
        "no key twice, 150 stored, off",
        "no key twice, 150 stored, buffered",
        "one key, one endpoint, sync",
    ]
    for row in (row for report in reports for row in report["rows"]):
        assert 0 < row["median"]["low"] <= row["median"]["value"] <= row["median"]["high"]


@pytest.mark.server
def test_named_servers_are_measured_and_left_empty(run, wire_server):
    servers = {name: os.environ[name] for name in named_servers(POSTGRESQL, MYSQL)}
    servers[MONGODB] = emptied(wire_server.uri)
    (backends,) = reports_of(run("backends", "--samples", "3", "--warm-up", "2", "--json", servers=servers))
    assert rows_of(backends)[-2:] == ["MongoDB", "MongoDB, rows cached"]
    assert len(rows_of(backends)) == 4 * (1 + len(servers))
    assert [target["limit"] for target in backends["targets"]] == [60, 1.5] * (1 + len(servers))
    assert number_of_keys_in(wire_server.uri) == 0
    assert usage_rows_in(wire_server.uri) == []


def test_rotation_beside_requests(run):
    (rotation,) = reports_of(run("rotation", "--rotated", "1500", "--warm-up", "5", "--json"))
    assert rows_of(rotation) == ["a valid key, while the run is stopped", "a valid key, while it goes on"]
    assert [(target["promise"], target["limit"]) for target in rotation["targets"]] == [
        ("re-sealing 1,500 keys, s", 30),
        ("median request during the run / without", 1.5),
    ]


@pytest.mark.server
def test_killed_copy_is_resumed_and_copied_on(run, wire_server, tmp_path):
    uris = ["--through", emptied(wire_server.uri), "--to", f"sqlite:///{tmp_path}/last.db"]
    result = run("--keys", "1000", *uris, program="benchmarks.copying")
    assert result.exit_code == 0, result.output
    assert "all three hold 1,000 keys, digest " in result.stdout
    assert number_of_keys_in(uris[1]) == number_of_keys_in(uris[3]) == 1000


def test_copying_refuses_a_target_with_keys(run, tmp_path):
    target = f"sqlite:///{tmp_path}/last.db"
    with closing(backend_for(target)) as backend:
        backend.init_storage()
        backend.add(stored_key())
    uris = ["--through", f"sqlite:///{tmp_path}/second.db", "--to", target]
    result = run("--keys", "2000", *uris, program="benchmarks.copying")
    assert result.exit_code == 1
    assert "last.db holds keys already" in result.stderr


def test_table_of_the_command():
    command = [sys.executable, "-W", "error", "-m", "benchmarks", "comparison", "--samples", "3", "--warm-up", "1"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert "flask-apikey" in finished.stdout
    assert "valid / bare" in finished.stdout
    assert "CPython" in finished.stdout or "PyPy" in finished.stdout


def test_too_few_stored_keys_are_refused(run):
    result = run("stored-keys", "--samples", "200", "--stored", "150")
    assert result.exit_code == 2
    assert "store 800 or more" in result.stderr


@pytest.mark.parametrize(
    ("limit", "line"), [(1.5, "MISSED: a / b ≤ 1.5: 2.00 (1.90 to 2.10)"), (2.0, "met: a / b ≤ 2.0")]
)
def test_only_check_fails_for_a_missed_target(run, monkeypatch, limit, line):
    from benchmarks import comparison
    from benchmarks.estimates import Estimate
    from benchmarks.report import Report, Target

    report = Report("A benchmark", [], [Target("a / b", limit, Estimate(2.0, 1.9, 2.1))])
    monkeypatch.setattr(comparison, "run", lambda *_: report)
    checked = run("comparison", "--check")
    assert checked.exit_code == int("MISSED" in line)
    assert line in checked.stdout
    assert run("comparison").exit_code == 0


def test_an_application_without_checks_is_not_timed():
    from benchmarks import applications
    from benchmarks.timing import Contender, environ_with, measure

    contender = Contender("open to all", applications.bare(), [environ_with()], status=401)
    with pytest.raises(AssertionError, match="open to all answers 200 OK, not 401"):
        measure([contender], 1, warm_up=1)


def test_ratio_of_costs_subtracts_the_bare_view():
    import numpy as np

    from benchmarks.estimates import median, ratio, ratio_of_costs

    bare, valid, hand_made = (np.full(9, each) for each in (40_000, 80_000, 240_000))
    assert median(bare).value == pytest.approx(40.0)
    assert ratio(valid, bare).value == pytest.approx(2.0)
    assert ratio_of_costs(valid, bare, hand_made).value == pytest.approx(0.2)


@pytest.mark.server
def test_valid_key_beside_junk(run, monkeypatch):
    from benchmarks import junk as module

    monkeypatch.setattr(module, "WORKERS", {"gthread": module.WORKERS["gthread"]})
    (junk,) = reports_of(run("junk", "--samples", "300", "--json"))
    assert rows_of(junk) == [
        f"gthread, {kind}, {name}" for kind in ("malformed", "random ids") for name in ("bare view", "SQLite")
    ]
    assert [target["limit"] for target in junk["targets"]] == [1.25, 1.5] * 2
    assert all(row["ratios"]["junk/s"]["value"] > 0 for row in junk["rows"])


def test_every_kind_of_refusal_is_timed(run):
    (timing,) = reports_of(run("failure-timing", "--samples", "4", "--warm-up", "1", "--json"))
    kinds = ("malformed", "bad checksum", "unknown id", "wrong secret", "revoked", "expired", "address refused")
    assert rows_of(timing) == [
        f"{storage}, {kind}" for storage in ("SQLite", "SQLite, deadline and decoy off") for kind in kinds
    ]
