"""The last refusals of a key, and the scopes that were missing."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.usage.reports import RefusalCount
from flask_apikey.pages.blueprint import visit
from flask_apikey.pages.scopes import missing_scopes, requirements

_SHOWN = 10
_SCOPE_REFUSED = Verdict.INSUFFICIENT_SCOPE.name.lower()


class LastRefusal(NamedTuple):
    """Refused attempts of an hour.

    Attributes:
        row: Their number, with the hour, method, URL rule and reason.
        missing: The scopes that the key lacks now; None unless a scope was the reason.
    """

    row: RefusalCount
    missing: Sequence[str] | None


def last_refusals(record: APIKey, owner: str | None, since: datetime, until: datetime) -> list[LastRefusal]:
    """Return the last refusals of a key, newest first. With an owner, those while the key was theirs."""
    reports = visit().state.usage_reports
    counts = reports.last_refusals(record.id, owner=owner, since=since, until=until, limit=_SHOWN)
    required = requirements() if any(each.reason == _SCOPE_REFUSED for each in counts) else {}
    found = []
    for each in counts:
        requirement = required.get((each.endpoint, each.method.replace("HEAD", "GET")))
        is_about_scopes = each.reason == _SCOPE_REFUSED
        missing = missing_scopes(record, requirement) if is_about_scopes and requirement else []
        found.append(LastRefusal(each, missing if is_about_scopes else None))
    return found
