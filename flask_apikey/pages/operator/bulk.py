"""Suspending, resuming and revoking all keys of an owner, after a preview."""

from collections.abc import Callable
from typing import Any

from flask import Response, request

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.keys.bulk import BulkRevocation
from flask_apikey.core.keys.suspension import BulkSuspension
from flask_apikey.core.model.keys import Status
from flask_apikey.extension import APIKeys
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.forms import REASON, Form
from flask_apikey.pages.translation import marked, translated

_SHOWN = 10
_ACTIONS: dict[str, tuple[str, Callable[..., Any], tuple[Status, ...]]] = {
    "suspend": (marked("Suspend all active keys"), APIKeys.suspend_many, (Status.ACTIVE,)),
    "resume": (marked("Resume all suspended keys"), APIKeys.resume_many, (Status.SUSPENDED,)),
    "revoke": (marked("Revoke all keys for good"), APIKeys.revoke_many, (Status.ACTIVE, Status.SUSPENDED)),
}


def change_owner() -> Response:
    """Show what a change of all keys of an owner would change, and make it."""
    owner, action = (request.values.get(name, "").strip() for name in ("owner", "action"))
    context: dict[str, Any] = {"actions": {name: label for name, (label, _, _) in _ACTIONS.items()}}
    if not owner or action not in _ACTIONS:
        return render("operator/owner.html", owner=owner, action=None, **context)
    try:
        return _change(owner, action, context)
    except InvalidValue as exc:
        return render("operator/owner.html", 400, owner=owner, action=None, message=str(exc), **context)


def _change(owner: str, action: str, context: dict[str, Any]) -> Response:
    api_keys = visit().api_keys
    _, change, statuses = _ACTIONS[action]
    context = {**context, "owner": owner, "action": action}
    counts = {status: api_keys.count(owner=owner, status=status) for status in statuses}
    found = sum(counts.values())
    form = Form([REASON])
    if request.method == "POST":
        form = Form.entered([REASON])
        # The count takes the place of the version of a single key.
        if form.version == found:
            done: BulkSuspension | BulkRevocation = change(api_keys, owner=owner, **form.arguments())
            changed = done.changed if isinstance(done, BulkSuspension) else done.total
            return render("operator/owner.html", done=changed, failed=done.failed, **context)
        form.error = translated("The number of keys has changed since. Look again.")
    form.version = found
    shown = [key for status in statuses for key in api_keys.list(owner=owner, status=status, limit=_SHOWN)][:_SHOWN]
    return render("operator/owner.html", 409 if form.error else 200, found=found, shown=shown, form=form, **context)
