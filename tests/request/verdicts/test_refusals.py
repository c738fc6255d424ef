"""Refusals over HTTP."""

import logging
from dataclasses import dataclass
from datetime import timedelta

import pytest
from werkzeug.exceptions import HTTPException

from flask_apikey import problems
from flask_apikey.core.keys.authenticator import Verdict, decide, require_scopes
from flask_apikey.core.model import keystring
from flask_apikey.testing.samples import NOW, stored_key
from tests.request.verdicts.attempts import (
    address_denied,
    address_not_in_the_list,
    another_scheme,
    conflicting,
    empty,
    expired,
    malformed,
    no_key,
    other_environment,
    plain_http,
    revoked,
    revoked_and_expired,
    scope_missing,
    storage_down,
    suspended,
    suspended_and_expired,
    suspended_and_revoked,
    unknown,
    wrong_secret,
    wrong_secret_from_a_refused_address,
    wrong_secret_of_a_revoked_key,
    wrong_secret_of_a_suspended_key,
    wrong_secret_of_an_expired_key,
)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    ("attributes", "verdict"),
    [
        ({}, Verdict.ACCEPTED),
        ({"allowed_ips": ("192.0.2.7/32",)}, Verdict.ADDRESS_REFUSED),
        ({"scopes": frozenset()}, Verdict.INSUFFICIENT_SCOPE),
        ({"revoked_at": NOW}, Verdict.REVOKED),
        ({"expires_at": NOW}, Verdict.EXPIRED),
        ({"suspended_at": NOW}, Verdict.SUSPENDED),
        ({"suspended_at": NOW, "allowed_ips": ("192.0.2.7/32",), "scopes": frozenset()}, Verdict.SUSPENDED),
    ],
)
def test_position_of_the_presented_secret(attributes, verdict, position):
    ends_at = NOW + timedelta(days=1)
    record = stored_key(
        **{"scopes": frozenset({"read"}), "previous_secrets_expire_at": (ends_at,), **attributes}
    ).record
    decision = require_scopes(decide(record, position, None, NOW), frozenset({"read"}))
    assert (decision.verdict, decision.position) == (verdict, position)


@dataclass
class Row:
    attempt: object
    status: int
    code: str
    challenge: str | None = None


TABLE = [
    Row(no_key, 401, "missing_key", "Api-Key"),
    Row(another_scheme, 401, "missing_key", "Api-Key"),
    Row(malformed, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(empty, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(conflicting, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(unknown, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_of_a_revoked_key, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_of_an_expired_key, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_of_a_suspended_key, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_from_a_refused_address, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(revoked, 401, "key_revoked", "Api-Key error=key_revoked"),
    Row(revoked_and_expired, 401, "key_revoked", "Api-Key error=key_revoked"),
    Row(expired, 401, "key_expired", "Api-Key error=key_expired"),
    Row(suspended, 403, "key_suspended"),
    Row(suspended_and_revoked, 401, "key_revoked", "Api-Key error=key_revoked"),
    Row(suspended_and_expired, 401, "key_expired", "Api-Key error=key_expired"),
    Row(address_denied, 403, "address_not_allowed"),
    Row(address_not_in_the_list, 403, "address_not_allowed"),
    Row(plain_http, 403, "https_required"),
    Row(scope_missing, 403, "insufficient_scope", "Api-Key error=insufficient_scope, scope=read"),
    Row(other_environment, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(storage_down, 503, "unavailable"),
]


@pytest.fixture(params=TABLE, ids=lambda row: row.attempt.__name__)
def row(request):
    return request.param


def test_refusal(scene, row):
    response = row.attempt(scene)
    assert response.status_code == row.status
    assert response.content_type == "application/problem+json"
    assert response.headers.getlist("Cache-Control") == ["no-store"]
    assert response.headers.getlist("WWW-Authenticate") == ([] if row.challenge is None else [row.challenge])
    assert response.headers.get("Retry-After") == ("5" if row.status == 503 else None)
    body = response.json
    assert (body["type"], body["status"], body["code"]) == ("about:blank", row.status, row.code)
    assert body["title"]
    assert body["detail"]
    assert body.get("missing_scopes") == (["read"] if row.code == "insufficient_scope" else None)
    assert scene.reached == 0


@pytest.mark.parametrize("by_status", [False, True], ids=["by class", "by status"])
def test_error_handler(scene, row, by_status):
    @scene.app.errorhandler(row.status if by_status else problems.APIKeyProblem)
    def handle(error):
        assert isinstance(error, HTTPException)
        return {"own": error.problem}, error.code

    response = row.attempt(scene)
    assert (response.status_code, response.json) == (row.status, {"own": row.code})
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers.get("WWW-Authenticate") == row.challenge


def test_no_secret_in_answer_or_log(scene, row, caplog, monkeypatch):
    minted = []
    mint = keystring.mint
    monkeypatch.setattr(keystring, "mint", lambda *parts: minted.append(mint(*parts)) or minted[-1])
    with caplog.at_level(logging.DEBUG):
        response = row.attempt(scene)
    shown = caplog.text + response.text + str(response.headers)
    for key in minted:
        secret = key.rpartition("_")[2]
        assert secret not in shown
        assert secret[:12] not in shown


def test_same_answer_without_the_secret(scene):
    answers = {
        (response.status, response.data, str(response.headers))
        for response in (
            malformed(scene),
            unknown(scene),
            wrong_secret(scene),
            wrong_secret_of_a_revoked_key(scene),
            wrong_secret_from_a_refused_address(scene),
            wrong_secret_of_an_expired_key(scene),
            other_environment(scene),
            wrong_secret_of_a_suspended_key(scene),
        )
    }
    assert len(answers) == 1


def test_problem_for_every_refusal():
    assert set(problems._PROBLEMS) == set(Verdict) - {Verdict.ACCEPTED}
