"""The blueprint that takes reports of leaked keys."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Request, Response, jsonify

from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.core.actors import acting_as
from flask_apikey.core.audit_log import LEAK
from flask_apikey.core.errors import KeyNotFound, described
from flask_apikey.core.keys.authenticator import INSECURE_TRANSPORT
from flask_apikey.core.keys.leaked import Leak, LeakedSecret, LeakState
from flask_apikey.core.model.keystring import parse
from flask_apikey.core.model.sealing import digest
from flask_apikey.core.model.validation import MAX_REASON_LENGTH
from flask_apikey.core.processes import PerProcess
from flask_apikey.core.text import redacted, sanitized
from flask_apikey.decorators import api_key_exempt
from flask_apikey.extension import APIKeys
from flask_apikey.leaks.public_keys import (
    FETCH_INTERVAL,
    PublicKeys,
    PublicKeysUnavailable,
    fetch_github_keys,
    is_signed,
)
from flask_apikey.problems import RETRY_AFTER_SECONDS, HTTPSRequired
from flask_apikey.request.current import current_request
from flask_apikey.request.requirements import mark_closed

MAX_BODY_BYTES = 1 << 20

_ACTOR = "GitHub secret scanning"
_MAX_IDENTIFIER = 200
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True)
class _Report:
    """Report of one token, without the token.

    Attributes:
        leak: The key string; None if the token is none.
        token_hash: SHA-256 of the token, in hexadecimal.
        token_type: The announced type, to be returned.
        source: Kind of the place, such as ``commit``.
        url: Address of the place.
    """

    leak: Leak | None
    token_hash: str
    token_type: str
    source: str | None
    url: str | None

    @property
    def reason(self) -> str:
        """Explanation for the history."""
        places = " ".join(part for part in (self.source, self.url) if part)
        return sanitized(f"leaked: reported by GitHub{places and f' ({places})'}", MAX_REASON_LENGTH)


def leak_intake_blueprint(
    api_keys: APIKeys,
    *,
    suspend: bool = False,
    fetch_public_keys: Callable[[], bytes] = fetch_github_keys,
    name: str = "api_key_leaks",
) -> Blueprint:
    """Create the blueprint with ``POST /leaked-keys``, to which GitHub reports leaked keys.

    The view needs no API key. It takes only what GitHub has signed.

    Args:
        api_keys: Extension of the application that registers the blueprint.
        suspend: Suspend a key whose newest secret leaked, instead of revoking it.
        fetch_public_keys: Returns the public keys as JSON; by default those of
            ``https://api.github.com/meta/public_keys/secret_scanning``.
        name: Name of the blueprint.
    """
    blueprint = Blueprint(name, __name__, url_prefix="/leaked-keys")
    mark_closed(blueprint)
    public_keys = PerProcess(lambda: PublicKeys(fetch_public_keys))

    @blueprint.post("")
    @api_key_exempt
    def intake() -> Response:
        state = current_application_state(api_keys)
        incoming = current_request()
        if state.enforcement.refuses_plain_http(incoming):
            state.record_leak_failure(LEAK, "insecure_transport")
            raise HTTPSRequired(INSECURE_TRANSPORT)
        try:
            reports = _signed_reports(incoming, public_keys.get(), state.settings.accepted_prefixes)
        except _Refused as refusal:
            state.record_leak_failure(LEAK, refusal.code)
            return _problem(refusal.status, refusal.code, refusal.retry_after)
        with acting_as(_ACTOR):
            return _answer(state, reports, suspend=suspend)

    return blueprint


class _Refused(Exception):
    """Refusal of a request.

    Attributes:
        status: Status of the answer.
        code: Reason, for the answer and the audit log.
        retry_after: Seconds after which another attempt may succeed.
    """

    def __init__(self, status: HTTPStatus, code: str, retry_after: int | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.retry_after = retry_after


def _signed_reports(incoming: Request, public_keys: PublicKeys, accepted_prefixes: Sequence[str]) -> Sequence[_Report]:
    """Return the reports in the request. Raise `_Refused` unless GitHub has signed it."""
    identifier = incoming.headers.get("Github-Public-Key-Identifier", "")
    signature = incoming.headers.get("Github-Public-Key-Signature", "")
    if (incoming.content_length or 0) > MAX_BODY_BYTES:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large")
    try:
        key = public_keys.find(identifier) if signature and 0 < len(identifier) <= _MAX_IDENTIFIER else None
    except PublicKeysUnavailable:
        raise _Refused(HTTPStatus.TOO_MANY_REQUESTS, "unknown_public_key", round(FETCH_INTERVAL)) from None
    if key is None:
        raise _Refused(HTTPStatus.FORBIDDEN, "invalid_signature")
    body = _body(incoming)
    if not is_signed(body, signature, key):
        raise _Refused(HTTPStatus.FORBIDDEN, "invalid_signature")
    reports = _reports(body, accepted_prefixes)
    if reports is None:
        raise _Refused(HTTPStatus.BAD_REQUEST, "invalid_report")
    return reports


def _body(incoming: Request) -> bytes:
    """Read the body, which may be shorter than announced, or without a length."""
    chunks, left = list[bytes](), MAX_BODY_BYTES + 1
    while chunk := incoming.stream.read(left):
        chunks.append(chunk)
        left -= len(chunk)
        if not left:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large")
    return b"".join(chunks)


def _reports(body: bytes, accepted_prefixes: Sequence[str]) -> Sequence[_Report] | None:
    """Parse the body, which must be a JSON list. Entries without a token are ignored."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, list):
        return None
    entries = [each for each in document if isinstance(each, dict) and isinstance(each.get("token"), str)]
    return [_report(each, accepted_prefixes) for each in entries]


def _report(entry: dict[str, Any], accepted_prefixes: Sequence[str]) -> _Report:
    # Form and checksum decide, not the announced type.
    parsed = parse(entry["token"])
    digested = digest(entry["token"])
    leak = None if parsed is None or parsed.prefix not in accepted_prefixes else Leak(parsed.id, digested)
    return _Report(leak, digested.hex(), _text(entry, "type") or "", _text(entry, "source"), _text(entry, "url"))


def _text(entry: dict[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return sanitized(redacted(value), _MAX_TEXT) if isinstance(value, str) else None


def _answer(state: ApplicationState, reports: Sequence[_Report], *, suspend: bool) -> Response:
    """End what was reported, and answer with feedback. The status is 503 unless everything is done."""
    distinct = list({report.token_hash: report for report in reports}.values())
    failures: list[str] = []
    feedback = []
    try:
        secrets = state.services.leaked.look_up(report.leak for report in distinct if report.leak is not None)
    except Exception as exc:  # noqa: BLE001  # backends of others may raise anything
        return _unavailable(state, described(exc))
    for report in distinct:
        secret = None if report.leak is None else secrets[report.leak]
        if report.leak is not None and secret is not None:
            failures += _failures(state, report, report.leak, secret, suspend=suspend)
        label = "true_positive" if secret is not None and secret.is_genuine else "false_positive"
        feedback.append({"token_hash": report.token_hash, "token_type": report.token_type, "label": label})
    if failures:
        return _unavailable(state, failures[0])
    response = jsonify(feedback)
    response.headers["Cache-Control"] = "no-store"
    return response


def _failures(
    state: ApplicationState, report: _Report, leak: Leak, secret: LeakedSecret, *, suspend: bool
) -> Iterator[str]:
    """End a secret, and yield the reason if that failed."""
    if secret.state is LeakState.UNDECIDED:
        yield secret.problem or ""
    if not secret.is_endable:
        return
    try:
        record, ending = state.services.leaked.end(leak, suspend=suspend, reason=report.reason)
    except KeyNotFound:
        return
    except Exception as exc:  # noqa: BLE001  # backends of others may raise anything
        yield described(exc)
    else:
        if ending is not None:
            state.announce_leak(record, ending, source=report.source, url=report.url)


def _unavailable(state: ApplicationState, failure: str) -> Response:
    state.record_leak_failure("storage", failure)
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", RETRY_AFTER_SECONDS)


def _problem(status: HTTPStatus, code: str, retry_after: int | None = None) -> Response:
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "code": code}
    headers = {"Cache-Control": "no-store"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Response(json.dumps(body), status, headers, content_type="application/problem+json")
