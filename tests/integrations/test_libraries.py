"""Applications that use other well-known extensions beside this one."""

import logging

import pytest
import sentry_sdk
from flask import Flask, jsonify
from flask_caching import Cache
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, jwt_required
from flask_login import LoginManager, UserMixin, login_required, login_user
from flask_talisman import Talisman
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.flask import FlaskIntegration
from sentry_sdk.transport import Transport

from flask_apikey import APIKeys, api_key_exempt, current_api_key, require_api_key
from flask_apikey.caching import caller_cache_key
from flask_apikey.core.model.sealing import generate_fernet_key
from tests.support.diagnosis import details, findings

URL = "https://localhost"


@pytest.fixture
def app(tmp_path):
    app = Flask("beside", static_folder=None)
    app.config.update(
        APIKEY_FERNET_KEY=generate_fernet_key(),
        APIKEY_STORAGE_URI=f"sqlite:///{tmp_path / 'keys.db'}",
        SECRET_KEY="the secret of the sessions of this test",
        JWT_SECRET_KEY="the secret of the tokens of this test, long enough",
    )
    return app


@pytest.fixture
def api_keys(app):
    api_keys = APIKeys(app)
    with app.app_context():
        api_keys.init_storage()
    yield api_keys
    api_keys.close()


def issue(app, api_keys, **arguments):
    with app.app_context():
        return api_keys.create(name="June", **arguments)


def get(app, path, **headers):
    return app.test_client().get(
        path, base_url=URL, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


def new_view():
    def view():
        return jsonify(name=current_api_key.name if current_api_key else None)

    return view


class TestFlaskCaching:
    def test_callers_get_their_own_answers(self, app, api_keys):
        cache = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
        calls = []

        @app.get("/")
        @cache.cached(make_cache_key=caller_cache_key)
        @require_api_key
        def view():
            calls.append(current_api_key.id)
            return jsonify(id=current_api_key.id)

        keys = [issue(app, api_keys) for _ in range(2)]
        answers = [get(app, "/", X_API_Key=issued.key).json["id"] for issued in keys * 2]
        assert answers == [issued.record.id for issued in keys * 2]
        assert calls == [issued.record.id for issued in keys]
        assert "answers_shared" not in findings(app)

    def test_change_of_a_key_takes_effect_at_once(self, app, api_keys):
        cache = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
        app.get("/")(cache.cached(make_cache_key=caller_cache_key)(require_api_key(new_view())))
        issued = issue(app, api_keys)
        assert get(app, "/", X_API_Key=issued.key).json == {"name": "June"}
        with app.app_context():
            api_keys.update(issued.record.id, name="July")
        assert get(app, "/", X_API_Key=issued.key).json == {"name": "July"}

    def test_caller_without_a_key_gets_no_answer_to_a_key(self, app, api_keys):
        cache = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
        view = require_api_key(optional=True)(new_view())
        app.get("/")(cache.cached(make_cache_key=caller_cache_key)(view))
        assert get(app, "/", X_API_Key=issue(app, api_keys).key).json == {"name": "June"}
        assert get(app, "/").json == {"name": None}

    def test_queries_and_methods_have_their_own_answers(self, app, api_keys):
        names = []
        for path, method in (("/a?x=1", "GET"), ("/a?x=2", "GET"), ("/a?x=1", "HEAD"), ("/b?x=1", "GET")):
            with app.test_request_context(path, method=method):
                names.append(caller_cache_key())
        assert len(set(names)) == len(names)

    def test_doctor_finds_answers_that_callers_share(self, app, api_keys):
        cache = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
        app.get("/shared", endpoint="shared")(cache.cached()(require_api_key(new_view())))
        app.get("/open", endpoint="open")(cache.cached()(api_key_exempt(new_view())))
        assert details(findings(app)["answers_shared"], "endpoint") == [("shared",)]


def test_flask_login_protects_pages_beside_keys(app, api_keys):
    class User(UserMixin):
        id = "june"

    LoginManager(app).user_loader(lambda user_id: User())
    app.config["APIKEY_PROTECT_ALL"] = True
    app.post("/login", endpoint="login")(api_key_exempt(lambda: str(login_user(User()))))
    app.get("/account", endpoint="account")(api_key_exempt(login_required(lambda: "account")))
    app.get("/api", endpoint="api")(require_api_key(new_view()))
    client = app.test_client()
    assert client.get("/account", base_url=URL).status_code == 401
    client.post("/login", base_url=URL)
    assert client.get("/account", base_url=URL).text == "account"
    assert client.get("/api", base_url=URL).json["code"] == "missing_key"
    answer = client.get("/api", base_url=URL, headers={"X-API-Key": issue(app, api_keys).key})
    assert answer.json == {"name": "June"}


def test_tokens_of_flask_jwt_extended_pass(app, api_keys):
    JWTManager(app)
    app.get("/token", endpoint="token")(jwt_required()(get_jwt_identity))

    @app.get("/either")
    @require_api_key(optional=True)
    @jwt_required(optional=True)
    def either():
        return jsonify(key=bool(current_api_key), identity=get_jwt_identity())

    with app.app_context():
        token = create_access_token("june")
    assert get(app, "/token", Authorization=f"Bearer {token}").text == "june"
    assert get(app, "/either", Authorization=f"Bearer {token}").json == {"key": False, "identity": "june"}
    key = issue(app, api_keys).key
    assert get(app, "/either", X_API_Key=key).json == {"key": True, "identity": None}
    assert get(app, "/either", X_API_Key=f"{key[:-1]}x").json["code"] == "invalid_key"


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_flask_talisman_adds_its_headers_to_refusals(app, is_first):
    if is_first:
        Talisman(app)
    api_keys = APIKeys(app)
    if not is_first:
        Talisman(app)
    app.get("/")(require_api_key(new_view()))
    answer = get(app, "/")
    assert answer.json["code"] == "missing_key"
    assert "Content-Security-Policy" in answer.headers
    assert "Strict-Transport-Security" in answer.headers
    api_keys.close()


class KeptEvents(Transport):
    def __init__(self):
        super().__init__()
        self.envelopes = []

    def capture_envelope(self, envelope):
        self.envelopes.append(envelope)


@pytest.fixture
def sentry():
    transport = KeptEvents()
    sentry_sdk.init(
        dsn="https://public@localhost/1",
        transport=transport,
        integrations=[FlaskIntegration()],
        default_integrations=True,
        include_local_variables=True,
        traces_sample_rate=1.0,
    )
    yield transport
    sentry_sdk.get_client().close()
    sentry_sdk.init()


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_sentry_gets_no_key(app, api_keys, sentry, header):
    @app.get("/")
    @require_api_key
    def view():
        logging.getLogger(__name__).error("before the failure")
        raise ZeroDivisionError

    key = issue(app, api_keys).key
    value = key if header == "X-API-Key" else f"Bearer {key}"
    assert get(app, "/", **{header: value}).status_code == 500
    sent = b"".join(envelope.serialize() for envelope in sentry.envelopes)
    assert b"ZeroDivisionError" in sent
    assert key.encode() not in sent
    assert key.rpartition("_")[2].encode() not in sent


def test_opentelemetry_gets_no_key(app, api_keys):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    FlaskInstrumentor.instrument_app(app, tracer_provider=provider)
    app.get("/")(require_api_key(new_view()))
    key = issue(app, api_keys).key
    assert get(app, "/", X_API_Key=key).status_code == 200
    assert get(app, "/").status_code == 401
    # Its span begins in a function before the request, and refused requests do not reach that.
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /"
    assert key.rpartition("_")[2] not in span.to_json()
    FlaskInstrumentor.uninstrument_app(app)
