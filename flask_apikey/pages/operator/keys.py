"""The listing of keys, and the page of one key."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from flask import Response, request

from flask_apikey.core.errors import APIKeyError, ConfigurationError, InvalidValue, described
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.storage.contract import EventFilter, UsageStore
from flask_apikey.core.text import key_id_in
from flask_apikey.core.usage.last_use import KeyLastUse, last_uses_of
from flask_apikey.core.usage.reports import UsageBy
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.chart import HEIGHT, bar_chart
from flask_apikey.pages.listing import ListingPage, listing_page, with_filters
from flask_apikey.pages.operator.audit import events_after
from flask_apikey.pages.operator.refusals import last_refusals
from flask_apikey.pages.translation import marked

FILTERS = ("search", "owner", "status", "expiring_within", "unused_for", "adopted")
_ADOPTED = {"yes": True, "no": False}
PERIODS = {
    "today": (0, 0, marked("Today")),
    "yesterday": (1, 1, marked("Yesterday")),
    "7d": (6, 0, marked("7 days")),
    "30d": (29, 0, marked("30 days")),
    "90d": (89, 0, marked("90 days")),
}
"""First and last day, as days before today, and label."""


def list_keys() -> Response:
    """Show keys, newest first."""
    if request.method == "POST":
        return with_filters(FILTERS)
    page: ListingPage[APIKey] = ListingPage((), None, None)
    message = ""
    try:
        page = listing_page(_fetch)
    except (InvalidValue, ConfigurationError) as exc:
        message = str(exc)
    return render(
        "operator/keys.html",
        400 if message else 200,
        page=page,
        last_uses=last_uses(page.rows),
        message=message,
        statuses=[status.value for status in Status],
        chosen=chosen_filters(),
    )


def chosen_filters() -> dict[str, str]:
    """Return the filters in the URL."""
    given = {name: value for name in FILTERS if (value := request.args.get(name, "").strip())}
    return {name: key_id_in(value) or value for name, value in given.items()}


def list_arguments() -> dict[str, Any]:
    """Return the filters in the URL, as arguments of `APIKeys.list`."""
    arguments: dict[str, Any] = {**chosen_filters()}
    if "adopted" in arguments:
        if arguments["adopted"] not in _ADOPTED:
            raise InvalidValue(f"adopted must be one of {', '.join(_ADOPTED)}")
        arguments["adopted"] = _ADOPTED[arguments["adopted"]]
    return arguments


def _fetch(cursor: str | None, newest_first: bool, limit: int) -> Sequence[APIKey]:  # noqa: FBT001  # see `Fetch`
    keys = visit().api_keys.list(**list_arguments(), newest_first=newest_first, after=cursor, limit=limit)
    return list(keys)


def last_uses(records: Iterable[APIKey]) -> Mapping[str, KeyLastUse]:
    """Read the last uses of keys in one statement. Empty if the storage keeps no usage."""
    storage = usage_storage_now()
    return {} if storage is None else last_uses_of(storage, records)


def usage_storage_now() -> UsageStore | None:
    """Return the usage storage with all that this process has counted. None if the storage keeps no usage."""
    state = visit().state
    if state.usage is not None:
        state.usage.flush()
    return state.backend.usage


def show_key(key_id: str) -> Response:
    """Show one key, what it did and what happened to it."""
    current = visit()
    record = current.api_keys.get(key_id)
    limits, limits_message = _limits(key_id)
    history = current.state.backend.history
    events = None if history is None else listing_page(events_after(history, EventFilter(key_id=key_id)), 20)
    return render(
        "operator/key.html",
        record=record,
        last_use=last_uses([record]).get(key_id),
        limits=limits,
        limits_message=limits_message,
        events=events,
        **usage_of(record),
    )


def usage_of(record: APIKey | None, owner: str | None = None, default_period: str = "30d") -> dict[str, Any]:
    """Read the usage of a key, or of all, in the period that the URL names. With an owner, while the key was theirs."""
    state = visit().state
    if state.backend.usage is None:
        return {"usage": None}
    period = request.args.get("period", default_period)
    if period not in PERIODS:
        period = default_period
    since, until = _days(state.clock(), *PERIODS[period][:2])
    reports = state.usage_reports
    key_id = None if record is None else record.id
    days = reports.report(key_id=key_id, owner=owner, since=since, until=until, by=UsageBy.DAY)
    return {
        "usage": days,
        "endpoints": reports.endpoints(key_id=key_id, owner=owner, since=since, until=until),
        "last_refusals": last_refusals(record, owner, since, until) if record and days.refusals else (),
        "chart": bar_chart(days.rows) if days.total else None,
        "chart_height": HEIGHT,
        "period": period,
        "periods": {name: label for name, (_, _, label) in PERIODS.items()},
        "since": since,
        "until": until,
    }


def _days(now: datetime, first: int, last: int) -> tuple[datetime, datetime]:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=first), today - timedelta(days=last - 1)


def _limits(key_id: str) -> tuple[KeyLimits | None, str]:
    try:
        return visit().api_keys.limits(key_id), ""
    except APIKeyError as exc:
        # Such as a storage of rates that is down: everything else can be shown.
        return None, described(exc)
