"""`APIKeys`: several applications, owners, signals, the choice of a backend, the key of the present request."""

import contextlib
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from flask import Flask, copy_current_request_context, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData, create_engine, inspect
from werkzeug.test import EnvironBuilder

from flask_apikey import (
    APIKeyError,
    APIKeys,
    ConfigurationError,
    InvalidValue,
    KeyNotFound,
    NotRecoverable,
    api_key_exempt,
    check_api_key,
    current_api_key,
    require_api_key,
    signals,
)
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.testing import FrozenClock
from flask_apikey_sql import SQLBackend


def add_view(app):
    @app.get("/", endpoint="view")
    @require_api_key
    def view():
        return current_api_key.name

    @app.get("/optional", endpoint="optional")
    @require_api_key(optional=True)
    def optional():
        return current_api_key.name if current_api_key else "nobody"

    @app.get("/open", endpoint="open")
    @api_key_exempt
    def open_():
        return current_api_key.name if current_api_key else "nobody"


@pytest.mark.parametrize(
    "backend",
    ["sqlite://hunter2", create_engine("sqlite://"), SQLAlchemy(), SQLBackend],
    ids=["URI", "engine", "Flask-SQLAlchemy", "class"],
)
def test_backend_of_another_type(app, backend):
    with pytest.raises(ConfigurationError, match="backend must be a Backend, such as SQLBackend") as refused:
        APIKeys(app, backend=backend)
    assert "hunter2" not in str(refused.value)
    assert "apikey" not in app.extensions


class TestSeveralApplications:
    @pytest.fixture
    def apps(self, make_app):
        apps = [
            make_app(APIKEY_PREFIX="one"),
            make_app(APIKEY_PREFIX="two", APIKEY_FERNET_KEY=generate_fernet_key(), APIKEY_ENFORCE_HTTPS=True),
        ]
        api_keys = APIKeys()
        for app in apps:
            api_keys.init_app(app)
            add_view(app)
        self.api_keys = api_keys
        return apps

    def test_own_keys_and_settings(self, apps):
        keys = []
        for app in apps:
            with app.app_context():
                keys.append(self.api_keys.create(name=app.name).key)
        assert [key[:4] for key in keys] == ["one_", "two_"]
        for index, app in enumerate(apps):
            client = app.test_client()
            own, other = keys[index], keys[1 - index]
            answers = [
                client.get("/", headers={"X-API-Key": key}, base_url="https://localhost") for key in (own, other)
            ]
            assert answers[0].text == app.name
            assert answers[1].json["code"] == "invalid_key"
        assert apps[0].test_client().get("/").status_code == 401
        assert apps[1].test_client().get("/").status_code == 403

    def test_application_of_the_context(self, apps):
        one, two = apps
        with one.app_context():
            record = self.api_keys.create(name="ci").record
            with two.app_context():
                assert list(self.api_keys.list()) == []
                with pytest.raises(KeyNotFound):
                    self.api_keys.get(record.id)
            assert list(self.api_keys.list()) == [record]

    def test_nested_request_to_another_application(self, apps):
        one, two = apps
        with two.app_context():
            key_of_two = self.api_keys.create(name="of two").key
        with one.app_context():
            key_of_one = self.api_keys.create(name="of one").key

        @one.get("/both")
        @require_api_key
        def both():
            answer = two.test_client().get("/", headers={"X-API-Key": key_of_two}, base_url="https://localhost")
            return f"{answer.text}, {current_api_key.name}"

        assert one.test_client().get("/both", headers={"X-API-Key": key_of_one}).text == "of two, of one"

    def test_second_extension_is_refused(self, apps):
        for api_keys in (self.api_keys, APIKeys()):
            with pytest.raises(ConfigurationError, match="already"):
                api_keys.init_app(apps[0])

    def test_wrong_application(self, apps):
        with apps[0].app_context(), pytest.raises(ConfigurationError, match="init_app"):
            APIKeys().get("0" * 16)
        with Flask("stranger").app_context(), pytest.raises(ConfigurationError, match=r"stranger.*init_app"):
            self.api_keys.create(name="ci")
        with pytest.raises(RuntimeError, match="application context"):
            self.api_keys.create(name="ci")


class TestCurrentAPIKey:
    @pytest.fixture(autouse=True)
    def _views(self, app, api_keys):
        add_view(app)

    def test_key_of_the_request(self, client, issue):
        issued = issue(name="ci", owner="team-7", scopes=["read"], metadata={"plan": "free"})
        with client:
            client.get("/", headers={"X-API-Key": issued.key})
            assert current_api_key
            assert current_api_key.record == issued.record
            assert current_api_key.id == issued.record.id
            assert current_api_key.name == "ci"
            assert current_api_key.owner == "team-7"
            assert current_api_key.scopes == {"read"}
            assert current_api_key.metadata == {"plan": "free"}
            assert current_api_key.has_scopes("read")
            assert not current_api_key.has_scopes("read", "write")
            assert not current_api_key.has_scopes("read:*")
            assert issued.key not in repr(current_api_key)

    def test_false_without_a_checked_key(self, client, issue):
        assert client.get("/optional").text == "nobody"
        assert client.get("/open", headers={"X-API-Key": issue().key}).text == "nobody"

    def test_false_after_a_refusal(self, app, client, issue):
        seen = []
        app.register_error_handler(401, lambda _: seen.append(bool(current_api_key)) or ("", 401))
        app.register_error_handler(403, lambda _: seen.append(bool(current_api_key)) or ("", 403))
        client.get("/", headers={"X-API-Key": "nonsense"})
        client.get("/", headers={"X-API-Key": issue(denied_ips=["127.0.0.1"]).key})
        assert seen == [False, False]

    @pytest.mark.parametrize("attribute", ["name", "id", "owner", "record", "scopes"])
    def test_outside_of_a_request(self, app, attribute):
        assert not current_api_key
        for context in (contextlib.nullcontext(), app.app_context()):
            with context, pytest.raises(RuntimeError, match=r"while a request is handled: .* api_keys\.get"):
                getattr(current_api_key, attribute)

    def test_attributes_without_a_key(self, app, client):
        seen = []

        @app.get("/forgotten")
        @require_api_key(optional=True)
        def forgotten():
            assert repr(current_api_key) == "<NoAPIKey>"
            for attribute in ("name", "has_scopes"):
                with pytest.raises(AttributeError) as caught:
                    getattr(current_api_key, attribute)
                seen.append(str(caught.value))
            return ""

        assert client.get("/forgotten").status_code == 200
        assert seen == [
            f"this request has no accepted API key: check 'if current_api_key' before current_api_key.{name}, or "
            "require a key with @require_api_key, without optional=True"
            for name in ("name", "has_scopes")
        ]

    def test_requests_in_one_application_context(self, app, client, issue):
        first, second = issue(name="first").key, issue(name="second").key
        with app.app_context():
            assert client.get("/", headers={"X-API-Key": first}).text == "first"
            assert client.get("/").status_code == 401
            assert client.get("/optional").text == "nobody"
            assert client.get("/open").text == "nobody"
            assert client.get("/", headers={"X-API-Key": "nonsense"}).status_code == 401
            assert "Cache-Control" not in client.get("/open").headers
            assert client.get("/", headers={"X-API-Key": second}).text == "second"
            with pytest.raises(RuntimeError, match="request"):
                _ = current_api_key.name

    def test_nested_request(self, app, client, issue):
        outer, inner = issue(name="outer").key, issue(name="inner").key

        @app.get("/nested")
        @require_api_key
        def nested():
            other = app.test_client()
            answers = [other.get("/optional", headers=headers).text for headers in ({"X-API-Key": inner}, {})]
            return f"{answers} {current_api_key.name}"

        assert client.get("/nested", headers={"X-API-Key": outer}).text == "['inner', 'nobody'] outer"

    def test_copied_request_context(self, app, client, issue):
        @app.get("/copied")
        @require_api_key
        def copied():
            return copy_current_request_context(lambda: current_api_key.name)()

        assert client.get("/copied", headers={"X-API-Key": issue(name="ci").key}).text == "ci"

    def test_teardown(self, app, client, issue):
        seen = []

        @app.teardown_request
        def note(_):
            seen.append(current_api_key.name)

        client.get("/", headers={"X-API-Key": issue(name="ci").key})
        assert seen == ["ci"]


class TestOwnerLoader:
    @pytest.fixture
    def loaded(self, app, api_keys):
        loaded = []

        @api_keys.owner_loader
        def load(owner_id):
            loaded.append(owner_id)
            return {"id": owner_id}

        @app.get("/")
        @require_api_key
        def view():
            return {"owner": current_api_key.owner, "again": current_api_key.owner is current_api_key.owner}

        @app.get("/unread")
        @require_api_key
        def unread():
            return "reached"

        assert load("direct") == {"id": "direct"}
        loaded.clear()
        return loaded

    def test_not_called_unless_an_owner_is_read(self, client, issue, loaded):
        client.get("/unread", headers={"X-API-Key": issue(owner="team-7").key})
        client.get("/", headers={"X-API-Key": issue(owner="team-7", denied_ips=["0.0.0.0/0"]).key})
        assert client.get("/", headers={"X-API-Key": issue().key}).json["owner"] is None
        assert loaded == []

    def test_called_once_in_a_request(self, client, issue, loaded):
        key = issue(owner="team-7").key
        for calls in (1, 2):
            response = client.get("/", headers={"X-API-Key": key})
            assert response.json == {"owner": {"id": "team-7"}, "again": True}
            assert loaded == ["team-7"] * calls


class TestSignals:
    @pytest.fixture
    def sent(self):
        sent = []
        names = [name for name in vars(signals) if name.startswith("api_key_")]
        receivers = {name: lambda sender, name=name, **kwargs: sent.append((name, sender, kwargs)) for name in names}
        with contextlib.ExitStack() as stack:
            for name, receiver in receivers.items():
                stack.enter_context(getattr(signals, name).connected_to(receiver))
            yield sent

    def test_changes(self, make_app, sent):
        app = make_app(APIKEY_RECOVERABLE=True)
        api_keys = APIKeys(app)
        with app.app_context():
            key_id = api_keys.create(name="ci").record.id
            api_keys.update(key_id, name="renamed")
            api_keys.roll(key_id, grace=timedelta(hours=1))
            key = api_keys.reveal(key_id)
            revoked = api_keys.revoke(key_id)
        assert [(name, sender) for name, sender, _ in sent] == [
            (f"api_key_{what}", app) for what in ("created", "updated", "rolled", "revealed", "revoked")
        ]
        assert all(kwargs["key"].id == key_id for _, _, kwargs in sent)
        assert sent[-1][2]["key"] == revoked
        assert key not in repr(sent)

    def test_failed_change(self, app, api_keys, sent):
        with app.app_context():
            key_id = api_keys.create(name="ci").record.id
            sent.clear()
            with pytest.raises(NotRecoverable):
                api_keys.reveal(key_id)
            with pytest.raises(KeyNotFound):
                api_keys.revoke("0" * 16)
        assert sent == []

    def test_change_without_effect(self, app, api_keys, sent):
        with app.app_context():
            key_id = api_keys.create(name="ci", scopes=["read"]).record.id
            first = api_keys.revoke(key_id, reason="first")
            sent.clear()
            assert api_keys.revoke(key_id, reason="second") == first
            assert api_keys.update(key_id, name="ci", scopes=["read"]) == first
        assert sent == []

    def test_failing_receiver(self, make_app, caplog):
        app = make_app(APIKEY_RECOVERABLE=True)
        api_keys = APIKeys(app)

        def fail(_sender, key):
            raise RuntimeError(f"no mail about {key}")

        with app.app_context(), contextlib.ExitStack() as stack:
            for what in ("created", "updated", "rolled", "revealed", "revoked"):
                stack.enter_context(getattr(signals, f"api_key_{what}").connected_to(fail))
            issued = api_keys.create(name="ci")
            assert api_keys.verify(issued.key).accepted
            key_id = issued.record.id
            rolled = api_keys.roll(key_id)
            assert api_keys.verify(rolled.key).accepted
            assert api_keys.reveal(key_id) == rolled.key
            assert api_keys.update(key_id, name="renamed").name == "renamed"
            assert api_keys.revoke_many(issued_before=rolled.record.issued_at + timedelta(days=1)).revoked == 1
        failures = [each for each in caplog.records if each.exc_info is not None]
        assert [each.name for each in failures] == ["flask_apikey"] * 5
        assert "api-key-rolled" in failures[1].getMessage()
        assert "no mail about" in caplog.text
        assert issued.key not in caplog.text
        assert rolled.key not in caplog.text

    def test_accepted_key_is_sent_once(self, app, client, issue, sent):
        app.get("/")(require_api_key(require_api_key(scopes=["read"])(lambda: "reached")))
        issued = issue(scopes=["read"])
        sent.clear()
        client.get("/", headers={"X-API-Key": issued.key})
        assert sent == [("api_key_accepted", app, {"key": issued.record})]

    def test_refusals(self, app, client, issue, sent):
        app.get("/")(require_api_key(lambda: "reached"))
        app.get("/open", endpoint="open")(lambda: "open")
        issued = issue(denied_ips=["127.0.0.1"])
        sent.clear()
        client.get("/open", headers={"X-API-Key": issued.key})
        for headers in ({}, {"X-API-Key": "nonsense"}, {"X-API-Key": issued.key}):
            client.get("/", headers=headers)
        assert [(name, sender) for name, sender, _ in sent] == [("api_key_refused", app)] * 3
        decisions = [kwargs["decision"] for _, _, kwargs in sent]
        assert [each.verdict for each in decisions] == [Verdict.MISSING, Verdict.MALFORMED, Verdict.ADDRESS_REFUSED]
        assert [each.key for each in decisions] == [None, None, issued.record]
        assert issued.key not in repr(sent)


class TestVerify:
    @pytest.mark.parametrize("text", ["", "nonsense", "x" * 100_000, "é", "\ud800", "\0"])
    def test_malformed_key(self, app, api_keys, text):
        with app.app_context():
            assert api_keys.verify(text).verdict is Verdict.MALFORMED

    def test_key_of_another_type(self, app, api_keys):
        with app.app_context(), pytest.raises(InvalidValue, match="key must be a str, not bytes"):
            api_keys.verify(b"fak_")

    @pytest.mark.parametrize("wrong", [5, b"10.0.0.1", "", "nowhere", "10.0.0.0/8", "10.0.0.1:80", "1" * 10_000])
    def test_invalid_address(self, app, api_keys, issue, wrong):
        key = issue().key
        with app.app_context(), pytest.raises(InvalidValue, match="address must be an IP address, not"):
            api_keys.verify(key, address=wrong)

    def test_address(self, app, api_keys, issue):
        issued = issue(allowed_ips=["10.0.0.0/8"])
        with app.app_context():
            decision = api_keys.verify(issued.key, address="10.1.2.3")
            assert decision.accepted
            assert decision.key == issued.record
            assert api_keys.verify(issued.key, address="192.0.2.1").verdict is Verdict.ADDRESS_REFUSED
            assert api_keys.verify(issued.key).verdict is Verdict.ADDRESS_REFUSED
            assert api_keys.verify(issued.key[:-1]).verdict is Verdict.MALFORMED


class TestChoiceOfBackend:
    def tables(self, path):
        engine = create_engine(f"sqlite:///{path}")
        try:
            return inspect(engine).get_table_names()
        finally:
            engine.dispose()

    def tables_of_ours(self):
        metadata = MetaData()
        SQLBackend("sqlite:///:memory:", metadata=metadata)
        return sorted(metadata.tables)

    def test_backend_argument(self, make_app, backend):
        app = make_app(APIKEY_STORAGE_URI="sqlite:////nonexistent/keys.db")
        api_keys = APIKeys(app, backend=backend)
        with app.app_context():
            api_keys.init_storage()
            record = api_keys.create(name="ci").record
        assert backend.get(record.id).record == record

    def test_storage_uri(self, make_app, tmp_path):
        app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path / 'own.db'}")
        SQLAlchemy().init_app(self.with_database(app, tmp_path / "shop.db"))
        api_keys = APIKeys(app)
        with app.app_context():
            api_keys.init_storage()
        assert self.tables(tmp_path / "own.db") == self.tables_of_ours()
        assert not (tmp_path / "shop.db").exists()

    @pytest.mark.parametrize("first", ["SQLAlchemy", "APIKeys"])
    def test_flask_sqlalchemy(self, make_app, tmp_path, first):
        app = self.with_database(make_app(APIKEY_STORAGE_URI=None), tmp_path / "shop.db")
        database, api_keys = SQLAlchemy(), APIKeys()
        for extension in (database, api_keys) if first == "SQLAlchemy" else (api_keys, database):
            extension.init_app(app)
        add_view(app)
        with app.app_context():
            api_keys.init_storage()
            key = api_keys.create(name="ci").key
        assert app.test_client().get("/", headers={"X-API-Key": key}).text == "ci"
        assert "flask_apikey_keys" in self.tables(tmp_path / "shop.db")
        assert not Path(app.instance_path, "api_keys.db").exists()
        with app.app_context():
            app.extensions["apikey"].backend.close()
            database.engine.dispose()

    def test_private_file_in_the_instance_folder(self, make_app):
        app = make_app(APIKEY_STORAGE_URI=None)
        api_keys = APIKeys(app)
        add_view(app)
        with app.app_context():
            api_keys.init_storage()
            key = api_keys.create(name="ci").key
        assert app.test_client().get("/", headers={"X-API-Key": key}).text == "ci"
        assert self.tables(Path(app.instance_path, "api_keys.db")) == self.tables_of_ours()
        assert stat.S_IMODE(Path(app.instance_path).stat().st_mode) == 0o700

    def test_unusable_instance_folder(self, make_app, tmp_path):
        app = make_app(APIKEY_STORAGE_URI=None)
        app.instance_path = str(tmp_path / "a file" / "instance")
        Path(tmp_path, "a file").touch()
        api_keys = APIKeys(app)
        add_view(app)
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.json["code"]) == (401, "missing_key")
        with app.app_context(), pytest.raises(ConfigurationError) as refusal:
            api_keys.init_storage()
        assert str(refusal.value) == (
            f"the instance folder {app.instance_path}, where keys are kept unless APIKEY_STORAGE_URI names another "
            "place, cannot be made: Not a directory. Make it, or set APIKEY_STORAGE_URI."
        )

    def test_invalid_storage_uri_fails_at_start(self, make_app):
        app = make_app(APIKEY_STORAGE_URI="nonsense://x")
        with pytest.raises(ConfigurationError, match="APIKEY_STORAGE_URI"):
            APIKeys(app)
        app.config["APIKEY_STORAGE_URI"] = "sqlite:///:memory:"
        APIKeys(app)

    def with_database(self, app, path):
        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
        return app


REQUESTS = [lambda builder: builder, EnvironBuilder.get_environ, EnvironBuilder.get_request]
"""What `FlaskClient.open` takes in place of a path."""


class TestClientWithAKey:
    """The test client that the package offers."""

    @pytest.fixture(autouse=True)
    def _views(self, app, api_keys):
        add_view(app)
        app.get("/header", endpoint="header")(lambda: request.headers.get("Authorization", "none"))

    def test_headers_of_a_request_are_kept(self, app, issue):
        client = app.test_client(api_key=issue().key)
        assert app.test_client().get("/header").text == "none"
        assert client.get("/header", headers={"Authorization": "Basic x"}).text == "Basic x"
        assert client.get("/header", auth=("a", "b")).text == "Basic YTpi"

    @pytest.mark.parametrize("makes", REQUESTS)
    def test_key_is_sent(self, app, issue, makes):
        client = app.test_client(api_key=issue(name="ci").key)
        given = makes(EnvironBuilder("/"))
        assert client.open(given).text == "ci"
        assert client.open(given).text == "ci"

    @pytest.mark.parametrize("makes", REQUESTS)
    @pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
    def test_key_of_a_request_replaces_that_of_the_client(self, app, issue, makes, header):
        client = app.test_client(api_key=issue(name="other").key)
        value = issue(name="own").key
        headers = {header: value if header == "X-API-Key" else f"Api-Key {value}"}
        assert client.open(makes(EnvironBuilder("/", headers=headers))).text == "own"
        assert client.get("/", headers=headers).text == "own"


def test_clock_and_backend_of_an_application(make_app, clock, backend, storage):
    later = FrozenClock(clock() + timedelta(days=1))
    api_keys = APIKeys(backend=storage, clock=clock)
    apps = [make_app(), make_app()]
    api_keys.init_app(apps[0])
    api_keys.init_app(apps[1], backend=backend, clock=later)
    issued = []
    for app in apps:
        with app.app_context():
            api_keys.init_storage()
            issued.append(api_keys.create(name="ci").record)
    assert [record.created_at for record in issued] == [clock(), later()]
    assert storage.get(issued[0].id).record == issued[0]
    assert backend.get(issued[1].id).record == issued[1]
    assert storage.get(issued[1].id) is backend.get(issued[0].id) is None


def test_view_of_another_application(make_app):
    inner, outer = make_app(), make_app()
    inner_keys, outer_keys = APIKeys(inner), APIKeys(outer)

    @inner.get("/")
    @require_api_key
    def inside():
        return {"key": current_api_key.name}

    @outer.get("/")
    @require_api_key
    def outside():
        with inner.app_context():
            return inside()

    with outer.app_context():
        theirs = outer_keys.create(name="outer").key
    with inner.app_context():
        inner_keys.create(name="inner")
    with pytest.raises(ConfigurationError, match="inside"):
        outer.test_client(api_key=theirs).get("/")


def test_concurrent_first_requests_share_services(tmp_path):
    # Without a storage that is named, it is opened when somebody needs it.
    apps = [Flask(__name__, instance_path=str(tmp_path / str(number))) for number in range(20)]
    for app in apps:
        app.config["APIKEY_FERNET_KEY"] = generate_fernet_key()
        APIKeys(app)
    threads = 8
    together = Barrier(threads)

    def parts(app):
        state = app.extensions["apikey"]
        together.wait()
        return state.usage, state.backend, state.services.authenticator, state.services.lifecycle

    with ThreadPoolExecutor(threads) as pool:
        for app in apps:
            assert len(set(pool.map(parts, [app] * threads))) == 1
    for app in apps:
        app.extensions["apikey"].close()


def test_durations_as_text(app, api_keys, issue, clock):
    issued = issue(lifetime="90d")
    assert issued.record.expires_at == clock() + timedelta(days=90)
    with app.app_context():
        rolled = api_keys.roll(issued.record.id, grace="1h")
        assert rolled.record.previous_secrets_expire_at == (clock() + timedelta(hours=1),)
        assert list(api_keys.list(expiring_within="13w")) == [rolled.record]
        assert list(api_keys.list(expiring_within="12w")) == []
        clock.advance(timedelta(minutes=30))
        assert api_keys.finish_roll(issued.record.id, unused_for="30m").ended == 1
        with pytest.raises(InvalidValue, match="lifetime: expected a whole number and a unit"):
            api_keys.create(name="ci", lifetime="90")


def test_missing_key_answer_names_each_header(app, client, issue):
    add_view(app)
    issued = issue()
    ways = re.findall(r"'([\w-]+): ([^']*)<key>'", client.get("/").json["detail"])
    assert len(ways) == 3
    for header, scheme in ways:
        assert client.get("/", headers={header: scheme + issued.key}).status_code == 200


@pytest.mark.parametrize(
    "call",
    [
        lambda api_keys, key: api_keys.create(name="ci", scopes=[f"{key} "]),
        lambda api_keys, key: api_keys.create(name="ci", allowed_ips=[key]),
        lambda api_keys, key: api_keys.create(name="ci", lifetime=key),
        lambda api_keys, key: api_keys.create_many([{"name": "ci", "scopes": [f"{key} "]}]),
        lambda api_keys, key: api_keys.get(key),
        lambda api_keys, key: api_keys.list(status=key),
        lambda api_keys, key: api_keys.usage(by=key),
        lambda api_keys, key: check_api_key(scopes=[f"{key} "]),
    ],
)
def test_error_shows_no_key_that_was_passed_by_mistake(app, api_keys, issue, call):
    with app.app_context():
        api_keys.init_storage()
        key = issue().key
        with pytest.raises(APIKeyError) as caught:
            call(api_keys, key)
    assert key[-40:] not in f"{caught.value!r} {caught.value}"
