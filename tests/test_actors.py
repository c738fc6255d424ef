"""Actors and reasons: who made a change, and why, in the history and the audit log."""

import json
import logging
from datetime import timedelta
from threading import Thread

import pytest
from flask import Flask, session

from flask_apikey import InvalidValue, generate_fernet_key, require_api_key
from flask_apikey.cli import apikey
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.logs import JSONFormatter
from flask_apikey.self_service import self_service_blueprint
from flask_apikey.signals import api_key_updated
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene
from tests.support.stored import all_events

HOUR = timedelta(hours=1)
HOSTILE_NAMES = {
    "empty": "",
    "blank": " \t",
    "control character": "a\x1b[2Jb",
    "line break": "a\nactor=root",
    "bidirectional": "a\u202eb",
    "surrogate": "a\ud800b",
    "null": "a\x00b",
    "megabyte": "x" * 2**20,
}


class Scene(KeyScene):
    """An application whose view updates a key."""

    def __init__(self, app, clock):
        super().__init__(app, clock)
        app.secret_key = "for the session"
        app.register_blueprint(self_service_blueprint(self.api_keys))

        @app.post("/keys/<key_id>/<name>")
        @require_api_key(optional=True)
        def rename(key_id, name):
            return self.api_keys.update(key_id, name=name).to_dict()

    def rename(self, issued, name="renamed", key=None, user=None):
        client = self.app.test_client(api_key=key)
        if user is not None:
            with client.session_transaction() as stored:
                stored["user"] = user
        response = client.post(f"/keys/{issued.record.id}/{name}")
        assert response.status_code == 200

    def events(self, issued=None):
        events = all_events(self.backend.history)
        return [each for each in events if issued is None or each.key_id == issued.record.id]

    def actors(self, issued=None):
        return [each.actor for each in self.events(issued)]

    def run(self, *arguments, **options):
        return self.app.test_cli_runner().invoke(apikey, arguments, **options)


@pytest.fixture
def scene(make_app, clock):
    return Scene(make_app(APIKEY_RECOVERABLE=True), clock)


class TestActingAs:
    def test_blocks_nest(self, scene):
        acting_as = scene.api_keys.acting_as
        with acting_as("outer"):
            issued = scene.issue()
            with acting_as("inner"):
                scene.do("update", issued.record.id, name="a")
            scene.do("update", issued.record.id, name="b")
            with pytest.raises(ZeroDivisionError), acting_as("failing"):
                raise ZeroDivisionError
            scene.do("update", issued.record.id, name="c")
        scene.do("update", issued.record.id, name="d")
        assert scene.actors() == ["outer", "inner", "outer", "outer", ""]

    def test_every_change(self, scene, clock):
        with scene.api_keys.acting_as("ana"):
            issued = scene.issue(owner="a", lifetime=HOUR)
            key_id = issued.record.id
            scene.do("update", key_id, name="new")
            scene.roll(issued, grace=HOUR)
            scene.do("finish_roll", key_id)
            scene.do("reveal", key_id)
            scene.do("suspend", key_id)
            scene.do("resume", key_id)
            scene.do("suspend_many", owner="a")
            scene.do("resume_many", owner="a")
            scene.do("revoke", key_id)
            scene.do("revoke_many", owner="a")
            scene.do("prune", ended_before=clock() + HOUR)
        assert scene.actors() == ["ana"] * 11

    def test_other_thread(self, scene):
        issued = scene.issue()
        with scene.api_keys.acting_as("ana"):
            thread = Thread(target=scene.do, args=("update", issued.record.id), kwargs={"name": "a"})
            thread.start()
            thread.join()
        assert scene.actors() == ["", ""]

    @pytest.mark.parametrize("name", [*HOSTILE_NAMES.values(), None, 7], ids=[*HOSTILE_NAMES, "none", "number"])
    def test_invalid_name(self, scene, name):
        with pytest.raises(InvalidValue, match="actor"), scene.api_keys.acting_as(name):
            pytest.fail("the block was entered")
        scene.issue()
        assert scene.actors() == [""]

    def test_key_in_a_name_is_redacted(self, scene, caplog):
        issued = scene.issue()
        with caplog.at_level(logging.INFO, "flask_apikey"), scene.api_keys.acting_as(f"job {issued.key}"):
            scene.do("update", issued.record.id, name="a")
        assert issued.key[-40:] not in f"{scene.events()} {[vars(each) for each in caplog.records]}"
        assert "[redacted]" in scene.actors()[-1]

    def test_redacted_name_is_cut(self, scene):
        with scene.api_keys.acting_as(f"_{'a' * 16}_{'b' * 8} " * 7):
            actor = scene.app.extensions["apikey"].actor()
        assert (actor[-1], len(actor)) == ("…", 200)


class TestRequests:
    def test_actor_loader(self, scene):
        @scene.api_keys.actor_loader
        def load():
            return session.get("user")

        first, second = scene.issue(), scene.issue()
        scene.rename(first, "a", user="ana")
        scene.rename(first, "b", key=second.key)
        scene.rename(first, "c", key=second.key, user="ben")
        scene.rename(first, "d")
        assert scene.actors(first) == ["", "ana", f"key:{second.record.id}", "ben", ""]

    def test_acting_as_takes_precedence(self, scene):
        scene.api_keys.actor_loader(lambda: "ana")
        issued = scene.issue()

        @scene.app.post("/nightly")
        def nightly():
            with scene.api_keys.acting_as("nightly job"):
                scene.api_keys.update(issued.record.id, name="nightly")
            return ""

        scene.app.test_client().post("/nightly")
        assert scene.actors(issued) == ["", "nightly job"]

    def test_loader_is_not_called_elsewhere(self, scene):
        scene.api_keys.actor_loader(lambda: pytest.fail("called outside of a request"))
        scene.issue()
        assert scene.actors() == [""]

    def test_loader_is_not_called_without_a_change(self, scene):
        scene.api_keys.actor_loader(lambda: pytest.fail("called for a request that changes nothing"))
        assert scene.app.test_client(api_key=scene.issue().key).get("/api-key").status_code == 200

    @pytest.mark.parametrize(
        ("name", "actor"),
        [
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\nactor=root", "a\\u{a}actor=root"),
            ("a\u202eb", "a\\u{202e}b"),
            ("a\ud800b", "a\\u{d800}b"),
            ("x" * 2**20, "x" * 199 + "…"),
            ("\x00" * 2**20, ("\\u{0}" * 40)[:199] + "…"),
            (" ", ""),
            ("", ""),
        ],
        ids=["control", "line break", "bidirectional", "surrogate", "megabyte", "megabyte of NUL", "blank", "empty"],
    )
    def test_hostile_name_from_the_loader(self, scene, name, actor):
        scene.api_keys.actor_loader(lambda: name)
        issued = scene.issue()
        scene.rename(issued)
        assert scene.actors(issued) == ["", actor]

    @pytest.mark.parametrize("failure", [ZeroDivisionError("division"), 7, b"ana", ["ana"]], ids=repr)
    def test_failing_loader(self, scene, failure, caplog):
        @scene.api_keys.actor_loader
        def load():
            if isinstance(failure, Exception):
                raise failure
            return failure

        issued = scene.issue()
        scene.rename(issued, key=issued.key)
        assert scene.do("get", issued.record.id).name == "renamed"
        assert scene.actors(issued) == ["", "unknown (actor loader failed)"]
        assert "the actor loader failed" in caplog.text

    def test_refused_key_is_no_actor(self, scene):
        issued, revoked = scene.issue(), scene.issue()
        scene.do("revoke", revoked.record.id)

        @scene.app.errorhandler(401)
        def change_anyway(_error):
            scene.api_keys.update(issued.record.id, name="changed")
            return "", 401

        scene.app.test_client(api_key=revoked.key).post(f"/keys/{issued.record.id}/x")
        assert scene.actors(issued) == ["", ""]

    def test_receiver_of_a_signal_has_the_actor_of_its_request(self, scene):
        issued, other = scene.issue(), scene.issue()
        scene.api_keys.actor_loader(lambda: "ana")

        def follow(_app, key):
            if key.id == issued.record.id:
                scene.api_keys.update(other.record.id, name="followed")

        with api_key_updated.connected_to(follow, scene.app):
            scene.rename(issued)
        assert scene.actors(other) == ["", "ana"]


class TestSelfService:
    @pytest.mark.parametrize("path", ["/api-key/roll", "/api-key/revoke"])
    def test_key_acts_for_itself(self, scene, path):
        scene.api_keys.actor_loader(lambda: "somebody with a session")
        issued = scene.issue()
        assert scene.app.test_client(api_key=issued.key).post(path).status_code == 200
        assert scene.actors(issued) == ["", f"key:{issued.record.id}"]

    def test_previous_secret(self, scene, caplog):
        issued = scene.issue()
        scene.roll(issued, grace=HOUR)
        client = scene.app.test_client(api_key=issued.key)
        assert client.post("/api-key/roll").status_code == 403
        (refused,) = (each for each in caplog.records if each.event == "key.rolled")
        assert (refused.outcome, refused.actor) == ("failure", f"key:{issued.record.id}")
        assert client.post("/api-key/revoke").status_code == 200
        assert scene.actors(issued)[-1] == f"key:{issued.record.id}"


def test_exposed_key_is_revoked_by_the_library(make_app, clock):
    app = make_app(TESTING=False, APIKEY_REVOKE_EXPOSED=True, APIKEY_TRUSTED_PROXIES=["192.0.2.1"])
    scene = Scene(app, clock)
    scene.api_keys.actor_loader(lambda: "ana")
    issued = scene.issue()
    app.test_client(api_key=issued.key).get("/api-key", base_url="http://localhost").close()
    assert scene.actors(issued) == ["", "flask-apikey"]


class TestAuditLog:
    def test_actor_is_a_field(self, scene, caplog):
        with caplog.at_level(logging.INFO, "flask_apikey"), scene.api_keys.acting_as("ana\u200d"):
            issued = scene.issue()
            scene.do("update", issued.record.id, name="new", reason="typing error")
        for record in caplog.records:
            assert json.loads(JSONFormatter().format(record))["actor"] == "ana\\u{200d}"
        assert [(each.event, each.reason) for each in caplog.records] == [
            ("key.created", None),
            ("key.updated", "name: typing error"),
        ]

    def test_checked_requests_have_no_actor(self, scene, caplog):
        issued = scene.issue()
        with caplog.at_level(logging.INFO, "flask_apikey"):
            scene.app.test_client(api_key=issued.key).get("/api-key")
        (record,) = caplog.records
        assert (record.event, record.actor) == ("authentication", None)


class TestReasons:
    def test_every_change(self, scene, clock):
        issued = scene.issue(owner="a", lifetime=HOUR, reason="1")
        key_id = issued.record.id
        scene.do("update", key_id, name="new", reason="2")
        scene.do("roll", key_id, grace=HOUR, reason="3")
        scene.do("finish_roll", key_id, reason="4")
        scene.do("reveal", key_id, reason="5")
        scene.do("suspend", key_id, reason="6")
        scene.do("resume", key_id, reason="7")
        scene.do("suspend_many", owner="a", reason="8")
        scene.do("resume_many", owner="a", reason="9")
        scene.do("revoke", key_id, reason="10")
        scene.do("prune", ended_before=clock() + HOUR, reason="11")
        assert [each.reason for each in scene.events()] == [str(number) for number in range(1, 12)]

    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("create", {"name": "x"}),
            ("update", {"name": "x"}),
            *((method, {}) for method in ("roll", "finish_roll", "reveal", "suspend", "resume", "revoke")),
            *((method, {"owner": "a"}) for method in ("suspend_many", "resume_many", "revoke_many")),
        ],
    )
    @pytest.mark.parametrize("reason", ["", "a\nb", "x" * 501, 7], ids=["empty", "line break", "long", "number"])
    def test_invalid_reason(self, scene, method, arguments, reason):
        issued = scene.issue(owner="a")
        subject = [] if {"owner", "name"} & arguments.keys() and method != "update" else [issued.record.id]
        with pytest.raises(InvalidValue, match="reason"):
            scene.do(method, *subject, **arguments, reason=reason)
        assert [each.id for each in scene.do("list")] == [issued.record.id]
        assert len(scene.events()) == 1

    def test_invalid_reason_of_prune(self, scene, clock):
        issued = scene.issue()
        scene.do("revoke", issued.record.id)
        with pytest.raises(InvalidValue, match="reason"):
            scene.do("prune", ended_before=clock() + HOUR, reason="a\nb")
        assert scene.do("get", issued.record.id)


class TestCommandLine:
    def test_default_is_the_system_user(self, scene, monkeypatch):
        monkeypatch.setattr("getpass.getuser", lambda: "ana")
        scene.run("create", "ci")
        assert scene.actors() == ["cli:ana"]

    def test_user_without_a_name(self, scene, monkeypatch):
        def fail():
            raise KeyError("getpwuid(): uid not found: 4711")

        monkeypatch.setattr("getpass.getuser", fail)
        assert scene.run("create", "ci").exit_code == 0
        assert scene.actors() == ["cli:unknown"]

    def test_hostile_user_name(self, scene, monkeypatch):
        monkeypatch.setenv("LOGNAME", "a\x1b[2J" + "x" * 1000)
        assert scene.run("create", "ci").exit_code == 0
        (actor,) = scene.actors()
        assert actor.startswith("cli:a\\u{1b}[2Jx")
        assert len(actor) == 200

    def test_every_changing_command(self, scene):
        options = ["--actor", "ana"]
        because = [*options, "--reason", "why"]
        key_id = json.loads(scene.run("create", "ci", "--owner", "a", *because, "--json").stdout)["id"]
        for command in (
            ["update", key_id, "--name", "new"],
            ["roll", key_id, "--grace", "1h"],
            ["roll", key_id, "--finish", "--yes"],
            ["reveal", key_id],
            ["suspend", key_id, "--yes"],
            ["resume", key_id, "--yes"],
            ["suspend", "--owner", "a", "--yes"],
            ["resume", "--owner", "a", "--yes"],
            ["revoke", "--owner", "a", "--yes"],
            ["prune", "--older-than", "0s", "--yes"],
        ):
            result = scene.run(*command, *because)
            assert result.exit_code == 0, (command, result.output)
        key_id = scene.issue().record.id
        scene.run("revoke", key_id, "--yes", *because)
        Attacker(scene.backend).edit_row(key_id, name="edited")
        assert scene.run("repair", key_id, "--yes", *because).exit_code == 0
        acted = [(each.actor, each.reason) for each in scene.events()]
        assert acted.count(("ana", "why")) == 13
        assert len(acted) == 14

    def test_rotation(self, make_app, clock, tmp_path, fernet_key):
        uri = f"sqlite:///{tmp_path}/keys.db"
        Scene(make_app(APIKEY_STORAGE_URI=uri), clock).issue()
        rotated = make_app(
            APIKEY_STORAGE_URI=uri, APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_FERNET_KEY_FALLBACKS=[fernet_key]
        )
        scene = Scene(rotated, clock)
        for step in ("start", "run", "finish"):
            assert scene.run("rotation", step, "--actor", f"ana {step}").exit_code == 0
        rotation = [each.actor for each in scene.events() if each.key_id == STORAGE_ID]
        assert rotation == ["ana start", "ana run", "ana finish"]

    def test_environment_variable(self, scene):
        scene.run("create", "ci", env={"APIKEY_ACTOR": "deployment"})
        scene.run("create", "ci", "--actor", "ana", env={"APIKEY_ACTOR": "deployment"})
        assert sorted(scene.actors()) == ["ana", "deployment"]

    def test_show(self, scene):
        issued = scene.issue()
        key_id = issued.record.id
        assert "\nchanged by  unknown\n" in scene.run("show", key_id).stdout
        scene.run("update", key_id, "--name", "new", "--actor", "ana")
        assert "\nchanged by  ana\n" in scene.run("show", key_id).stdout
        assert json.loads(scene.run("show", key_id, "--json").stdout)["changed_by"] == "ana"

    def test_actor_ends_with_the_command(self, scene):
        scene.run("create", "ci", "--actor", "ana")
        assert scene.actors(scene.issue()) == [""]

    def test_actor_ends_when_a_later_option_is_refused(self, scene):
        assert scene.run("import", "nowhere.csv", "--actor", "ana", "--digest", "odd").exit_code == 2
        assert scene.actors(scene.issue()) == [""]

    @pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
    def test_invalid_actor(self, scene, name):
        result = scene.run("create", "ci", "--actor", name)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: actor ")
        assert result.stderr.count("\n") == 1
        assert list(scene.do("list")) == []


def test_loader_of_another_application(make_app, clock):
    """A request of one application that changes a key of another one."""
    outer, scene = Flask("outer"), Scene(make_app(), clock)
    issued = scene.issue()

    @outer.post("/")
    def change():
        scene.do("update", issued.record.id, name="changed")
        return ""

    outer.test_client().post("/")
    assert scene.actors(issued) == ["", ""]
