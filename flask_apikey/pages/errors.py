"""Error pages. They keep what was entered."""

from dataclasses import replace
from typing import Any

from flask import Response, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, default_exceptions

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import (
    APIKeyError,
    ConfigurationError,
    Conflict,
    InvalidValue,
    KeyEnded,
    KeyNotFound,
    RowDamaged,
    RowTampered,
    StorageError,
    described,
)
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.pages.blueprint import Pages, csrf_field, render, visit
from flask_apikey.pages.forms import LABELS, NOT_ENTERED, VERSION, stored_values
from flask_apikey.pages.translation import marked, translated

_SERVER_ERRORS = 500
_UNAVAILABLE = 503
_RETRY_AFTER = "5"

_MESSAGES = (
    (KeyNotFound, 404, marked("There is no such key")),
    (KeyEnded, 409, marked("The key has ended")),
    (InvalidValue, 400, marked("This is not possible")),
    (RowTampered, 409, marked("The stored row was changed outside of this application")),
    (RowDamaged, 409, marked("The stored row is damaged")),
    (StorageError, 503, marked("The storage of keys does not answer")),
)


def add_error_pages(pages: Pages) -> None:
    """Register an error page for each kind of error."""
    pages.register_error_handler(HTTPException, _http_error)
    pages.register_error_handler(CSRFError, _forged_form)
    pages.register_error_handler(APIKeyError, _api_key_error)
    pages.register_error_handler(Conflict, _conflict)


def entered_values() -> dict[str, str]:
    """Return what was entered in the form of this request."""
    if request.method != "POST" or request.mimetype != "application/x-www-form-urlencoded":
        return {}
    hidden = NOT_ENTERED | {csrf_field()}
    return {name: "\n".join(values) for name, values in request.form.lists() if name not in hidden and any(values)}


def _error_page(status: int, heading: str, message: str, **values: Any) -> Response:
    values = {"entered": entered_values(), "labels": LABELS, "can_repeat": False, **values}
    return render("error.html", status, heading=translated(heading), message=message, **values)


def _http_error(error: HTTPException) -> Response:
    response = error.get_response()
    code = error.code or _SERVER_ERRORS
    default = default_exceptions.get(code)
    page = _error_page(code, error.name, "" if default is None else error.description or "")
    # Keeps headers such as Allow and WWW-Authenticate.
    return Response(page.get_data(), response.status, headers={**response.headers, **page.headers})


def _forged_form(error: CSRFError) -> Response:
    message = translated(
        "Nothing was changed. The page was open for too long, or your session has ended since. (%(cause)s)",
        cause=translated(str(error.description)),
    )
    # Only forms of this site can be sent again: a form that another site forged would be accepted after one click.
    can_repeat = request.headers.get("Sec-Fetch-Site") == "same-origin"
    return _error_page(400, marked("The form was not accepted"), message, can_repeat=can_repeat, version=None)


def _api_key_error(error: APIKeyError) -> Response:
    if isinstance(error, ConfigurationError):
        raise error
    status, heading = _answer_to(error)
    message = described(error)
    if status == _UNAVAILABLE:
        state = current_application_state()
        event = replace(state.enforcement.context(), event="storage", outcome="failure", reason=message)
        state.audit.record(event)
        message = translated("Nothing was changed unless the page says so. Try again in a moment.")
    page = _error_page(status, heading, message)
    if status == _UNAVAILABLE:
        page.headers["Retry-After"] = _RETRY_AFTER
    return page


def _answer_to(error: APIKeyError) -> tuple[int, str]:
    for kind, status, heading in _MESSAGES:
        if isinstance(error, kind):
            return status, heading
    return _UNAVAILABLE, marked("The key cannot be read")


def _conflict(_: Conflict) -> Response:
    """Show what is stored now beside what was entered."""
    key_id = (request.view_args or {}).get("key_id", "")
    record = visit().keys.get(key_id)
    return _error_page(
        409,
        marked("Somebody else has changed this key"),
        translated("Nothing of what you sent was written. Compare, and send it again if it still holds."),
        record=record,
        stored=stored_values(record),
        last_event=_last_event(key_id) if visit().keys is visit().api_keys else None,
        can_repeat=True,
        version_field=VERSION,
        version=record.version,
    )


def _last_event(key_id: str) -> LifecycleEvent | None:
    history = visit().state.backend.history
    if history is None:
        return None
    found = history.events(EventFilter(key_id=key_id), after=None, limit=1, newest_first=True)
    return found[0] if found else None
