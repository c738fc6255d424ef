"""The overview."""

from datetime import timedelta
from typing import Any

from flask import Response

from flask_apikey.core.model.keys import Status
from flask_apikey.core.rotation.status import RotationStatus
from flask_apikey.core.usage.last_use import with_last_uses
from flask_apikey.core.usage.reports import WouldRefuseReport
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.operator.keys import last_uses, usage_of

_EXPIRING = timedelta(days=14)
_UNUSED = timedelta(days=90)
_WOULD_REFUSE = timedelta(days=7)
# All keys are counted, so a longer one takes longer.
_PERIOD = "7d"
_SHOWN = 10
_SEARCHED = 200


def show_overview() -> Response:
    """Show what needs attention."""
    current = visit()
    expiring = list(current.api_keys.list(expiring_within=_EXPIRING, limit=_SHOWN + 1))
    expiring.sort(key=lambda key: (key.expires_at or key.created_at, key.id))
    return render(
        "operator/overview.html",
        expiring=expiring[:_SHOWN],
        has_more_expiring=len(expiring) > _SHOWN,
        expiring_within=_EXPIRING,
        unused=_unused(),
        unused_for=_UNUSED,
        searched=_SEARCHED,
        last_uses=last_uses(expiring),
        rotation=_rotation(),
        would_refuse=_would_refuse(),
        shown=_SHOWN,
        **usage_of(None, default_period=_PERIOD),
    )


def _would_refuse() -> WouldRefuseReport | None:
    """Return the requests that report mode let pass in the last 7 days, or None if there were none."""
    state = visit().state
    if state.backend.usage is None:
        return None
    report = state.usage_reports.would_refuse(since=state.clock() - _WOULD_REFUSE)
    return report if report.total else None


def _unused() -> list[Any] | None:
    """Return the oldest keys that were not used for long. Only so many are searched."""
    current = visit()
    storage, now = current.state.backend.usage, current.state.clock()
    if storage is None or current.state.settings.usage == "off":
        return None
    oldest = current.api_keys.list(status=Status.ACTIVE, limit=_SEARCHED)
    return [
        (record, last_use)
        for record, last_use in with_last_uses(storage, oldest)
        if (last_use.latest.at if last_use.latest else record.created_at) < now - _UNUSED
    ][:_SHOWN]


def _rotation() -> RotationStatus | None:
    """Return the status of a rotation that may be under way. Else nothing is counted: that takes a scan of all keys."""
    state = visit().state
    if state.backend.rotation is None:
        return None
    rotation = state.backend.rotation.get()
    is_at_rest = (rotation is None or rotation.finished_at is not None) and len(state.ring.fingerprints) == 1
    return None if is_at_rest else state.rotation.status()
