"""Error handlers of the application."""

from flask_apikey import problems
from tests.request.verdicts.attempts import expired, no_key, revoked


def test_error_handler_of_one_class(scene):
    scene.app.register_error_handler(problems.KeyRevoked, lambda _: ("renew your key", 401))
    assert revoked(scene).text == "renew your key"
    assert expired(scene).json["code"] == "key_expired"


def test_challenge_of_an_error_handler(scene):
    scene.app.register_error_handler(401, lambda _: ("", 401, {"WWW-Authenticate": "Own"}))
    assert no_key(scene).headers.getlist("WWW-Authenticate") == ["Own"]


def test_status_of_an_error_handler(scene):
    scene.app.register_error_handler(401, lambda _: ("", 404))
    response = no_key(scene)
    assert response.status_code == 404
    assert "WWW-Authenticate" not in response.headers
