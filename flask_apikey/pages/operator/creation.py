"""Creating a key. The form names its id, so that sending it twice makes one key."""

from dataclasses import replace

from flask import Response, current_app, request

from flask_apikey.core.errors import AlreadyExists, InvalidValue
from flask_apikey.pages.blueprint import Pages, render, visit
from flask_apikey.pages.forms import (
    ALLOWED_IPS,
    DENIED_IPS,
    LIFETIME,
    METADATA,
    NAME,
    OWNER,
    QUOTA,
    RATE,
    REASON,
    SCOPES,
    Field,
    Form,
    key_id_of,
    new_form_id,
    plan_field,
)
from flask_apikey.pages.scopes import asked_scopes


def key_fields(last: Field, present_plan: str | None = None) -> list[Field]:
    """Return the fields of a key, with the given one for its expiry."""
    plan = plan_field({*visit().state.settings.plans, *([present_plan] if present_plan else [])})
    scopes = replace(SCOPES, choices=[(scope, scope) for scope in _known_scopes()])
    return [NAME, OWNER, scopes, ALLOWED_IPS, DENIED_IPS, plan, RATE, QUOTA, METADATA, last, REASON]


def _known_scopes() -> list[str]:
    """Return the scopes that views ask for, and those that customers may give to their keys."""
    given = (pages.given_scopes for pages in current_app.blueprints.values() if isinstance(pages, Pages))
    return sorted(asked_scopes().union(*given))


def create_key() -> Response:
    """Show the form of a new key, and create it."""
    fields = key_fields(LIFETIME)
    if request.method == "GET":
        return render("operator/create.html", form=Form(fields, form_id=new_form_id()))
    form = Form.entered(fields)
    form.version = None
    arguments = form.arguments()
    if not form.has_errors:
        try:
            key_id = key_id_of(form.form_id)
            issued = visit().state.services.lifecycle.create(key_id=key_id, **arguments)
            return render("operator/issued.html", issued=issued, record=issued.record)
        except AlreadyExists:
            return render("operator/sent_already.html", 409, key_id=key_id)
        except InvalidValue as exc:
            form.refuse(exc)
    return render("operator/create.html", 400, form=form)
