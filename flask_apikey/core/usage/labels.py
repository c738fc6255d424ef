"""Labels of endpoints and methods. An endpoint is the matched URL rule, never the path that a client chose."""

from collections import Counter
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from flask_apikey.core.model.usage import (
    MAX_ENDPOINT_BYTES,
    MAX_ENDPOINT_LENGTH,
    MAX_METHOD_LENGTH,
    UsageLabel,
    UsageRow,
)
from flask_apikey.core.text import sanitized

UNMATCHED = "(unmatched)"
"""Label of requests that match no URL rule."""

OTHER = "(other)"
"""Label of endpoints beyond ``APIKEY_MAX_ENDPOINTS_PER_KEY``, and of non-standard methods."""

UNSTORABLE = "(unstorable)"
"""Label of endpoints and owners with characters that the database lacks."""

STANDARD_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""Methods of RFC 9110, section 9, and RFC 5789."""


class EndpointLabels(dict[str | None, str | None]):
    """Cache of labels by URL rule. The rule None means no match.

    The label None means not counted: a pattern in `ignored` matches. In patterns, ``*`` matches any text.
    """

    def __init__(self, max_length: int = MAX_ENDPOINT_LENGTH, ignored: Iterable[str] = ()) -> None:
        super().__init__()
        self._max_length = max_length
        self._ignored = tuple(ignored)

    def __missing__(self, rule: str | None) -> str | None:
        name = UNMATCHED if rule is None else rule
        is_ignored = any(fnmatchcase(name, pattern) for pattern in self._ignored)
        # Bounded by the number of rules of the application.
        label = self[rule] = None if is_ignored else _within_bytes(sanitized(name, self._max_length))
        return label


def patterns_without_rule(patterns: Iterable[str], rules: Collection[str]) -> list[str]:
    """Return the patterns that match none of the URL rules, nor requests without one."""
    names = (UNMATCHED, *rules)
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def _within_bytes(label: str) -> str:
    return label.encode()[:MAX_ENDPOINT_BYTES].decode(errors="ignore").rstrip()


def storable(rows: Iterable[UsageRow], *, keeps_owner: bool) -> list[UsageRow]:
    """Relabel counts that the database refused, and add them up."""
    counts: Counter[UsageLabel] = Counter()
    for row in rows:
        label = row.label._replace(endpoint=UNSTORABLE)
        if not keeps_owner:
            label = label._replace(method=OTHER, owner=UNSTORABLE)
        counts[label] += row.count
    return [UsageRow(label, count) for label, count in sorted(counts.items())]


def method_label(method: str, declared: Collection[str] | None) -> str:
    """Return the label of a non-standard method: itself if the URL rule declares it, else `OTHER`.

    A rule that declares no methods accepts any that clients invent.
    """
    return sanitized(method, MAX_METHOD_LENGTH) if declared and method in declared else OTHER
