"""Changes of one key. Each holds only for the version that the page showed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, make_response, redirect, request, url_for

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keys import APIKey, IssuedKey
from flask_apikey.extension import APIKeys
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.forms import EXPIRES_AT, GRACE, REASON, Field, Form, filled, stored_values
from flask_apikey.pages.operator.creation import key_fields
from flask_apikey.pages.operator.keys import last_uses
from flask_apikey.pages.translation import marked


@dataclass(frozen=True, slots=True)
class Action:
    """Change of a key that has a page of its own.

    Attributes:
        heading: Heading of the page.
        text: Explanation of what follows.
        change: Method that makes the change.
        fields: Fields of its form.
        is_final: True if it cannot be undone.
    """

    heading: str
    text: str
    change: Callable[..., Any]
    fields: tuple[Field, ...] = (REASON,)
    is_final: bool = False


ACTIONS: Mapping[str, Action] = {
    "suspend": Action(
        marked("Suspend"), marked("The key is refused until somebody resumes it."), APIKeys.suspend
    ),
    "resume": Action(marked("Resume"), marked("The key is accepted again."), APIKeys.resume),
    "roll": Action(
        marked("Replace secret"),
        marked("The key gets a new secret. The current one goes on working during the grace period."),
        APIKeys.roll,
        (GRACE, REASON),
    ),
    "finish": Action(
        marked("End previous secrets"),
        marked("Only the current secret works afterwards."),
        APIKeys.finish_roll,
        is_final=True,
    ),
    "revoke": Action(
        marked("Revoke"), marked("The key is refused for good. This cannot be undone."), APIKeys.revoke, is_final=True
    ),
}  # fmt: skip


def change_key(key_id: str, action: str) -> Response:
    """Show the form of a change, and make the change."""
    chosen = ACTIONS[action]
    if request.method == "GET":
        return _form(action, visit().api_keys.get(key_id), chosen.fields)
    form = Form.entered(chosen.fields)
    try:
        done = chosen.change(visit().api_keys, key_id, expected_version=form.version, **form.arguments())
    except InvalidValue as exc:
        form.refuse(exc)
        return _form(action, visit().api_keys.get(key_id), form)
    if isinstance(done, IssuedKey):
        return render("operator/issued.html", issued=done, record=done.record)
    return _to_key(key_id, action)


def edit_key(key_id: str) -> Response:
    """Show the fields of a key, and store them."""
    record = visit().api_keys.get(key_id)
    fields = key_fields(EXPIRES_AT, record.plan)
    if request.method == "GET":
        return render("operator/edit.html", record=record, form=filled(fields, record))
    form = Form.entered(fields)
    stored = stored_values(record)
    # Other fields stay as they are stored, to the microsecond, also if they could not be entered any more.
    changed = [field.name for field in form.fields if field.value.strip() != stored.get(field.name, "")]
    arguments = {name: value for name, value in form.arguments().items() if name in changed}
    if not form.has_errors:
        try:
            visit().api_keys.update(key_id, expected_version=form.version, **arguments)
            return _to_key(key_id, "edit")
        except InvalidValue as exc:
            form.refuse(exc)
    return render("operator/edit.html", 400, record=record, form=form)


def _form(action: str, record: APIKey, form: Form | tuple[Field, ...]) -> Response:
    status = 200
    if isinstance(form, Form):
        status = 400
    else:
        form = Form(list(form), record.version)
    last_use = last_uses([record]).get(record.id)
    return render("operator/change.html", status, action=ACTIONS[action], record=record, form=form, last_use=last_use)


def _to_key(key_id: str, done: str) -> Response:
    return make_response(redirect(url_for(".show_key", key_id=key_id, done=done), 303))
