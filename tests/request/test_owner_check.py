"""``APIKEY_CHECK_OWNER``: the owner loader in the decision on a request."""

import logging

import pytest
from werkzeug.exceptions import HTTPException, Unauthorized

from flask_apikey import (
    APIKeys,
    ConfigurationError,
    OwnerInactive,
    Verdict,
    check_api_key,
    current_api_key,
    problems,
    require_api_key,
    signals,
)
from flask_apikey.cli import apikey
from tests.support.keys import KeyScene


class Scene(KeyScene):
    """An application with three views, whose owner loader does as a test says."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        self.reached, self.loaded, self.result = [], [], "an owner"

        @app.get("/")
        @require_api_key(scopes=["read"])
        def view():
            self.reached.append(current_api_key.owner)
            return {"owner": str(current_api_key.owner)}

        @app.get("/optional")
        @require_api_key(optional=True)
        def optional():
            self.reached.append("optional")
            return {}

        @app.get("/open")
        def open_():
            try:
                check_api_key()
            except HTTPException:
                self.reached.append(bool(current_api_key))
                raise
            self.reached.append(current_api_key.owner)
            return {}

    def load(self, owner):
        self.loaded.append(owner)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"owner": "team-7", "scopes": ["read"], **attributes})

    def get(self, issued=None, path="/"):
        headers = {} if issued is None else {"X-API-Key": issued.key}
        return self.app.test_client().get(path, headers=headers)


@pytest.fixture
def unloaded(make_app, clock):
    """An application without an owner loader."""
    return Scene(make_app(APIKEY_CHECK_OWNER=True), clock)


@pytest.fixture
def scene(unloaded):
    unloaded.api_keys.owner_loader(unloaded.load)
    return unloaded


def test_active_owner(scene):
    issued = scene.issue()
    for path in ("/", "/open"):
        assert scene.get(issued, path).status_code == 200
    assert scene.reached == ["an owner"] * 2
    assert scene.loaded == ["team-7"] * 2


def test_owner_may_be_loaded_as_none(scene):
    scene.result = None
    assert scene.get(scene.issue()).status_code == 200
    assert (scene.reached, scene.loaded) == ([None], ["team-7"])


@pytest.mark.parametrize("path", ["/", "/optional", "/open"])
def test_inactive_owner(scene, path, caplog):
    scene.result = OwnerInactive("the card of team-7 was declined")
    issued = scene.issue()
    with caplog.at_level(logging.INFO, "flask_apikey"):
        response = scene.get(issued, path)
    assert (response.status_code, response.json["code"]) == (403, "key_suspended")
    assert "card" not in response.text
    assert response.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in response.headers
    assert scene.reached == ([False] if path == "/open" else [])
    (event,) = [each for each in caplog.records if getattr(each, "event", None) == "authentication"]
    assert (event.outcome, event.reason, event.key_id, event.owner) == (
        *("failure", "owner_inactive"),
        *(issued.record.id, "team-7"),
    )
    assert scene.do("usage", owner="team-7").refusals == (("owner_inactive", 1),)
    scene.result = "active again"
    assert scene.get(issued, path).status_code == 200


def test_subclass_of_owner_inactive(scene):
    scene.result = type("Unpaid", (OwnerInactive,), {})()
    assert scene.get(scene.issue()).json["code"] == problems.KeySuspended.problem


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("a secret of the loader"), KeyError("team-7"), StopIteration(), RecursionError(), Unprintable()),
        *(Unauthorized(), ConfigurationError("of another extension"), AssertionError()),
        OSError(5, "x" * 100_000),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("path", ["/", "/optional", "/open"])
def test_failing_loader(scene, error, path, caplog):
    scene.result = error
    issued = scene.issue()
    response = scene.get(issued, path)
    assert (response.status_code, response.json["code"]) == (503, "unavailable")
    assert "Retry-After" in response.headers
    assert "loader" not in response.text
    assert scene.reached == ([False] if path == "/open" else [])
    (event,) = [each for each in caplog.records if getattr(each, "event", None) == "owner_loader"]
    assert event.reason == f"the owner loader raised {type(error).__name__}"
    assert (event.levelno, event.key_id, event.owner) == (logging.ERROR, issued.record.id, "team-7")
    (traceback,) = [each for each in caplog.records if "Traceback" in each.getMessage()]
    assert f"the owner loader failed for key {issued.record.id}" in traceback.getMessage()
    assert scene.do("usage", owner="team-7").refused == 0


def test_traceback_shows_no_key(scene, caplog):
    issued = scene.issue()
    scene.result = RuntimeError(f"cannot load the owner of {issued.key}")
    assert scene.get(issued).status_code == 503
    assert "cannot load the owner of fak_" in caplog.text
    assert issued.key not in caplog.text
    assert issued.key.rpartition("_")[2] not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()], ids=repr)
def test_loader_that_ends_the_process(scene, error):
    scene.result = error
    with pytest.raises(type(error)):
        scene.get(scene.issue())
    assert scene.reached == []


def test_loader_that_checks_the_key(scene, unloaded):
    unloaded.api_keys.owner_loader(lambda _: check_api_key())
    assert scene.get(scene.issue()).status_code == 503


def test_coroutine_function(unloaded):
    """Flask runs it with asgiref, or says that asgiref is missing. Its body decides."""

    @unloaded.api_keys.owner_loader
    async def load(owner):
        raise OwnerInactive

    assert unloaded.get(unloaded.issue()).status_code in {403, 503}
    assert unloaded.reached == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_awaitable_result(unloaded, caplog):
    async def load(owner):
        raise OwnerInactive(owner)

    def start_to_load(owner):
        return load(owner)

    unloaded.api_keys.owner_loader(start_to_load)
    assert unloaded.get(unloaded.issue()).status_code == 503
    assert unloaded.reached == []
    assert "the owner loader returned an awaitable" in caplog.text


def test_other_requests_do_not_call_it(scene):
    scene.result = OwnerInactive()
    assert scene.get(scene.issue(owner=None)).status_code == 200
    assert scene.get(scene.issue(denied_ips=["0.0.0.0/0"])).json["code"] == "address_not_allowed"
    assert scene.get().status_code == 401
    assert scene.loaded == []


def test_owner_comes_before_scopes(scene):
    scene.result = OwnerInactive()
    issued = scene.issue(scopes=[])
    assert scene.get(issued).json["code"] == "key_suspended"
    scene.result = "active"
    assert scene.get(issued).json["code"] == "insufficient_scope"


def test_off_by_default(make_app, clock):
    scene = Scene(make_app(), clock)
    scene.api_keys.owner_loader(scene.load)
    scene.result = OwnerInactive()
    assert scene.get(scene.issue(), "/optional").status_code == 200
    assert scene.loaded == []


@pytest.mark.parametrize(
    "issue",
    [lambda _: None, Scene.issue, lambda scene: scene.issue(owner=None)],
    ids=["no key", "key of an owner", "key without owner"],
)
def test_missing_loader(unloaded, issue):
    issued = issue(unloaded)
    with pytest.raises(ConfigurationError, match=r"register one with @api_keys\.owner_loader"):
        unloaded.get(issued)
    assert unloaded.reached == []
    with pytest.raises(ConfigurationError, match="APIKEY_CHECK_OWNER"):
        unloaded.do("verify", "nonsense")


def test_verify(scene):
    issued = scene.issue()
    assert scene.do("verify", issued.key).accepted
    scene.result = OwnerInactive()
    decision = scene.do("verify", issued.key)
    assert (decision.verdict, decision.key) == (Verdict.OWNER_INACTIVE, issued.record)
    result = scene.app.test_cli_runner().invoke(apikey, ["verify"], input=issued.key)
    assert (result.exit_code, result.stderr.split(":")[0]) == (1, "key_suspended")
    scene.result = ValueError()
    result = scene.app.test_cli_runner().invoke(apikey, ["verify"], input=issued.key)
    assert result.exit_code == 3
    assert "unavailable: the owner loader raised ValueError" in result.stderr


def test_signals(scene):
    sent = []

    def receive(_, **fields):
        sent.append(fields)

    issued = scene.issue()
    with signals.api_key_accepted.connected_to(receive), signals.api_key_refused.connected_to(receive):
        scene.get(issued)
        scene.result = OwnerInactive()
        scene.get(issued)
    accepted, refused = sent
    assert accepted == {"key": issued.record}
    assert refused["decision"].verdict is Verdict.OWNER_INACTIVE


def test_loader_registered_before_init_app(make_app, clock):
    api_keys = APIKeys(clock=clock)

    @api_keys.owner_loader
    def load(owner):
        raise OwnerInactive

    app = make_app(APIKEY_CHECK_OWNER=True)
    api_keys.init_app(app)
    app.add_url_rule("/", view_func=require_api_key(lambda: "ok"))
    with app.app_context():
        api_keys.init_storage()
        key = api_keys.create(name="ci", owner="team-7").key
    assert app.test_client().get("/", headers={"X-API-Key": key}).status_code == 403


@pytest.mark.parametrize("checks_owner", [False, True])
def test_resume_of_a_key_that_is_not_suspended(make_app, clock, checks_owner):
    scene = Scene(make_app(APIKEY_CHECK_OWNER=checks_owner), clock)
    record = scene.issue().record

    def run(command):
        return scene.app.test_cli_runner().invoke(apikey, [command, record.id, "--yes"])

    advice = "Its requests are refused with key_suspended too while its owner is inactive.\n" if checks_owner else ""
    state = f"ci ({record.id}) is"
    assert run("resume").stderr == f"{state} active.\nIt was not suspended: nothing was changed.\n{advice}"
    assert run("suspend").stderr == f"{state} suspended.\n"
    assert run("suspend").stderr == f"{state} suspended.\nIt was suspended before: nothing was changed.\n"
    assert run("resume").stderr == f"{state} active.\n"
