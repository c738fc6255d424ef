"""Strict reading of requests: bodies, query strings and ``If-Match``, checked against JSON schemas."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.text import sanitized
from flask_apikey.management.problems import NotJSON, TooLarge

MAX_BODY_BYTES = 65_536

Schema: TypeAlias = Mapping[str, Any]
"""JSON schema of one value."""

_MAX_SHOWN = 10
_TYPES: Mapping[str, tuple[type, ...]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "object": (dict,),
    "string": (str,),
}
_BOOLEANS = {"true": True, "false": False}

_match_number = re.compile(r"-?[0-9]{1,18}", re.ASCII).fullmatch
_match_etag = re.compile(r'"([0-9]{1,18})"', re.ASCII).fullmatch


def read_body(
    request: Request, decision: Decision, fields: Mapping[str, Schema], required: Sequence[str]
) -> dict[str, Any]:
    """Read the JSON object in the body. A missing body is an empty object.

    Raises:
        InvalidValue: It is not such an object, or has unknown fields or values of a wrong type.
        TooLarge: It is longer than `MAX_BODY_BYTES`.
        NotJSON: It has another content type.
    """
    values = {} if _is_empty(request, decision) else _parsed(request, decision)
    _refuse_unknown(values, fields, "fields")
    for name in required:
        if name not in values:
            raise InvalidValue(f"{name} is missing")
    for name, value in values.items():
        _check_type(value, fields[name], name)
    return values


def read_query(request: Request, fields: Mapping[str, Schema]) -> dict[str, Any]:
    """Read the query string.

    Raises:
        InvalidValue: It has unknown or repeated parameters, or values of a wrong type.
    """
    _refuse_unknown(request.args, fields, "parameters")
    values: dict[str, Any] = {}
    for name, texts in request.args.lists():
        if len(texts) > 1:
            raise InvalidValue(f"{name} is given more than once")
        values[name] = _converted(texts[0], fields[name], name)
        _check_type(values[name], fields[name], name)
    return values


def expected_version(request: Request, values: dict[str, Any]) -> int | None:
    """Return the version of the key that the client has read, from ``If-Match`` or the body; None for any.

    Raises:
        InvalidValue: ``If-Match`` is not an ETag of a key, or differs from the body.
    """
    version: int | None = values.pop("version", None)
    text = request.headers.get("If-Match")
    if text is None or text == "*":
        return version
    match = _match_etag(text)
    if match is None:
        raise InvalidValue('If-Match: send the ETag of the key, such as "3", or *')
    if version not in {None, int(match[1])}:
        raise InvalidValue("If-Match and version differ: send one of them")
    return int(match[1])


def _is_empty(request: Request, decision: Decision) -> bool:
    if "Transfer-Encoding" in request.headers or (request.content_length or 0) > MAX_BODY_BYTES:
        raise TooLarge(decision, f"the body must have a Content-Length of at most {MAX_BODY_BYTES} bytes")
    return not request.content_length


def _parsed(request: Request, decision: Decision) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise NotJSON(decision)
    try:
        body = json.loads(request.get_data(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except InvalidValue:
        raise
    except RequestEntityTooLarge:
        raise TooLarge(decision, "the body is longer than this application allows") from None
    except (ValueError, RecursionError):
        raise InvalidValue("the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidValue("the body must be a JSON object")
    return body


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InvalidValue("the body has a field more than once")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidValue(f"the body is not JSON: {name} is not a value")


def _refuse_unknown(values: Mapping[str, Any], fields: Mapping[str, Schema], noun: str) -> None:
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        names = ", ".join(sanitized(name) for name in unknown[:_MAX_SHOWN])
        raise InvalidValue(f"unknown {noun}: {names}; allowed: {', '.join(fields) or 'none'}")


def _converted(text: str, schema: Schema, name: str) -> object:
    if schema["type"] == "integer":
        if not _match_number(text):
            raise InvalidValue(f"{name} must be a whole number")
        return int(text)
    return _BOOLEANS.get(text, text) if schema["type"] == "boolean" else text


def _check_type(value: Any, schema: Schema, name: str) -> None:
    allowed = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    # A bool is an int in Python.
    if not any(isinstance(value, _TYPES[each]) and isinstance(value, bool) == (each == "boolean") for each in allowed):
        raise InvalidValue(f"{name} must be of the type {' or '.join(allowed)}")
    if isinstance(value, list):
        for each in value:
            _check_type(each, schema["items"], f"{name}: each item")
    if "enum" in schema and value not in schema["enum"]:
        raise InvalidValue(f"{name} must be one of {', '.join(schema['enum'])}")
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        raise InvalidValue(f"{name} must be from {schema['minimum']} to {schema['maximum']}")
