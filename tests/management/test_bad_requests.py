"""Requests to the management API that are not valid."""

import json

import pytest

from flask_apikey.management.request_data import MAX_BODY_BYTES
from tests.management.conftest import CHANGES, KEY_ROUTES, ROUTES, code

AS_JSON = {"content_type": "application/json"}
BODIES = [
    ({"data": "{", **AS_JSON}, "the body is not JSON"),
    ({"data": "[1]", **AS_JSON}, "the body must be a JSON object"),
    ({"data": "null", **AS_JSON}, "the body must be a JSON object"),
    ({"data": b'{"reason": "\xff"}', **AS_JSON}, "the body is not JSON"),
    ({"data": "[" * 50_000, **AS_JSON}, "the body is not JSON"),
    ({"data": '{"reason": "a", "reason": "b"}', **AS_JSON}, "the body has a field more than once"),
    ({"json": {"nonsense": 1, "more": 2}}, "unknown fields: more, nonsense"),
    ({"json": {"\ud800": 1}}, "unknown fields: \\u{d800}"),
]
FIELDS = [
    ({"name": 1}, "name must be of the type string"),
    ({"name": " "}, "name must not be empty"),
    ({"name": "x\u202e"}, "name contains the unprintable character U+202E"),
    ({"name": "\ud800"}, "name contains the unprintable character U+D800"),
    ({"scopes": "a"}, "scopes must be of the type array"),
    ({"scopes": [1]}, "scopes: each item must be of the type string"),
    ({"scopes": ["a b"]}, "scopes: 'a b' is not a scope"),
    ({"owner": 7}, "owner must be of the type string or null"),
    ({"metadata": []}, "metadata must be of the type object"),
    ({"allowed_ips": ["localhost"]}, "allowed_ips: 'localhost' is not an IP address or network"),
    ({"expires_at": 0}, "expires_at must be of the type string or null"),
    ({"expires_at": "2027-01-01"}, "expires_at must be a time with a zone"),
    ({"expires_at": "soon"}, "expires_at must be a time with a zone"),
    ({"rate": "fast"}, "rate"),
    ({"quota": "much"}, "quota"),
    ({"plan": "unknown"}, "plan 'unknown' is not in APIKEY_PLANS"),
    ({"reason": 1}, "reason must be of the type string or null"),
    ({"id": "x"}, "unknown fields: id"),
    ({"revoked_at": None}, "unknown fields: revoked_at"),
]
QUERIES = [
    ("/keys?limit=0", "limit must be from 1 to 500"),
    ("/keys?limit=501", "limit must be from 1 to 500"),
    ("/keys?limit=x", "limit must be a whole number"),
    ("/keys?limit=1&limit=2", "limit is given more than once"),
    ("/keys?status=dead", "status must be one of active"),
    ("/keys?newest_first=1", "newest_first must be of the type boolean"),
    ("/keys?after=x", "the cursor is not from a listing"),
    ("/keys?onwer=team-1", "unknown parameters: onwer"),
    ("/keys?owner=", "owner must not be empty"),
    ("/keys?unused_for=long", "unused_for: expected"),
    ("/keys?unused_for=1d&status=revoked", "unused_for lists active keys only"),
]


def refused(answer, detail):
    assert code(answer) == (400, "invalid_request")
    assert answer.json["detail"].startswith(detail)


@pytest.mark.parametrize("route", CHANGES)
def test_bodies_are_strict(scene, route):
    operator, target = scene.operator(), scene.issue(quota="5/day")
    _, method, path = route
    for options, detail in BODIES:
        refused(scene.ask(operator, method, path.replace("<key_id>", target.record.id), **options), detail)
    url = path.replace("<key_id>", target.record.id)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = scene.ask(operator, method, url, data='{"reason": "x"}', content_type=content_type)
        assert code(answer) == (415, "unsupported_media_type")
    large = json.dumps({"reason": "x" * MAX_BODY_BYTES})
    assert code(scene.ask(operator, method, url, data=large, **AS_JSON)) == (413, "too_large")
    chunked = scene.ask(operator, method, url, headers={"Transfer-Encoding": "chunked"}, data="{}", **AS_JSON)
    assert code(chunked) == (413, "too_large")
    assert scene.record(target) == target.record


def test_a_body_beyond_the_limit_of_the_application_is_too_large(scene):
    scene.app.config["MAX_CONTENT_LENGTH"] = 10
    assert code(scene.post(scene.operator(), "/keys", name="longer than that")) == (413, "too_large")


@pytest.mark.parametrize(("fields", "detail"), FIELDS)
def test_fields_are_checked(scene, fields, detail):
    operator, target = scene.operator(), scene.issue()
    count = scene.do("count")
    refused(scene.post(operator, "/keys", **{"name": "new", **fields}), detail)
    refused(scene.patch(operator, target, **fields), detail)
    assert scene.record(target) == target.record
    assert scene.do("count") == count


@pytest.mark.parametrize(
    "metadata", ['{"x": NaN}', '{"x": Infinity}', '{"x": 1e999}', '{"x": ' + "9" * 5000 + "}", '{"a": 1, "a": 2}']
)
def test_metadata_is_strict_json(scene, metadata):
    data = f'{{"name": "new", "metadata": {metadata}}}'
    refused(scene.ask(scene.operator(), "POST", "/keys", data=data, **AS_JSON), "")


def test_a_name_is_needed_and_one_end(scene):
    refused(scene.post(scene.operator(), "/keys"), "name is missing")
    ends = {"lifetime": "1d", "expires_at": "2027-01-01T00:00:00Z"}
    refused(scene.post(scene.operator(), "/keys", name="new", **ends), "lifetime and expires_at exclude each other")


@pytest.mark.parametrize(("path", "detail"), QUERIES)
def test_queries_are_strict(scene, path, detail):
    refused(scene.ask(scene.operator(), "GET", path), detail)


@pytest.mark.parametrize("route", [each for each in KEY_ROUTES if each[1] == "GET"])
def test_every_query_refuses_unknown_parameters(scene, route):
    path = route[2].replace("<key_id>", scene.issue().record.id)
    refused(scene.ask(scene.operator(), "GET", f"{path}?nonsense=1"), "unknown parameters: nonsense")


@pytest.mark.parametrize("etag", ["3", 'W/"1"', '"1", "2"', '"x"', '"' + "9" * 30 + '"', ""])
def test_if_match_is_strict(scene, etag):
    target = scene.issue()
    url = f"/keys/{target.record.id}/suspend"
    refused(scene.ask(scene.operator(), "POST", url, headers={"If-Match": etag}), "If-Match: send the ETag")
    assert scene.ask(scene.operator(), "POST", url, headers={"If-Match": "*"}).status_code == 200


def test_a_version_is_named_once(scene):
    target = scene.issue()
    url = f"/keys/{target.record.id}/suspend"
    answer = scene.ask(scene.operator(), "POST", url, headers={"If-Match": '"2"'}, json={"version": 1})
    refused(answer, "If-Match and version differ")
    for version in (True, 1.5, "1", 0):
        refused(scene.post(scene.operator(), url, version=version), "version must be")


@pytest.mark.parametrize("route", ROUTES)
def test_no_secret_is_in_a_refusal(scene, route):
    target = scene.issue()
    path = route[2].replace("<key_id>", target.record.id)
    answer = scene.ask(
        scene.operator(), route[1], f"{path}?{target.key}=1", json={target.key: 1, "version": target.key}
    )
    assert target.key not in answer.get_data(as_text=True)
