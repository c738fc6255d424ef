"""HTML usage report: one self-contained file that needs no network."""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from itertools import islice
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flask_apikey.app_state import ApplicationState
from flask_apikey.core.errors import KeyNotFound
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.model.validation import checked_moment
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import EPOCH, in_words
from flask_apikey.core.usage.last_use import KeyLastUse, with_last_uses
from flask_apikey.core.usage.reports import UsageBy, UsageCount, UsageReport, usage_storage
from flask_apikey.pages.chart import HEIGHT, bar_chart

DEFAULT_DAYS = 30

MAX_KEYS = 50_000
"""Maximum number of keys searched for unused ones."""

_MAX_RANKED = 25
_MAX_LISTED = 25
_MAX_LABEL_LENGTH = 500


def usage_page(
    state: ApplicationState,
    *,
    key_id: str | None = None,
    owner: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> str:
    """Render usage as an HTML document. The period is the last 30 days by default."""
    now = state.clock()
    until = None if until is None else checked_moment(until, "until")
    storage = usage_storage(state.backend)
    if since is None:
        last = max(until or now, EPOCH + timedelta(days=DEFAULT_DAYS)) - timedelta.resolution
        since = last.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DEFAULT_DAYS - 1)

    def report(by: UsageBy) -> UsageReport:
        return state.usage_reports.report(key_id=key_id, owner=owner, since=since, until=until, by=by)

    days = report(UsageBy.DAY)
    return _ENVIRONMENT.get_template("usage_page.html").render(
        title=_title(state, key_id, owner),
        report=days,
        until=days.until or now,
        chart=bar_chart(days.rows) if days.total else None,
        chart_height=HEIGHT,
        endpoints=_Ranking.of(report(UsageBy.ENDPOINT).rows),
        statuses=_Ranking.of(report(UsageBy.STATUS).rows),
        refusals=_Ranking.of(days.refusals),
        keys=_Ranking.of(report(UsageBy.KEY).rows),
        owners=_Ranking.of(report(UsageBy.OWNER).rows) if key_id is None and owner is None else None,
        name_of=partial(_name_of, state),
        lists=_KeyLists.read(state, storage, owner) if key_id is None else None,
        is_counting=state.settings.usage != "off",
        max_listed=_MAX_LISTED,
        max_keys=MAX_KEYS,
        now=now,
        style=Markup(_STYLE),  # noqa: S704  # a file of this package, not user input
        style_hash=base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode(),
        version=version("flask-apikey-auth"),
    )


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The largest counts, and the sum of the others."""

    rows: tuple[UsageCount, ...]
    max_count: int
    others: int
    others_count: int

    @classmethod
    def of(cls, rows: tuple[UsageCount, ...]) -> "_Ranking":
        others = rows[_MAX_RANKED:]
        max_count = rows[0].count if rows else 0
        return cls(rows[:_MAX_RANKED], max_count, len(others), sum(count for _, count in others))


@dataclass(frozen=True, slots=True)
class _KeyLists:
    """Keys that need attention, each with its last use."""

    expiring: list[tuple[APIKey, KeyLastUse]]
    expiring_within: timedelta
    never_used: list[tuple[APIKey, KeyLastUse]]
    is_complete: bool

    @classmethod
    def read(cls, state: ApplicationState, storage: UsageStore, owner: str | None) -> "_KeyLists":
        notice = state.settings.expiry_notice
        ending = state.services.finder.list(owner=owner, expiring_within=notice) if notice else ()
        expiring = sorted(with_last_uses(storage, ending), key=lambda key: key[0].expires_at or state.clock())
        active = state.services.finder.list(owner=owner, status=Status.ACTIVE)
        searched = with_last_uses(storage, islice(active, MAX_KEYS))
        never_used = [(record, last_use) for record, last_use in searched if last_use.latest is None]
        return cls(expiring, notice, never_used, is_complete=next(active, None) is None)


def _title(state: ApplicationState, key_id: str | None, owner: str | None) -> str:
    if key_id is not None:
        return f"{_name_of(state, key_id)} ({key_id})"
    return "All keys" if owner is None else f"Keys of {owner}"


def _name_of(state: ApplicationState, key_id: str) -> str:
    try:
        return state.services.lifecycle.get(key_id).name
    except KeyNotFound:
        return "removed"


def _visible(value: Any) -> str:
    return sanitized(str(value), _MAX_LABEL_LENGTH)


def _breakable(rule: str) -> Markup:
    """Allow line breaks behind the slashes of a URL rule."""
    return Markup("/<wbr>").join(rule.split("/"))


_STYLE = files("flask_apikey.pages").joinpath("static").joinpath("report.css").read_text(encoding="utf-8")
_ENVIRONMENT = Environment(
    loader=PackageLoader("flask_apikey", "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["visible"] = _visible
_ENVIRONMENT.filters["breakable"] = _breakable
_ENVIRONMENT.filters["number"] = "{:,}".format
_ENVIRONMENT.filters["in_words"] = in_words
_ENVIRONMENT.filters["minute"] = "{:%Y-%m-%d %H:%M}".format
