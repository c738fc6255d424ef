"""The blueprint of the management API."""

from collections.abc import Callable

from flask import Blueprint, Response

from flask_apikey.app_state import current_application_state
from flask_apikey.core.actors import acting_as, key_actor
from flask_apikey.core.keys.delegation import ANY_OWNER
from flask_apikey.decorators import require_api_key
from flask_apikey.extension import APIKeys
from flask_apikey.management.answers import Answer, errors_as_problems
from flask_apikey.management.caller import Caller
from flask_apikey.management.openapi import DESCRIPTION, openapi_document
from flask_apikey.management.operations import OPERATIONS, READ, Operation
from flask_apikey.management.request_data import expected_version, read_body, read_query
from flask_apikey.problems import PreviousSecret
from flask_apikey.request.current import current_request, current_request_state
from flask_apikey.request.requirements import mark_closed


def management_blueprint(api_keys: APIKeys, *, name: str = "api_key_management") -> Blueprint:
    """Create the blueprint with which keys manage keys, as JSON below ``/management``.

    Every route needs a key with the scope ``keys:read`` or ``keys:write``. The key acts on the
    keys of its own owner, or of all owners with ``keys:any-owner``, and gives no more than it holds.

    Args:
        api_keys: Extension of the application that registers the blueprint.
        name: Name of the blueprint.
    """
    blueprint = Blueprint(name, __name__, url_prefix="/management")
    mark_closed(blueprint)
    for operation in OPERATIONS:
        view = _view(api_keys, operation)
        blueprint.add_url_rule(operation.path, operation.name, view, methods=[operation.method])

    @blueprint.get(f"/{DESCRIPTION}")
    @require_api_key(scopes=[READ])
    def get_description() -> Response:
        url = current_request().path.removesuffix(f"/{DESCRIPTION}")
        accepted = current_application_state(api_keys).settings.accept
        return Answer(openapi_document(current_request().root_path + url, accepted)).response(200)

    return blueprint


def _view(api_keys: APIKeys, operation: Operation) -> Callable[..., Response]:
    scopes = [operation.scope, *([ANY_OWNER] if operation.any_owner else [])]

    @require_api_key(scopes=scopes)
    def view(key_id: str = "") -> Response:
        request = current_request()
        decision = current_request_state().decision
        if decision is None or decision.key is None or not decision.accepted:
            raise RuntimeError("a view of the management API was called without a check of the key")
        if operation.body is not None and decision.position:
            raise PreviousSecret(decision)
        with errors_as_problems(decision), acting_as(key_actor(decision.key.id)):
            caller = Caller(api_keys, decision, decision.key)
            values = read_query(request, operation.query)
            if operation.body is not None:
                values = read_body(request, decision, operation.body, operation.required)
            if operation.has_version:
                values["expected_version"] = expected_version(request, values)
            return operation.handle(caller, key_id, values).response(operation.status)

    return view
