"""The listing of events."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from flask import Response, request

from flask_apikey.core.errors import InvalidValue, KeyNotFound
from flask_apikey.core.model.history import EventPosition, LifecycleEvent
from flask_apikey.core.model.validation import (
    checked_actor,
    checked_duration,
    checked_id,
    checked_moment,
    checked_owner,
)
from flask_apikey.core.storage.contract import Backend, EventFilter, HistoryStore, KeyFilter
from flask_apikey.pages.blueprint import render, visit
from flask_apikey.pages.listing import Fetch, ListingPage, listing_page, with_filters

CHOICES = tuple(field.name for field in fields(EventFilter))


def list_events() -> Response:
    """Show events, newest first."""
    if request.method == "POST":
        return with_filters(CHOICES)
    page: ListingPage[LifecycleEvent] = ListingPage((), None, None)
    message = ""
    backend = visit().state.backend
    history = backend.history
    if history is not None:
        try:
            page = listing_page(events_after(history, chosen_events()))
        except (InvalidValue, KeyNotFound) as exc:
            message = str(exc)
    return render(
        "operator/audit.html",
        400 if message else 200,
        page=page,
        names=_names(backend, page.rows),
        message=message,
        has_history=history is not None,
        chosen={name: value for name in CHOICES if (value := request.args.get(name, "").strip())},
    )


def _names(backend: Backend, events: Sequence[LifecycleEvent]) -> dict[str, str]:
    """Read the names of the keys of events in one statement. Keys that were removed have none."""
    ids = {event.key_id for event in events}
    found = backend.find(KeyFilter(ids=ids), after=None, limit=len(ids) + 1) if ids else ()
    return {key.record.id: key.record.name for key in found}


def events_after(history: HistoryStore, event_filter: EventFilter) -> Fetch[LifecycleEvent]:
    """Return a function that reads the events that match a filter."""

    def fetch(cursor: str | None, newest_first: bool, limit: int) -> Sequence[LifecycleEvent]:  # noqa: FBT001  # `Fetch`
        after = None if cursor is None else EventPosition.parse(cursor)
        return history.events(event_filter, after=after, limit=limit, newest_first=newest_first)

    return fetch


def chosen_events() -> EventFilter:
    """Return the filter in the URL."""
    checks: dict[str, Any] = {"key_id": checked_id, "owner": checked_owner, "actor": checked_actor, "since": _since}
    values = {name: request.args.get(name, "").strip() for name in CHOICES}
    return EventFilter(**{name: checks[name](value) for name, value in values.items() if value})


def _since(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return visit().state.clock() - checked_duration(text, "since")
        except InvalidValue:
            raise InvalidValue("since must be a duration such as 24h, or a date such as 2027-01-31") from None
    return checked_moment(moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc), "since")
