"""The OpenAPI 3.1 description of the management API."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from flask_apikey.core.keys.key_headers import DEFAULT_ENTRIES
from flask_apikey.management.operations import OPERATIONS, Operation
from flask_apikey.management.schemas import COMPONENTS, KEY_ID
from flask_apikey.openapi import security_schemes

DESCRIPTION = "openapi.json"
_PROBLEMS = {
    400: "The request is not valid.",
    401: "The request has no valid key.",
    403: "The key may not do this.",
    404: "No key has this id.",
    409: "The key was changed, or its state does not allow this.",
    413: "The body is too long.",
    415: "The body is not application/json.",
    429: "The key has used up a limit, or too many attempts failed.",
    501: "The storage does not keep this.",
    503: "The storage does not answer.",
}
_ONLY_WITH_KEY = {404, 409}
_ONLY_WITH_BODY = {413, 415}


def openapi_document(url: str = "/management", accepted: Iterable[str] = DEFAULT_ENTRIES) -> dict[str, Any]:
    """Build the OpenAPI 3.1 description.

    Args:
        url: URL of the blueprint.
        accepted: Value of ``APIKEY_ACCEPT``.
    """
    schemes = security_schemes(accepted)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        path = operation.path.replace("<", "{").replace(">", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation)
    paths[f"/{DESCRIPTION}"] = {
        "get": {
            "operationId": "get_description",
            "summary": "Describe this API",
            "responses": _responses("OpenAPI", 200, {400, 401, 403, 429, 503}),
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Management of API keys", "version": version("flask-apikey-auth")},
        "servers": [{"url": url}],
        "security": [{name: []} for name in schemes],
        "paths": paths,
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": schemes,
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in operation.query.items()
    ]
    problems = set(_PROBLEMS)
    if "<key_id>" in operation.path:
        parameters.append({"name": "key_id", "in": "path", "required": True, "schema": KEY_ID})
    else:
        problems -= _ONLY_WITH_KEY
    if operation.has_version:
        etag = {"type": "string", "pattern": '^(\\*|"[0-9]{1,18}")$'}
        parameters.append({"name": "If-Match", "in": "header", "required": False, "schema": etag})
    scopes = f"`{operation.scope}`" + (" and `keys:any-owner`" if operation.any_owner else "")
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs a key with the scope {scopes}.",
        "parameters": parameters,
    }
    if operation.body is None:
        problems -= _ONLY_WITH_BODY
    else:
        body = {
            "type": "object",
            "properties": operation.body,
            "required": list(operation.required),
            "additionalProperties": False,
        }
        described["requestBody"] = {
            "required": bool(operation.required),
            "content": {"application/json": {"schema": body}},
        }
    described["responses"] = _responses(operation.result, operation.status, problems)
    return described


def _responses(result: str, status: int, problems: set[int]) -> dict[str, Any]:
    return {
        str(status): {
            "description": "Success.",
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{result}"}}},
        }
    } | {
        str(each): {
            "description": _PROBLEMS[each],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for each in sorted(problems)
    }
