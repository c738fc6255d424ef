"""The keys of one customer: their list, one key, and its changes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Response, make_response, redirect, request, url_for

from flask_apikey.core.errors import APIKeyError, InvalidValue, StorageError
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.model.keys import APIKey, IssuedKey
from flask_apikey.owned_keys import OwnedKeys
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.forms import GRACE, REASON, Field, Form
from flask_apikey.pages.listing import listing_page
from flask_apikey.pages.operator.changes import ACTIONS
from flask_apikey.pages.operator.keys import last_uses, usage_of

_CHANGES: Mapping[str, tuple[Callable[..., Any], tuple[Field, ...]]] = {
    "roll": (OwnedKeys.roll, (GRACE, REASON)),
    "finish": (OwnedKeys.finish_roll, (REASON,)),
    "revoke": (OwnedKeys.revoke, (REASON,)),
}


def list_keys() -> Response:
    """Show the keys, newest first."""
    page = listing_page(_fetch)
    return render("portal/keys.html", page=page, last_uses=last_uses(page.rows))


def show_key(key_id: str) -> Response:
    """Show one key, what is left of its limits, and its usage."""
    record = visit().keys.get(key_id)
    return render(
        "portal/key.html",
        record=record,
        last_use=last_uses([record]).get(key_id),
        limits=_limits(key_id),
        **usage_of(record, record.owner),
    )


def change_key(key_id: str, action: str) -> Response:
    """Show the form of a change, and make the change."""
    change, fields = _CHANGES[action]
    record = visit().keys.get(key_id)
    form, status = Form(list(fields), record.version), 200
    if request.method == "POST":
        form, status = Form.entered(fields), 400
        try:
            done = change(visit().keys, key_id, expected_version=form.version, **form.arguments())
        except InvalidValue as exc:
            form.refuse(exc)
        else:
            if isinstance(done, IssuedKey):
                return render("operator/issued.html", issued=done, record=done.record)
            return make_response(redirect(url_for(".show_key", key_id=key_id, done=action), 303))
    last_use = last_uses([record]).get(key_id)
    return render("operator/change.html", status, action=ACTIONS[action], record=record, form=form, last_use=last_use)


def _fetch(cursor: str | None, newest_first: bool, limit: int) -> Sequence[APIKey]:  # noqa: FBT001  # see `Fetch`
    return list(visit().keys.list(newest_first=newest_first, after=cursor, limit=limit))


def _limits(key_id: str) -> KeyLimits | None:
    """Return the limits of a key, or None while its plan cannot be read."""
    try:
        return visit().keys.limits(key_id)
    except StorageError:
        raise
    except APIKeyError:
        return None
