"""Pages of a listing, newest first, with links to the newer and the older page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from flask import Response, make_response, redirect, request, url_for

from flask_apikey.core.text import key_id_in

PAGE_SIZE = 50


class Listed(Protocol):
    """Row with a position in a listing."""

    @property
    def cursor(self) -> str:
        """Position of the row."""


Row = TypeVar("Row", bound=Listed)

Fetch = Callable[[str | None, bool, int], Sequence[Row]]
"""Returns rows after a cursor, newest first or oldest first, at most this many."""


@dataclass(frozen=True, slots=True)
class ListingPage(Generic[Row]):
    """Page of a listing.

    Attributes:
        rows: The rows, newest first.
        previous: URL of the page with newer rows; None if there are none.
        next: URL of the page with older rows; None if there are none.
    """

    rows: Sequence[Row]
    previous: str | None
    next: str | None


def listing_page(fetch: Fetch[Row], size: int = PAGE_SIZE) -> ListingPage[Row]:
    """Return the page that the arguments ``after`` or ``before`` of the URL name."""
    after, before = (request.args.get(name) or None for name in ("after", "before"))
    if before is None:
        rows = list(fetch(after, True, size + 1))  # noqa: FBT003  # a protocol has no better form for a callable
        has_newer, has_older = after is not None, len(rows) > size
        rows = rows[:size]
    else:
        rows = list(fetch(before, False, size + 1))  # noqa: FBT003  # as above
        has_newer, has_older = len(rows) > size, True
        rows = rows[:size][::-1]
    return ListingPage(
        rows,
        _url(before=rows[0].cursor) if rows and has_newer else None,
        _url(after=rows[-1].cursor) if rows and has_older else None,
    )


def with_filters(names: Iterable[str]) -> Response:
    """Redirect to the listing with the filters of a form. A whole key that was pasted becomes its id.

    Filters are sent as a form first, because the secret of a key must not get into a URL.
    """
    values = {name: request.form.get(name, "").strip() for name in names}
    query: dict[str, Any] = {name: key_id_in(value) or value for name, value in values.items() if value}
    return make_response(redirect(url_for(request.endpoint or "", **query), 303))


def _url(**cursor: str) -> str:
    # Names with an underscore are arguments of url_for().
    kept = {name: value for name, value in request.args.items() if value and not name.startswith("_")}
    values: dict[str, Any] = {**kept, "after": None, "before": None, **(request.view_args or {}), **cursor}
    return url_for(request.endpoint or "", **values)
